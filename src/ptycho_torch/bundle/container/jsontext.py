"""JSON from a file that is not trusted: depth and number of values are known before it is parsed. Imports no torch."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from ptycho_torch.bundle.container import limits
from ptycho_torch.files.memory import MemoryBudget

__all__ = ["parse_json"]

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{},]', re.DOTALL)
_BLOCK: Final = 1024


def parse_json(data: bytes | bytearray, budget: MemoryBudget) -> Any:
    """Parse UTF-8 text as JSON, strictly.

    Parameters
    ----------
    data
        The text's bytes.
    budget
        What the values are taken from, before they are made.

    Returns
    -------
    Any
        Dictionaries, lists, text, numbers, truth values and None.

    Raises
    ------
    ValueError
        For anything that is not JSON, keys given twice, NaN and infinities, and values nested deeper
        than :data:`~ptycho_torch.bundle.container.limits.MAX_JSON_DEPTH`.
    Exception
        Made by ``budget``.
    """
    depth = values = 0
    for found in _TOKEN.finditer(data):
        mark = found[0]
        if mark in (b"]", b"}"):
            depth -= 1
            continue
        values += 1
        if values % _BLOCK == 0:
            budget.take(_BLOCK * limits.OBJECT_BYTES)
        if mark in (b"[", b"{"):
            depth += 1
            if depth > limits.MAX_JSON_DEPTH:
                raise ValueError(f"more than {limits.MAX_JSON_DEPTH} values inside each other")
    budget.take(_text_bytes(data))
    text = bytes(data).decode("utf-8")
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)


def _text_bytes(data: bytes | bytearray) -> int:
    """The text and the strings cut out of it; one character past ASCII widens all of them."""
    return 2 * len(data) if data.isascii() else 8 * len(data)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key is given twice")
    return out


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
