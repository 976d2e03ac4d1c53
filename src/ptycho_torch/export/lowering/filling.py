"""Tensors that are made of one value or a range, and reductions over axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ptycho_torch.export.lowering.table import RULES, Context, Rule, rule
from ptycho_torch.export.onnxwriter import Pair


def _filled(value: float | None) -> Rule:
    def write(c: Context, first: Any, *rest: Any, **_: Any) -> Any:
        """Of the node's own shape, whose open sizes come from the arguments."""
        made, fill = c.fake(), value
        sizes = next(
            (a for a in (first, *rest) if isinstance(a, list | tuple) and not isinstance(a, Pair)), None
        )
        if fill is None:
            fill = next(a for a in rest if isinstance(a, int | float))
        like = first.re if isinstance(first, Pair) else first
        shape = c.w.op("Shape", like) if sizes is None else c.sizes(sizes)
        kind = made.dtype.to_real() if made.dtype.is_complex else made.dtype
        full = c.w.op("Expand", c.real(fill, kind), shape)
        zero = c.w.op("Expand", c.real(0.0, kind), shape) if made.dtype.is_complex else ""
        return Pair(full, zero) if made.dtype.is_complex else full

    return write


for _aten, _fill in (("zeros", 0.0), ("ones", 1.0), ("full", None)):
    for _form in ("default", "_like.default"):
        RULES[f"aten.{_aten}{'' if _form.startswith('_') else '.'}{_form}"] = _filled(_fill)
for _aten, _fill in (("new_zeros", 0.0), ("new_ones", 1.0), ("new_full", None)):
    RULES[f"aten.{_aten}.default"] = _filled(_fill)


@rule("aten.arange.default", "aten.arange.start", "aten.arange.start_step")
def _arange(c: Context, *bounds: Any, **_: Any) -> Any:
    start, end, step = {1: (0, *bounds, 1), 2: (*bounds, 1), 3: bounds}[len(bounds)]
    ends = [
        c.w.op("Squeeze", v, c.w.ints([0])) if isinstance(v, str) else c.w.constant(v, np.int64)
        for v in (start, end, step)
    ]
    made = c.w.op("Range", *ends)
    return made if c.fake().dtype == torch.int64 else c.w.op("Cast", made, to=1)


def _reduction(kind: str) -> Rule:
    def write(c: Context, x: Any, dims: Any = None, keep: bool = False, **_: Any) -> Any:
        dims = list(range(c.fake(0).dim())) if not isinstance(dims, list | tuple) or not dims else dims
        return c.w.both(kind, c.value(x), c.w.ints(dims), keepdims=int(keep))

    return write


for _aten, _kind in (
    ("sum.dim_IntList", "ReduceSum"), ("sum.default", "ReduceSum"), ("mean.dim", "ReduceMean"),
    ("amax.default", "ReduceMax"), ("max.default", "ReduceMax"),
):  # fmt: skip
    RULES[f"aten.{_aten}"] = _reduction(_kind)
