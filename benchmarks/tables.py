"""README.md of the benchmarks, from their documentation and the JSON files in results/: no figure is written by hand.

    python benchmarks/tables.py          # writes benchmarks/README.md
    python benchmarks/tables.py --check  # fails where it is not what the files say

A file ``results/NAME.json`` or ``results/NAME-PART.json`` is what ``benchmarks/NAME.py`` wrote (``harness.keep``):
command, date, seed, machine with versions, and results, a list of rows or an object with ``rows``. Where ``by`` in
it names columns, rows that agree in those are runs with different seeds; their numbers become mean ± standard
deviation, with the number of runs. ``pivot`` names three columns: one that goes down, one that goes across, and the
one that is shown.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_HEAD = """
# Benchmarks

Written by `python benchmarks/tables.py` from the documentation of the scripts and the files in [results/](results);
change those, not this. Each script prints a table and writes JSON (command, date, seed, machine, versions, results)
and a figure to `benchmark_results/`; JSON that is to be shown here is copied to `results/`. `--quick` runs each in
under two minutes, `--help` lists the rest. Scripts that need measured data take `--shared FOLDER`, a folder with
`data/`. What was tried on the way, and did not help, is in [NOTES.md](NOTES.md), and so are single runs from before
results were kept.
"""
NEEDED = ("command", "date", "seed", "machine", "results")

Row = Mapping[str, Any]


def document(folder: Path, scripts: Path = HERE) -> str:
    """Return README.md as text: a section for each benchmark, of its documentation and its results.

    Parameters
    ----------
    folder : Path
        Of the JSON files.
    scripts : Path
        Of the benchmarks. A picture of the same name in ``docs/images`` beside them is shown.

    Raises
    ------
    SystemExit
        When a file lacks what makes its figures repeatable, or is of no script.
    """
    files = sorted(folder.glob("*.json"))
    names = sorted(path.stem for path in scripts.glob("*.py") if "__main__" in path.read_text())
    lost = [path.name for path in files if _script_of(path) not in names]
    if lost:
        raise SystemExit(f"{folder}: {', '.join(lost)}: expected the name of a script in {scripts}")
    parts = [_HEAD.strip()]
    for name in names:
        if name == Path(__file__).stem:
            continue
        mine = [path for path in files if _script_of(path) == name]
        parts += [f"## {name}.py", _introduction(scripts / f"{name}.py")]
        parts += [part for path in mine for part in _shown_file(path)]
        pictures = [
            scripts.parent / "docs/images" / f"{stem}.png" for stem in (name, *(p.stem for p in mine)) if mine
        ]
        parts += [f"![{p.stem}](../docs/images/{p.name})" for p in dict.fromkeys(pictures) if p.exists()]
        if not mine:
            parts.append("No results are kept.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _script_of(path: Path) -> str:
    return path.stem.partition("-")[0]


def _shown_file(path: Path) -> list[str]:
    record = read(path)
    rows = spread(rows_of(record), record.get("by", []))
    pivot = record.get("pivot") or []
    title = f"### {path.stem}" if "-" in path.stem else ""
    return [title, _made_by(record), markdown(across(rows, *pivot) if pivot else rows)]


def across(rows: Sequence[Row], down: str, along: str, value: str) -> list[dict[str, Any]]:
    """Return one row for each ``down``, with the ``value`` of each ``along`` in a column of its own."""
    made: dict[Any, dict[str, Any]] = {}
    for row in rows:
        made.setdefault(row[down], {down: row[down]})[str(row[along])] = row.get(value)
    return list(made.values())


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
    text = ast.get_docstring(ast.parse(script.read_text())) or ""
    return "\n\n".join(map(_filled, text.replace("``", "`").split("\n\n")))


def _filled(paragraph: str) -> str:
    """A paragraph with lines that can be read; commands and tables stay as they are."""
    if paragraph.startswith((" ", "|")):
        return paragraph
    return textwrap.fill(paragraph, 118, break_long_words=False, break_on_hyphens=False)


def _made_by(record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    parts = [
        f"{machine.get('cpu')}, {machine.get('cores')} cores",
        f"GPU {machine['gpu']}" if machine.get("gpu") else "no GPU",
    ]
    parts += [f"Python {machine.get('python')}"] + [
        f"{k} {v}" for k, v in machine.get("versions", {}).items()
    ]
    return _filled(f"`{record['command']}`, {record['date']}, seed {record['seed']}. {'; '.join(parts)}.")


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--check", action="store_true", help="write nothing; fail where the file differs")
    check = arguments.parse_args().check
    target, text = HERE / "README.md", document(HERE / "results", HERE)
    if not check:
        target.write_text(text)
    elif not target.exists() or target.read_text() != text:
        sys.exit(f"{target}: differs from what the files in results/ say; run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
