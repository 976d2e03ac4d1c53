"""Text from files on its way to people."""

from __future__ import annotations

import doctest

import pytest

from ptycho_torch import errors
from ptycho_torch.errors import brief, one_line, printable


def test_examples() -> None:
    assert doctest.testmod(errors).failed == 0


@pytest.mark.parametrize("show", [printable, one_line, brief])
@pytest.mark.parametrize(
    "text",
    ["\x1b[31mred\x1b]0;title\x07", "a\x9b2Jb", "a\r\nb\u2028c", "\u202eabc", "\udce9", "\x00", "a" * 10**6],
)
def test_nothing_reaches_a_terminal(show: object, text: str) -> None:
    assert callable(show)
    shown = show(text)
    assert shown.isprintable()
    assert len(shown) < 5000
    shown.encode("utf-8")


def test_letters_of_other_scripts_stay_in_a_line() -> None:
    assert one_line("größe  名前 имя") == "größe  名前 имя"
    assert one_line(" a \n b ") == "a b"


def test_values_that_hold_themselves_a_million_times() -> None:
    value: list[object] = ["x"]
    for _ in range(200):
        value = [value] * 20
    assert len(brief(value)) <= 60
    assert len(brief(dict.fromkeys(range(100), value), 1000)) <= 1000
    assert brief(1 << 60_000) == "an integer of 60001 bits"
