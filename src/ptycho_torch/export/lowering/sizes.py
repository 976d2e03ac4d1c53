"""Sizes of tensors, and operators that pass a value on as it is."""

from __future__ import annotations

import operator
from typing import Any

import torch

from ptycho_torch.export.lowering.table import RULES, Context, Rule, rule
from ptycho_torch.export.onnxwriter import Pair


@rule("sym_size.int", "aten.sym_size.int")
def _size(c: Context, x: Any, dim: int) -> str:
    part = x.re if isinstance(x, Pair) else x
    rank = c.fake(0).dim()
    return str(c.w.op("Gather", c.w.op("Shape", part), c.w.ints([dim % rank])))


def _whole(kind: str) -> Rule:
    def write(c: Context, a: Any, b: Any) -> str:
        left, right = (v if isinstance(v, str) else c.w.ints([v]) for v in (a, b))
        return str(c.w.op(kind, left, right))

    return write


for _function, _kind in (
    (operator.add, "Add"),
    (operator.sub, "Sub"),
    (operator.mul, "Mul"),
    (operator.floordiv, "Div"),
):
    RULES[_function.__name__] = _whole(_kind)


@rule(
    "aten.clone.default",
    "aten.detach.default",
    "aten.alias.default",
    "aten.contiguous.default",
    "aten.lift_fresh_copy.default",
    "aten.dropout.default",
)
def _same(c: Context, x: Any, *_: Any, **__: Any) -> Any:
    return x


@rule(
    "aten._assert_tensor_metadata.default",
    "aten.sym_constrain_range_for_size.default",
    "aten._assert_scalar.default",
    "eq",
    "ge",
    "le",
    "gt",
    "lt",
)
def _nothing(c: Context, *_: Any, **__: Any) -> None:
    return None


@rule("aten._to_copy.default", "aten.to.dtype", "aten.to.dtype_layout", "aten.to.device")
def _cast(c: Context, x: Any, *_: Any, **__: Any) -> Any:
    kind = c.fake().dtype
    if kind.is_complex:
        return c.pair(x)
    number = {torch.float32: 1, torch.int64: 7, torch.bool: 9}[kind]
    return x if c.fake(0).dtype == kind else c.w.op("Cast", x, to=number)
