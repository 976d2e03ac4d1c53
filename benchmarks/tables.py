"""The tables of RESULTS.md, from the JSON files in results/: no figure there is written by hand.

    python benchmarks/tables.py          # writes benchmarks/RESULTS.md
    python benchmarks/tables.py --check  # fails where it is not what the files say

A file ``results/NAME.json`` or ``results/NAME-PART.json`` is what ``benchmarks/NAME.py`` wrote
(``harness.keep``): command, date, seed, machine with versions, and results, a list of rows or an object
with ``rows``. Where ``by`` in it names columns, rows that agree in those are runs with different seeds;
their numbers become mean ± standard deviation, with the number of runs.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NEEDED = ("command", "date", "seed", "machine", "results")

Row = Mapping[str, Any]


def document(folder: Path, scripts: Path = HERE) -> str:
    """Return RESULTS.md as text.

    Parameters
    ----------
    folder : Path
        Of the JSON files, one section each, by name.
    scripts : Path
        Of the benchmarks; the first line of each one's documentation introduces its section.

    Raises
    ------
    SystemExit
        When a file lacks what makes its figures repeatable.
    """
    parts = [
        "# Results",
        "Written by `python benchmarks/tables.py` from the files in [results/](results); change those, not this.",
    ]
    for path in sorted(folder.glob("*.json")):
        record = read(path)
        parts += [
            f"## {path.stem}",
            _introduction(scripts / f"{path.stem.partition('-')[0]}.py"),
            _made_by(record),
        ]
        parts.append(markdown(spread(rows_of(record), record.get("by", []))))
    return "\n\n".join(part for part in parts if part) + "\n"


def read(path: Path) -> dict[str, Any]:
    """Return a results file; SystemExit names what is missing in it."""
    record = json.loads(path.read_text())
    missing = [key for key in NEEDED if key not in record]
    if missing or not rows_of(record):
        raise SystemExit(
            f"{path}: expected {', '.join(missing) or 'at least one row'}, found none; run it again"
        )
    return dict(record)


def rows_of(record: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a results file, which are its results or ``rows`` in them."""
    results = record.get("results")
    rows = results.get("rows") if isinstance(results, dict) else results
    return rows if isinstance(rows, list) else []


def spread(rows: Sequence[Row], by: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row for each case, its numbers as mean ± standard deviation over the runs; all rows without ``by``."""
    if not by:
        return [dict(row) for row in rows]
    cases: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        cases.setdefault(tuple(row.get(key) for key in by), []).append(row)
    made = []
    for case, runs in cases.items():
        names = [name for name in dict.fromkeys(k for run in runs for k in run) if name not in (*by, "seed")]
        made.append(
            dict(zip(by, case, strict=True))
            | {name: _together([run[name] for run in runs if run.get(name) is not None]) for name in names}
            | {"runs": len(runs)}
        )
    return made


def _together(values: list[Any]) -> Any:
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return ", ".join(dict.fromkeys(str(value) for value in values))
    if len(values) < 2:
        return values[0] if values else None
    return f"{statistics.fmean(values):.4g} ± {statistics.stdev(values):.2g}"


def markdown(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table, columns in the order in which they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([_shown(row.get(c)) for c in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _introduction(script: Path) -> str:
    text = ast.get_docstring(ast.parse(script.read_text())) if script.exists() else None
    return text.split("\n\n")[0].replace("\n", " ") if text else ""


def _made_by(record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    parts = [
        f"{machine.get('cpu')}, {machine.get('cores')} cores",
        f"GPU {machine['gpu']}" if machine.get("gpu") else "no GPU",
    ]
    parts += [f"Python {machine.get('python')}"] + [
        f"{k} {v}" for k, v in machine.get("versions", {}).items()
    ]
    return f"`{record['command']}`, {record['date']}, seed {record['seed']}. {'; '.join(parts)}."


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--check", action="store_true", help="write nothing; fail where the file differs")
    check = arguments.parse_args().check
    target, text = HERE / "RESULTS.md", document(HERE / "results")
    if not check:
        target.write_text(text)
    elif not target.exists() or target.read_text() != text:
        sys.exit(f"{target}: differs from what the files in results/ say; run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
