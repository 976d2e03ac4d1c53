"""Two-dimensional Fourier transforms: one step of an FFT for each axis, the rest as products with matrices.

With N = r m, r = 4 (or 2, or 1 where N is odd), n = m n1 + n2 and k = k1 + r k2,

    X[k1 + r k2] = sum_n2 T_k1[n2, k2] sum_n1 w_r^(n1 k1) x[m n1 + n2],    T_k1[n2, k2] = w_N^(n2 (k1 + r k2))

The inner sum has r terms, each times 1, -1, i or -i, which is exact. The outer one is a product with a real matrix of
2m x 2m: a quarter of the work of one with 2N x 2N, and half the rounding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ptycho_torch.export.lowering.table import Context, rule
from ptycho_torch.export.onnxwriter import Pair, Writer


def _radix(size: int) -> int:
    return 4 if size % 4 == 0 else 2 if size % 2 == 0 else 1


def _matrix(size: int, radix: int, first: int, sign: int) -> Tensor:
    """(2m, 2m) real matrix that a row of real parts, then imaginary parts, is multiplied with for one ``k1``."""
    inner, outer = torch.arange(size // radix), first + radix * torch.arange(size // radix)
    turns = torch.outer(inner, outer) % size  # whole turns dropped: exact angles
    angle = turns.double() * (2 * math.pi / size)
    cosine, sine = angle.cos(), sign * angle.sin()
    return torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)]).float()


def _turned(w: Writer, x: Pair, by: Pair, sign: int) -> Pair:
    """``x + sign i by``."""
    re, im = ("Sub", "Add") if sign > 0 else ("Add", "Sub")
    return Pair(w.op(re, x.re, by.im), w.op(im, x.im, by.re))


def _both(w: Writer, kind: str, x: Pair, y: Pair) -> Pair:
    return Pair(w.op(kind, x.re, y.re), w.op(kind, x.im, y.im))


def _short(w: Writer, x: list[Pair], sign: int) -> list[Pair]:
    """A transform of one, two or four values."""
    if len(x) == 1:
        return x
    if len(x) == 2:
        return [_both(w, kind, *x) for kind in ("Add", "Sub")]
    (even, half), (odd, quarter) = (_short(w, x[i::2], sign) for i in (0, 1))
    return [
        _both(w, "Add", even, odd),
        _turned(w, half, quarter, sign),
        _both(w, "Sub", even, odd),
        _turned(w, half, quarter, -sign),
    ]


def _along(w: Writer, x: Pair, axis: int, shape: tuple[int, ...], sign: int) -> Pair:
    """One axis, the last (-1) or the one before (-2), of an array whose last two sizes are known."""
    size = shape[axis]
    radix = _radix(size)
    short = size // radix
    if radix > 1:
        chunks = [w.op("Split", part, w.ints([short] * radix), axis=axis, outputs=radix) for part in x]
        parts = _short(w, [Pair(re, im) for re, im in zip(*chunks, strict=True)], sign)
    else:
        parts = [x]
    done = []
    for first, part in enumerate(parts):
        matrix = _matrix(size, radix, first, sign)
        joined = w.op("Concat", *part, axis=axis)
        if axis == -1:
            product = w.op("MatMul", joined, w.constant(matrix))
        else:
            product = w.op("MatMul", w.constant(matrix.T), joined)
        done.append(w.op("Split", product, w.ints([short, short]), axis=axis, outputs=2))
    if radix == 1:
        return Pair(*done[0])
    after = w.ints([axis])
    wanted = w.ints([0] * (len(shape) - 2) + ([0, size] if axis == -1 else list(shape[-2:])))
    woven = (
        w.op("Concat", *(w.op("Unsqueeze", name, after) for name in names), axis=axis)
        for names in zip(*done, strict=True)
    )
    return Pair(*(w.op("Reshape", name, wanted) for name in woven))


def _transform(c: Context, x: Any, norm: str | None, sign: int) -> Pair:
    shape = c.fake(0).shape
    height, width = shape[-2:]
    done = _along(c.w, _along(c.w, c.pair(x), -1, shape, sign), -2, shape, sign)
    scale = {"ortho": 1 / math.sqrt(height * width), None: 1.0 if sign < 0 else 1 / (height * width)}[norm]
    return done if scale == 1 else c.w.both("Mul", done, c.real(scale))


@rule("aten.fft_fft2.default")
def _fft2(c: Context, x: Any, size: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Pair:
    return _transform(c, x, norm, -1)


@rule("aten.fft_ifft2.default")
def _ifft2(c: Context, x: Any, size: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Pair:
    return _transform(c, x, norm, 1)
