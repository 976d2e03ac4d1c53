"""Writes constraints.txt: the version of everything that the package and its tests have installed here.

    .venv/bin/python .ci/constraints.py

Only what ``ptychopinn[dev]`` depends on, directly or not, for this platform. Comments in the file are kept.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FILE = Path(__file__).resolve().parents[1] / "constraints.txt"
PROJECT = "ptychopinn"
EXTRAS = ("dev",)


def installed() -> dict[str, str]:
    """Version of each distribution that the project needs here, by canonical name."""
    found: dict[str, str] = {}
    todo: list[tuple[str, str]] = [(PROJECT, extra) for extra in ("", *EXTRAS)]
    seen = set(todo)
    while todo:
        name, extra = todo.pop()
        try:
            there = distribution(name)
        except PackageNotFoundError:
            continue  # an extra's, and not installed here
        found[name] = there.version.partition("+")[0]
        for text in there.requires or []:
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
                continue
            for more in ("", *wanted.extras):
                pair = (canonicalize_name(wanted.name), more)
                if pair not in seen:
                    seen.add(pair)
                    todo.append(pair)
    del found[PROJECT]
    return found


def main() -> None:
    notes: dict[str, list[str]] = {}
    above: list[str] = []
    for line in FILE.read_text().splitlines():
        if line.startswith("#"):
            above.append(line)
        elif line:
            notes[canonicalize_name(line.partition("==")[0])] = above
            above = []
    head = "# The versions that the tests ran with; `pip install -c constraints.txt .` takes them. By .ci/constraints.py."
    lines = [head]
    for name, version in sorted(installed().items()):
        lines += [note for note in notes.get(name, []) if note != head] + [f"{name}=={version}"]
    FILE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
