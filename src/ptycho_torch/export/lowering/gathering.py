"""Windows of an image and single rows: gathering them, and adding to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ptycho_torch.errors import ConfigError
from ptycho_torch.export.lowering.table import Context, rule
from ptycho_torch.export.onnxwriter import Pair, Windows


@rule("aten.unfold.default")
def _unfold(c: Context, x: Any, dim: int, size: int, step: int) -> Windows:
    if isinstance(x, Windows):
        return Windows(x.image, x.shape, x.size, x.axes + 1)
    if step != 1:
        raise ConfigError("aten.unfold with a step cannot be written as ONNX")
    return Windows(c.value(x), tuple(c.fake(0).shape), size, 1)


@rule("aten.index.Tensor")
def _index(c: Context, x: Any, indices: Sequence[Any]) -> Any:
    if isinstance(x, Windows):
        return _cut(c, x, [c.real(i) for i in indices])
    if len(indices) != 1:
        raise ConfigError("aten.index by several tensors cannot be written as ONNX")
    return c.w.both("Gather", c.value(x), c.real(indices[0]), axis=0)


def _cut(c: Context, x: Windows, indices: Sequence[str]) -> Any:
    """Windows by their first pixels, out of the flat image: what ``unfold`` and indexing are together."""
    w, (height, width) = c.w, x.shape[-2:]
    inside = torch.arange(x.size)[:, None] * width + torch.arange(x.size)
    first = w.op("Add", w.op("Mul", indices[-2], w.constant(width, np.int64)), indices[-1])
    if len(indices) == 3:
        first = w.op("Add", first, w.op("Mul", indices[0], w.constant(height * width, np.int64)))
    pixels = w.op("Add", w.op("Unsqueeze", first, w.ints([1, 2])), w.constant(inside))
    return w.both("Gather", w.both("Reshape", x.image, w.ints([-1])), pixels, axis=0)


@rule("aten.index_add.default", "aten.index_add_.default")
def _index_add(c: Context, x: Any, dim: int, index: Any, source: Any, alpha: float = 1) -> Any:
    if dim != 0 or alpha != 1:
        raise ConfigError("aten.index_add along another axis than the first cannot be written as ONNX")
    w = c.w
    if c.fake(0).shape[0] == 1:
        total = w.both("ReduceSum", c.value(source), w.ints([0]), keepdims=1)
        parts = [w.op("Add", *two) for two in zip(_parts(c.value(x)), _parts(total), strict=True)]
    else:
        where = w.op("Unsqueeze", c.real(index), w.ints([-1]))
        parts = [
            w.op("ScatterND", into, where, part, reduction="add")
            for into, part in zip(_parts(c.value(x)), _parts(c.value(source)), strict=True)
        ]
    return Pair(*parts) if len(parts) == 2 else parts[0]


def _parts(value: str | Pair) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, Pair) else (value,)
