"""What a user calls says what it takes, what it gives and how it is used."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

ROOMS = (
    "", ".bundle", ".config", ".files", ".generators", ".model", ".model_manager", ".reconstruction", ".result",
    ".scan", ".simulation",
)  # fmt: skip


def called() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions that the rooms offer."""
    for room in ROOMS:
        module = importlib.import_module(f"ptycho_torch{room}")
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isfunction(found):
                yield f"{found.__module__}.{name}", found


CALLED = dict(called())


@pytest.mark.parametrize("name", sorted(CALLED))
def test_docstrings_have_sections_and_an_example(name: str) -> None:
    function = CALLED[name]
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    rules = {
        "Parameters": bool(signature.parameters),
        "Returns": signature.return_annotation not in (None, "None"),
        "Examples": True,
    }
    given = {title: f"{title}\n{'-' * len(title)}\n" in text for title in (*rules, "Yields")}
    given["Returns"] |= given["Yields"]
    assert [title for title, needed in rules.items() if needed and not given[title]] == []
    assert ">>>" in text
    # Each parameter under its own name, as in "gridsize, N : int".
    said = text.partition("Parameters\n")[2].partition("\n\n")[0]
    named = {
        part.strip().lstrip("*") for line in said.splitlines() for part in line.partition(":")[0].split(",")
    }
    own = {p.name for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD}
    assert own - named == set()


def test_there_are_such_functions() -> None:
    assert len(CALLED) > 40
