"""Layers of networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ptycho_torch.export.lowering.table import Context, rule


@rule("aten.conv2d.default", "aten.conv2d.padding")
def _conv2d(
    c: Context, x: str, weight: Any, bias: Any = None, stride: Any = (1, 1), padding: Any = (0, 0),
    dilation: Any = (1, 1), groups: int = 1,
) -> Any:  # fmt: skip
    inputs = [x, c.real(weight), *([] if bias is None else [c.real(bias)])]
    if isinstance(padding, str):
        around = {"valid": "VALID", "same": "SAME_UPPER"}[padding]
        return c.w.op(
            "Conv", *inputs, strides=list(stride), auto_pad=around, dilations=list(dilation), group=groups
        )
    pads = [*padding, *padding]
    return c.w.op("Conv", *inputs, strides=list(stride), pads=pads, dilations=list(dilation), group=groups)


@rule("aten.gelu.default")
def _gelu(c: Context, x: str, approximate: str = "none") -> Any:
    w, half = c.w, c.real(0.5)
    bell = w.op("Add", w.op("Erf", w.op("Mul", x, c.real(math.sqrt(0.5)))), c.real(1.0))
    return w.op("Mul", w.op("Mul", x, bell), half)


@rule("aten.silu.default")
def _silu(c: Context, x: str) -> Any:
    return c.w.op("Mul", x, c.w.op("Sigmoid", x))


@rule("aten.pixel_shuffle.default")
def _shuffle(c: Context, x: str, factor: int) -> Any:
    return c.w.op("DepthToSpace", x, blocksize=factor, mode="CRD")


@rule("aten.pixel_unshuffle.default")
def _unshuffle(c: Context, x: str, factor: int) -> Any:
    channels, height, width = c.fake(0).shape[-3:]
    split = [-1, channels, height // factor, factor, width // factor, factor]
    turned = c.w.op("Transpose", c.w.op("Reshape", x, c.w.ints(split)), perm=[0, 1, 3, 5, 2, 4])
    return c.w.op("Reshape", turned, c.w.ints([-1, channels * factor**2, height // factor, width // factor]))


@rule("aten.max_pool2d.default")
def _max_pool(c: Context, x: str, size: Sequence[int], stride: Sequence[int] = (), *_: Any) -> Any:
    return c.w.op("MaxPool", x, kernel_shape=list(size), strides=list(stride or size))


@rule("aten.upsample_nearest2d.vec", "aten.upsample_bilinear2d.vec")
def _upsample(c: Context, x: str, sizes: Any, *more: Any) -> Any:
    linear = "bilinear" in str(c.node.target)
    wanted = c.w.ints(c.fake().shape[-2:])
    shape = c.w.op(
        "Concat", c.w.op("Slice", c.w.op("Shape", x), c.w.ints([0]), c.w.ints([2])), wanted, axis=0
    )
    how: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    if not linear:
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    elif more and more[0] is True:
        how["coordinate_transformation_mode"] = "align_corners"
    return c.w.op("Resize", x, "", "", shape, **how)


@rule("aten.matmul.default", "aten.bmm.default", "aten.mm.default")
def _matmul(c: Context, x: Any, y: Any) -> Any:
    return c.w.op("MatMul", c.real(x), c.real(y))
