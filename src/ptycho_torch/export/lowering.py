"""From a program of ``torch.export`` to ONNX: complex numbers as pairs of real ones, transforms as products.

    F x = W x W,    W_jk = exp(-2 pi i jk / N),    [re im] [[C -S] [S C]] for each axis

A program is walked node by node. What depends on constants alone is computed here, by torch itself; the rest
becomes ONNX nodes by the table :data:`RULES`, from operator to function. A program that uses another operator is
refused by name.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from ptycho_torch.errors import ConfigError
from ptycho_torch.export.onnxwriter import Pair, Windows, Writer

__all__ = ["RULES", "lower"]

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
        return self.pair(value) if isinstance(value, Pair) or _is_complex(value) else self.real(value)

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


def _is_complex(value: Any) -> bool:
    return isinstance(value, (Pair, complex)) or (isinstance(value, Tensor) and value.is_complex())


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a function into :data:`RULES` under operators' names."""

    def enter(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return enter


def lower(graph: fx.Graph, values: dict[str, Any], writer: Writer) -> list[Any]:
    """Write a graph.

    Parameters
    ----------
    graph : torch.fx.Graph
        Of a program that ``torch.export`` made.
    values : dict
        For each placeholder: a tensor where it is known, else the name of an input.
    writer : Writer

    Returns
    -------
    list
        The graph's outputs: names, pairs, or tensors.

    Raises
    ------
    ConfigError
        For an operator that ONNX, or this table, cannot express.
    """
    context, known = Context(writer), dict(values)
    for node in graph.nodes:
        if node.op == "placeholder":
            continue
        if node.op == "get_attr":
            known[node.name] = getattr(graph.owning_module, node.target)
            continue
        arguments = fx.map_arg((node.args, node.kwargs), lambda n: known[n.name])
        if node.op == "output":
            return list(arguments[0][0])
        context.node = node
        known[node.name] = _computed(context, node, *arguments)
        if _name(node.target).split(".")[-2:][0].endswith("_") and isinstance(node.args[0], fx.Node):
            known[node.args[0].name] = known[node.name]  # an operator that changes its first argument
    raise AssertionError("a graph without output")


def _computed(context: Context, node: fx.Node, args: Any, kwargs: Any) -> Any:
    name = _name(node.target)
    if name == "wrap_with_autocast":
        return _inside(context, *args)
    if name == "getitem" and isinstance(args[0], list):
        return args[0][args[1]]
    if (
        not _holds(context.w, (args, kwargs)) and name != "aten.unfold.default"
    ):  # whose windows are too many to store
        return node.target(*args, **kwargs)  # type: ignore[operator]
    if name not in RULES:
        raise ConfigError(f"{name}: this model uses an operator that cannot be written as ONNX")
    return RULES[name](context, *args, **kwargs)


def _inside(
    context: Context, device: str, dtype: Any, enabled: bool, cache: Any, part: Any, *args: Any
) -> Any:
    """A part of a program in which torch may choose the type of numbers; written where it does not."""
    if enabled:
        raise ConfigError(
            "autocast: a model that computes in bfloat16 cannot be written as ONNX; turn that off"
        )
    places = [node.name for node in part.graph.nodes if node.op == "placeholder"]
    return lower(part.graph, dict(zip(places, args, strict=True)), context.w)


def _name(target: Any) -> str:
    return str(target) if hasattr(target, "overloadpacket") else getattr(target, "__name__", str(target))


def _holds(writer: Writer, part: Any) -> bool:
    """Whether anything in here is computed when the graph runs, and not known now."""
    if isinstance(part, list | tuple) and not isinstance(part, Pair):
        return any(_holds(writer, item) for item in part)
    if isinstance(part, dict):
        return any(_holds(writer, item) for item in part.values())
    return writer.holds(part)


# ------------------------------------------------------------ sizes and plain passing on
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


# ------------------------------------------------------------ arithmetic
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
    if not (_is_complex(x) or _is_complex(y)):
        kind = c.fake().dtype if isinstance(c.fake(), Tensor) else torch.float32
        x, y = _as(c, x, 0, kind), _as(c, y, 1, kind)
        return w.op("Mul", x, y)
    if not (_is_complex(x) and _is_complex(y)):
        both, factor = (x, y) if _is_complex(x) else (y, x)
        which = 1 if _is_complex(x) else 0
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
    if _is_complex(y):
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


# ------------------------------------------------------------ complex numbers
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


# ------------------------------------------------------------ shapes
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
            f"{_name(c.node.target)}: a shape with several open sizes cannot be written as ONNX"
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


# ------------------------------------------------------------ making, and reducing
def _filled(value: float | None) -> Rule:
    def write(c: Context, first: Any, *rest: Any, **_: Any) -> Any:
        """Of the node's own shape, whose open sizes come from the arguments."""
        made, fill = c.fake(), value
        sizes = next(
            (a for a in (first, *rest) if isinstance(a, list | tuple) and not isinstance(a, Pair)), None
        )
        if fill is None:
            fill = next(a for a in rest if isinstance(a, int | float))
        if sizes is None:
            shape = c.w.op("Shape", first.re if isinstance(first, Pair) else first)
        else:
            shape = c.sizes(sizes)
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


# ------------------------------------------------------------ gathering and scattering
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


# ------------------------------------------------------------ transforms
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


# ------------------------------------------------------------ networks
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
