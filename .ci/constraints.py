"""Writes constraints.txt: the version of everything that the package and its tests have installed here.

    .venv/bin/python .ci/constraints.py

Only what ``ptychopinn[dev]`` depends on, directly or not, for this platform. Comments in the file are kept.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "constraints.txt"
PROJECT = "ptychopinn"
EXTRAS = ("dev",)


def wanted_by(name: str, extra: str) -> list[Requirement]:
    """What a distribution depends on here, by itself (``extra`` empty) or with an extra."""
    if name == PROJECT:  # what is installed of it may be older than the file
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        texts = project["optional-dependencies"][extra] if extra else project["dependencies"]
    else:
        texts = distribution(name).requires or []
    found = [Requirement(text) for text in texts]
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": extra})]


def installed() -> dict[str, str]:
    """Version of each distribution that the project needs here, by canonical name."""
    found: dict[str, str] = {}
    todo: list[tuple[str, str]] = [(PROJECT, extra) for extra in ("", *EXTRAS)]
    seen = set(todo)
    while todo:
        name, extra = todo.pop()
        try:
            if name != PROJECT:
                found[name] = distribution(name).version.partition("+")[0]
            wanted = wanted_by(name, extra)
        except PackageNotFoundError:
            continue  # an extra's, and not installed here
        for each in wanted:
            for more in ("", *each.extras):
                pair = (canonicalize_name(each.name), more)
                if pair not in seen:
                    seen.add(pair)
                    todo.append(pair)
    return found


def main() -> None:
    notes: dict[str, list[str]] = {}
    above: list[str] = []
    for line in FILE.read_text().splitlines():
        if line.startswith("#"):
            above.append(line)
        elif line:
            notes[canonicalize_name(Requirement(line).name)] = above
            above = []
    head = (
        "# The versions that the tests ran with; `pip install -c constraints.txt .` takes them."
        " By .ci/constraints.py."
    )
    lines = [head]
    for name, version in sorted(installed().items()):
        lines += [note for note in notes.get(name, []) if note != head] + [f"{name}=={version}"]
    FILE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
