"""Shapes: views, axes, slices, joining, rolling and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ptycho_torch.errors import ConfigError
from ptycho_torch.export.lowering.table import Context, operator_name, rule
from ptycho_torch.export.onnxwriter import Pair


@rule("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default")
def _view(c: Context, x: Any, sizes: Sequence[Any]) -> Any:
    return c.w.both("Reshape", c.value(x), c.shape(sizes))


@rule("aten.expand.default")
def _expand(c: Context, x: Any, sizes: Sequence[Any], **_: Any) -> Any:
    return c.w.both("Expand", c.value(x), c.sizes([1 if size == -1 else size for size in sizes]))


@rule("aten.expand_as.default")
def _expand_as(c: Context, x: Any, other: Any) -> Any:
    return c.w.both("Expand", c.value(x), c.w.op("Shape", other.re if isinstance(other, Pair) else other))


@rule("aten.flatten.using_ints")
def _flatten(c: Context, x: Any, start: int = 0, end: int = -1) -> Any:
    return _reshaped(c, x)


@rule("aten.unflatten.int")
def _unflatten(c: Context, x: Any, dim: int, sizes: Sequence[int]) -> Any:
    return _reshaped(c, x)


def _reshaped(c: Context, x: Any) -> Any:
    """To the shape that torch knows of the result, of which one size may be open."""
    sizes = [int(n) if isinstance(n, int) else -1 for n in c.fake().shape]
    if sizes.count(-1) > 1:
        raise ConfigError(
            f"{operator_name(c.node.target)}: a shape with several open sizes cannot be written as ONNX"
        )
    return c.w.both("Reshape", c.value(x), c.w.ints(sizes))


@rule("aten.unsqueeze.default")
def _unsqueeze(c: Context, x: Any, dim: int) -> Any:
    return c.w.both("Unsqueeze", c.value(x), c.w.ints([dim]))


@rule("aten.squeeze.dim")
def _squeeze(c: Context, x: Any, dim: int) -> Any:
    return c.w.both("Squeeze", c.value(x), c.w.ints([dim])) if c.fake(0).shape[dim] == 1 else x


@rule("aten.permute.default")
def _permute(c: Context, x: Any, order: Sequence[int]) -> Any:
    return c.w.both("Transpose", c.value(x), perm=[i % len(order) for i in order])


@rule("aten.transpose.int")
def _transpose(c: Context, x: Any, first: int, second: int) -> Any:
    order = list(range(c.fake(0).dim()))
    order[first], order[second] = order[second], order[first]
    return c.w.both("Transpose", c.value(x), perm=order)


@rule("aten.mT.default")
def _matrix_transpose(c: Context, x: Any) -> Any:
    return _transpose(c, x, -2, -1)


@rule("aten.select.int")
def _select(c: Context, x: Any, dim: int, index: Any) -> Any:
    return c.w.both("Gather", c.value(x), c.w.constant(index, np.int64), axis=dim)


@rule("aten.unbind.int")
def _unbind(c: Context, x: Any, dim: int = 0) -> list[Any]:
    return [_select(c, x, dim, index) for index in range(c.fake(0).shape[dim])]


@rule("aten.slice.Tensor")
def _slice(c: Context, x: Any, dim: int = 0, start: Any = 0, end: Any = None, step: int = 1) -> Any:
    largest = np.iinfo(np.int64).max
    bounds = [
        b if isinstance(b, str) else c.w.ints([b]) for b in (start or 0, largest if end is None else end)
    ]
    return c.w.both("Slice", c.value(x), *bounds, c.w.ints([dim]), c.w.ints([step]))


@rule("aten.cat.default")
def _cat(c: Context, parts: Sequence[Any], dim: int = 0) -> Any:
    if c.fake().dtype.is_complex:
        pairs = [c.pair(part) for part in parts]
        return Pair(*(c.w.op("Concat", *side, axis=dim) for side in zip(*pairs, strict=True)))
    return c.w.op("Concat", *(c.real(part) for part in parts), axis=dim)


@rule("aten.stack.default")
def _stack(c: Context, parts: Sequence[Any], dim: int = 0) -> Any:
    return c.w.op("Concat", *(c.w.op("Unsqueeze", c.real(p), c.w.ints([dim])) for p in parts), axis=dim)


@rule("aten.flip.default")
def _flip(c: Context, x: Any, dims: Sequence[int]) -> Any:
    rank = c.fake(0).dim()
    for dim in dims:
        order = c.w.ints(range(c.fake(0).shape[dim] - 1, -1, -1))
        x = c.w.both("Gather", c.value(x), order, axis=dim % rank)
    return x


def _rolled(c: Context, x: Any, dims: Sequence[int], inverse: bool) -> Any:
    for dim in dims:
        size = c.fake(0).shape[dim]
        first = size // 2 if inverse else size - size // 2
        x = c.w.both("Gather", c.value(x), c.w.ints([(i + first) % size for i in range(size)]), axis=dim)
    return x


@rule("aten.fft_fftshift.default")
def _fftshift(c: Context, x: Any, dim: Sequence[int]) -> Any:
    return _rolled(c, x, dim, False)


@rule("aten.fft_ifftshift.default")
def _ifftshift(c: Context, x: Any, dim: Sequence[int]) -> Any:
    return _rolled(c, x, dim, True)


@rule("aten.constant_pad_nd.default", "aten.pad.default")
def _pad(c: Context, x: Any, widths: Sequence[int], *rest: Any) -> Any:
    fill = next((float(v) for v in rest if isinstance(v, int | float)), 0.0)
    rank = c.fake(0).dim()
    before, after = [0] * rank, [0] * rank
    for i in range(len(widths) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = widths[2 * i], widths[2 * i + 1]
    return c.w.both("Pad", c.value(x), c.w.ints(before + after), c.real(fill))
