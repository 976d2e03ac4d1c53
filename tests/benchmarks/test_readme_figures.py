"""The figures in the README are those of the files that it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)
    elif isinstance(value, int | float):
        yield float(value)


def test_figures_of_the_readme_are_in_their_files() -> None:
    section = (ROOT / "README.md").read_text().split("## Three figures")[1].split("\n## ")[0]
    figures = re.split(r"^- ", section, flags=re.MULTILINE)[1:]
    assert len(figures) == 3
    for figure in figures:
        (name,) = re.findall(r"\((benchmarks/results/[\w-]+\.json)\)", figure)
        known = list(_numbers(json.loads((ROOT / name).read_text())))
        said = re.findall(r"\*\*([\d.]+)\*\*", figure)
        assert len(said) >= 2
        for text in said:
            digits = len(text.partition(".")[2])
            assert any(f"{number:.{digits}f}" == text for number in known), f"{text} is not in {name}"
