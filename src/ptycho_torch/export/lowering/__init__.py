"""From a program of ``torch.export`` to ONNX: complex numbers as pairs of real ones, transforms as products.

    [re im] [[C -S] [S C]]    for each axis, after one step of an FFT (:mod:`.transforms`)

A program is walked node by node. What depends on constants alone is computed here, by torch itself; the rest
becomes ONNX nodes by the table :data:`RULES`, from operator to function. A program that uses another operator is
refused by name.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from ptycho_torch.errors import ConfigError
from ptycho_torch.export.lowering import (  # each enters its rules into the table
    arithmetic,
    complex_numbers,
    filling,
    gathering,
    networks,
    shapes,
    sizes,
    transforms,
)
from ptycho_torch.export.lowering.table import RULES, Context, operator_name
from ptycho_torch.export.onnxwriter import Pair, Writer

__all__ = ["RULES", "lower"]


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
        if operator_name(node.target).split(".")[-2:][0].endswith("_") and isinstance(node.args[0], fx.Node):
            known[node.args[0].name] = known[node.name]  # an operator that changes its first argument
    raise AssertionError("a graph without output")


def _computed(context: Context, node: fx.Node, args: Any, kwargs: Any) -> Any:
    name = operator_name(node.target)
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


def _holds(writer: Writer, part: Any) -> bool:
    """Whether anything in here is computed when the graph runs, and not known now."""
    if isinstance(part, list | tuple) and not isinstance(part, Pair):
        return any(_holds(writer, item) for item in part)
    if isinstance(part, dict):
        return any(_holds(writer, item) for item in part.values())
    return writer.holds(part)
