"""Two-dimensional Fourier transforms, as products with matrices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ptycho_torch.export.lowering.table import Context, rule
from ptycho_torch.export.onnxwriter import Pair


def _matrices(size: int, sign: int) -> tuple[Tensor, Tensor]:
    """(2N, 2N) real matrices of a transform: of the last axis, from the right, and of the one before, from the left."""
    turns = torch.outer(torch.arange(size), torch.arange(size)) % size  # whole turns dropped: exact angles
    angle = turns.double() * (2 * math.pi / size)
    cosine, sine = angle.cos(), sign * angle.sin()
    right = torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)])
    return right.float(), right.T.float()


def _transform(c: Context, x: Any, norm: str | None, sign: int) -> Pair:
    height, width = c.fake(0).shape[-2:]
    w, (re, im) = c.w, c.pair(x)
    flat = w.op("MatMul", w.op("Concat", re, im, axis=-1), w.constant(_matrices(width, sign)[0]))
    re, im = w.op("Split", flat, w.ints([width, width]), axis=-1, outputs=2)
    flat = w.op("MatMul", w.constant(_matrices(height, sign)[1]), w.op("Concat", re, im, axis=-2))
    done = Pair(*w.op("Split", flat, w.ints([height, height]), axis=-2, outputs=2))
    scale = {"ortho": 1 / math.sqrt(height * width), None: 1.0 if sign < 0 else 1 / (height * width)}[norm]
    return done if scale == 1 else w.both("Mul", done, c.real(scale))


@rule("aten.fft_fft2.default")
def _fft2(c: Context, x: Any, size: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Pair:
    return _transform(c, x, norm, -1)


@rule("aten.fft_ifft2.default")
def _ifft2(c: Context, x: Any, size: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Pair:
    return _transform(c, x, norm, 1)
