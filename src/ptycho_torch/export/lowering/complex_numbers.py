"""Complex numbers from their parts, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptycho_torch.export.lowering.table import Context, rule
from ptycho_torch.export.onnxwriter import Pair


@rule("aten.complex.default")
def _complex(c: Context, re: Any, im: Any) -> Pair:
    return Pair(c.real(re), c.real(im))


@rule("aten.polar.default")
def _polar(c: Context, modulus: Any, angle: Any) -> Pair:
    modulus, angle = c.real(modulus), c.real(angle)
    return Pair(c.w.op("Mul", modulus, c.w.op("Cos", angle)), c.w.op("Mul", modulus, c.w.op("Sin", angle)))


@rule("aten.view_as_complex.default")
def _from_parts(c: Context, x: str) -> Pair:
    return Pair(*(c.w.op("Gather", x, c.w.constant(i, np.int64), axis=-1) for i in (0, 1)))


@rule("aten.view_as_real.default")
def _to_parts(c: Context, x: Pair) -> Any:
    return c.w.op("Concat", *(c.w.op("Unsqueeze", part, c.w.ints([-1])) for part in x), axis=-1)


@rule("aten.real.default")
def _real(c: Context, x: Any) -> Any:
    return x.re if isinstance(x, Pair) else x


@rule("aten.imag.default")
def _imag(c: Context, x: Pair) -> Any:
    return x.im


@rule("aten._conj.default", "aten.conj.default", "aten._conj_physical.default")
def _conjugate(c: Context, x: Any) -> Any:
    return Pair(x.re, c.w.op("Neg", x.im)) if isinstance(x, Pair) else x


@rule("aten.resolve_conj.default", "aten.resolve_neg.default")
def _resolved(c: Context, x: Any) -> Any:
    return x
