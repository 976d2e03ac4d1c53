"""Judges the memory that a run over the corpus of hostile bundles took.

    python run_corpus.py CORPUS --loader tests.torch.bundle.corpus_hooks:load --json RESULTS
    python benchmarks/corpus_memory.py RESULTS

Every case may grow the process by 64 MiB and four times its file. Prints the largest; exit status 1 if any
case took more, or was not measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ALLOWED_MIB = 64


def size_of(path: Path) -> int:
    """Bytes of a bundle: a file, or a folder of files."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size if path.is_file() else 0


def judge(results: Iterable[Mapping[str, Any]]) -> tuple[list[str], str]:
    """The cases that took too much, as sentences, and a line on the largest of all."""
    bad, largest = [], (-1, "no case")
    for case in results:
        allowed = ALLOWED_MIB + 4 * size_of(Path(case["path"])) / (1 << 20)
        if "growth" not in case:
            bad.append(f"{case['name']}: not measured ({case['got']})")
            continue
        largest = max(largest, (case["growth"], case["name"]))
        if case["growth"] > allowed:
            bad.append(f"{case['name']}: grew by {case['growth']} MiB, {allowed:.0f} MiB are allowed")
    return bad, f"largest growth {largest[0]} MiB: {largest[1]}"


def main() -> None:
    from harness import keep, parser, table  # tests import this file alone

    made = parser(__doc__, shared=False)
    made.add_argument("results", type=Path)
    arguments = made.parse_args()
    results = json.loads(arguments.results.read_text())
    bad, line = judge(results)
    print("\n".join([*bad, line]))
    growth, name = max((case.get("growth", -1), case["name"]) for case in results)
    row = {
        "cases": len(results),
        "as expected": sum(not case["bad"] for case in results),
        "too much memory": len(bad),
        "largest growth (MiB)": growth,
        "by": name,
        "slowest (s)": max(case.get("s", 0.0) for case in results),
    }
    print(table([row]))
    print(keep("corpus_memory", arguments, {"rows": [row], "problems": bad}))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
