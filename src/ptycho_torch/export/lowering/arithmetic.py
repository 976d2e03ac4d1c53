"""Arithmetic, functions and comparisons, element by element."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from ptycho_torch.errors import ConfigError
from ptycho_torch.export.lowering.table import RULES, Context, Rule, is_complex, rule
from ptycho_torch.export.onnxwriter import Pair


def _elementwise(kind: str) -> Rule:
    def write(c: Context, x: Any, y: Any, alpha: float = 1) -> Any:
        if alpha != 1:
            y = RULES["aten.mul.Tensor"](c, y, alpha)
        if not c.fake().dtype.is_complex:
            return c.w.op(kind, c.real(x, c.fake().dtype), c.real(y, c.fake().dtype))
        a, b = c.pair(x), c.pair(y)
        return Pair(c.w.op(kind, a.re, b.re), c.w.op(kind, a.im, b.im))

    return write


RULES["aten.add.Tensor"], RULES["aten.sub.Tensor"] = _elementwise("Add"), _elementwise("Sub")


@rule("aten.rsub.Scalar")
def _subtracted(c: Context, x: Any, y: float, alpha: float = 1) -> Any:
    return RULES["aten.sub.Tensor"](c, y, x, alpha)


@rule("aten.mul.Tensor")
def _product(c: Context, x: Any, y: Any) -> Any:
    w = c.w
    if not (is_complex(x) or is_complex(y)):
        kind = c.fake().dtype if isinstance(c.fake(), Tensor) else torch.float32
        x, y = _as(c, x, 0, kind), _as(c, y, 1, kind)
        return w.op("Mul", x, y)
    if not (is_complex(x) and is_complex(y)):
        both, factor = (x, y) if is_complex(x) else (y, x)
        which = 1 if is_complex(x) else 0
        return w.both("Mul", c.pair(both), _as(c, factor, which, torch.float32))
    a, b = c.pair(x), c.pair(y)
    re = w.op("Sub", w.op("Mul", a.re, b.re), w.op("Mul", a.im, b.im))
    return Pair(re, w.op("Add", w.op("Mul", a.re, b.im), w.op("Mul", a.im, b.re)))


def _as(c: Context, value: Any, argument: int, kind: torch.dtype) -> str:
    """A factor in the type of the product; torch takes truth for 0 and 1."""
    if isinstance(value, Tensor):
        return c.w.constant(value.to(kind))
    name = c.real(value, kind)
    meta = c.node.args[argument]
    if isinstance(meta, fx.Node) and meta.meta["val"].dtype != kind and kind == torch.float32:
        return str(c.w.op("Cast", name, to=1))
    return name


@rule("aten.div.Tensor")
def _quotient(c: Context, x: Any, y: Any) -> Any:
    if is_complex(y):
        raise ConfigError("aten.div by a complex number cannot be written as ONNX")
    return c.w.both("Div", c.value(x), c.real(y))


def _unary(kind: str) -> Rule:
    return lambda c, x: c.w.op(kind, c.real(x))


for _aten, _kind in (
    ("sqrt", "Sqrt"), ("floor", "Floor"), ("reciprocal", "Reciprocal"), ("exp", "Exp"), ("cos", "Cos"),
    ("sin", "Sin"), ("tanh", "Tanh"), ("sigmoid", "Sigmoid"), ("relu", "Relu"), ("log", "Log"),
    ("bitwise_not", "Not"), ("logical_not", "Not"),
):  # fmt: skip
    RULES[f"aten.{_aten}.default"] = _unary(_kind)


@rule("aten.neg.default")
def _negative(c: Context, x: Any) -> Any:
    return c.w.both("Neg", c.value(x))


@rule("aten.square.default")
def _square(c: Context, x: str) -> Any:
    return c.w.op("Mul", x, x)


@rule("aten.pow.Tensor_Scalar")
def _power(c: Context, x: str, exponent: float) -> Any:
    return _square(c, x) if exponent == 2 else c.w.op("Pow", x, c.real(float(exponent)))


@rule("aten.log1p.default")
def _log1p(c: Context, x: str) -> Any:
    return c.w.op("Log", c.w.op("Add", x, c.real(1.0)))


@rule("aten.log10.default")
def _log10(c: Context, x: str) -> Any:
    return c.w.op("Mul", c.w.op("Log", x), c.real(1 / math.log(10)))


@rule("aten.abs.default")
def _modulus(c: Context, x: Any) -> Any:
    if not isinstance(x, Pair):
        return c.w.op("Abs", x)
    return c.w.op("Sqrt", c.w.op("Add", c.w.op("Mul", x.re, x.re), c.w.op("Mul", x.im, x.im)))


@rule("aten.clamp.default", "aten.clamp_min.default")
def _clamp(c: Context, x: str, low: float | None = None, high: float | None = None) -> Any:
    kind = c.fake().dtype
    x = x if low is None else c.w.op("Max", x, c.real(low, kind))
    return x if high is None else c.w.op("Min", x, c.real(high, kind))


@rule("aten.clamp_max.default")
def _clamp_max(c: Context, x: str, high: float) -> Any:
    return _clamp(c, x, None, high)


@rule("aten.nan_to_num.default")
def _finite(c: Context, x: str, nan: float | None = None, *_: Any) -> Any:
    return c.w.op("Where", c.w.op("IsNaN", x), c.real(nan or 0.0), x)


@rule("aten.where.self")
def _where(c: Context, condition: Any, x: Any, y: Any) -> Any:
    condition = c.real(condition)
    if not c.fake().dtype.is_complex:
        return c.w.op("Where", condition, c.real(x), c.real(y))
    a, b = c.pair(x), c.pair(y)
    return Pair(c.w.op("Where", condition, a.re, b.re), c.w.op("Where", condition, a.im, b.im))


def _comparison(kind: str) -> Rule:
    return lambda c, x, y: c.w.op(kind, c.real(x, c.fake(0).dtype), c.real(y, c.fake(0).dtype))


for _aten, _kind in (("le", "LessOrEqual"), ("lt", "Less"), ("ge", "GreaterOrEqual"), ("gt", "Greater")):
    RULES[f"aten.{_aten}.Scalar"] = RULES[f"aten.{_aten}.Tensor"] = _comparison(_kind)
