"""The table from operators to what writes them, and what those functions get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ptycho_torch.export.onnxwriter import Pair, Writer

__all__ = ["RULES", "Context", "Rule", "is_complex", "operator_name", "rule"]

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}
"""Operator's name, as ``torch.export`` prints it, to what writes it: ``rule(context, *args, **kwargs)``."""


class Context:
    """The writer, and the operator that is being written."""

    def __init__(self, writer: Writer) -> None:
        self.w = writer
        self.node: fx.Node

    def fake(self, argument: int = -1) -> Any:
        """Return what torch knows of an argument of the node, or of its result: shape and type."""
        return (self.node if argument < 0 else self.node.args[argument]).meta["val"]  # type: ignore[union-attr]

    def real(self, value: Any, like: torch.dtype = torch.float32) -> str:
        """Return the name of a real value, of a number or tensor that is known already, too."""
        if isinstance(value, str):
            return value
        if isinstance(value, Tensor):
            return self.w.constant(value)
        return self.w.constant(torch.tensor(value, dtype=like))

    def pair(self, value: Any) -> Pair:
        """Return a complex value; a real one gets a zero imaginary part."""
        if isinstance(value, Pair):
            return value
        if isinstance(value, Tensor) and value.is_complex():
            return Pair(self.w.constant(value.real.contiguous()), self.w.constant(value.imag.contiguous()))
        re = self.real(value)
        return Pair(re, self.w.op("Mul", re, self.real(0.0)))

    def value(self, value: Any) -> str | Pair:
        """Return a value by name, real or complex."""
        return self.pair(value) if isinstance(value, Pair) or is_complex(value) else self.real(value)

    def sizes(self, sizes: Sequence[Any]) -> str:
        """Return a shape, of numbers and of sizes that are known when the graph runs."""
        if not any(isinstance(size, str) for size in sizes):
            return self.w.ints(sizes)
        return self.w.op("Concat", *(s if isinstance(s, str) else self.w.ints([s]) for s in sizes), axis=0)

    def shape(self, sizes: Sequence[Any]) -> str:
        """Return a shape for ``Reshape``, which works out one size that is not known."""
        open_sizes = [i for i, size in enumerate(sizes) if isinstance(size, str)]
        if len(open_sizes) == 1 and -1 not in sizes:
            sizes = [-1 if i == open_sizes[0] else size for i, size in enumerate(sizes)]
        return self.sizes(sizes)


def is_complex(value: Any) -> bool:
    """Return whether a value is complex, computed or known."""
    return isinstance(value, (Pair, complex)) or (isinstance(value, Tensor) and value.is_complex())


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a function into :data:`RULES` under operators' names."""

    def enter(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return enter


def operator_name(target: Any) -> str:
    """Return an operator's name as :data:`RULES` has it."""
    return str(target) if hasattr(target, "overloadpacket") else getattr(target, "__name__", str(target))
