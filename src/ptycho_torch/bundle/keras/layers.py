"""The layers that a Keras model's description lists, as plain records; see :mod:`ptycho_torch.bundle.keras.graph`.

Only classes that the TensorFlow program uses pass; names in the file are compared and never looked up.
Imports neither torch nor Keras.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ptycho_torch.errors import BundleError, brief, printable

__all__ = ["Layer", "read_ends", "read_layers"]

Fail = Callable[[str], BundleError]

_REGISTERED: Final[dict[str, tuple[str | None, ...]]] = {
    **dict.fromkeys(("InputLayer", "Conv2D", "MaxPooling2D", "UpSampling2D", "ZeroPadding2D"), (None,)),
    **{name: (name, None) for name in ("GetItem", "Silu", "Multiply", "Add", "CenterMaskLayer")},
    **{
        name: (f"ptycho>{name}", name)
        for name in (
            "ActivationLayer", "CombineComplexLayer", "ExtractPatchesPositionLayer", "FlatToChannelLayer",
            "IntensityScaler", "IntensityScaler_inv", "PadAndDiffractLayer", "PadReconstructionLayer",
            "ProbeIllumination", "ReassemblePatchesLayer", "SquareLayer", "TrimReconstructionLayer",
        )
    },
}  # fmt: skip
"""Class -> the names it may be registered under. Everything else is refused by name."""

_MAX_LAYERS: Final = 1000


@dataclass
class Layer:
    """One layer: class, options, and (layer, output) of each of its inputs."""

    name: str
    kind: str
    config: dict[str, Any]
    inputs: list[tuple[str, int]] = field(default_factory=list)
    part: tuple[int | None, int | None] | None = None  # channels that a GetItem takes


def read_layers(found: Any, fail: Fail) -> dict[str, Layer]:
    """The list ``layers`` of a description, by name. Raises what ``fail`` makes."""
    if not isinstance(found, list):
        raise fail("describes no layers")
    if len(found) > _MAX_LAYERS:
        raise fail(f"{len(found)} layers, at most {_MAX_LAYERS} are read")
    layers: dict[str, Layer] = {}
    for entry in found:
        layer = _parse(entry, fail)
        if layer.name in layers:
            raise fail(f"{printable(layer.name)}: a second layer with this name")
        layers[layer.name] = layer
    return layers


def read_ends(found: Any, key: str, fail: Fail) -> list[str]:
    """``[[name, 0, 0], ...]``, or a single one without the outer list."""
    if isinstance(found, list) and found and isinstance(found[0], str):
        found = [found]
    names = []
    for item in found if isinstance(found, list) else [None]:
        if not isinstance(item, list) or len(item) != 3 or not isinstance(item[0], str) or item[1:] != [0, 0]:
            raise fail(f"{key}: expected [name, 0, 0], found {brief(item)}")
        names.append(item[0])
    return names


def _parse(entry: Any, fail: Fail) -> Layer:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise fail("a layer without a name")
    name, kind, config = entry["name"], entry.get("class_name"), entry.get("config")
    shown = printable(name, 60)
    if not isinstance(kind, str) or kind not in _REGISTERED:
        raise fail(f"layer {shown}: class {brief(kind)} is not known")
    module, registered = entry.get("module"), entry.get("registered_name")
    if registered not in _REGISTERED[kind] or not str(module).startswith(("keras.", "ptycho.")):
        raise fail(
            f"layer {shown}: {kind} of {printable(module, 60)}, registered as {printable(registered, 60)}, is not known"
        )
    if not isinstance(config, dict):
        raise fail(f"layer {shown}: has no configuration")
    layer = Layer(name, kind, config)
    nodes = entry.get("inbound_nodes")
    if not isinstance(nodes, list) or len(nodes) != (0 if kind == "InputLayer" else 1):
        raise fail(
            f"layer {shown}: expected to be used once, found {len(nodes) if isinstance(nodes, list) else 'nothing'}"
        )
    for node in nodes:
        if not isinstance(node, dict) or not isinstance(node.get("args"), list):
            raise fail(f"layer {shown}: inputs described in a way that is not known")
        extra = node.get("kwargs") or {}
        if not isinstance(extra, dict) or any(value is not None for value in extra.values()):
            raise fail(f"layer {shown}: called with {printable(extra, 60)}; not known")
        _inputs(layer, node["args"], 0, fail)
    return layer


def _inputs(layer: Layer, items: list[Any], depth: int, fail: Fail) -> None:
    for item in items:
        kind = item.get("class_name") if isinstance(item, dict) else None
        if isinstance(item, list) and depth < 3:
            _inputs(layer, item, depth + 1, fail)
        elif kind == "__keras_tensor__":
            config = item.get("config")
            history = config.get("keras_history") if isinstance(config, dict) else None
            if not (
                isinstance(history, list)
                and len(history) == 3
                and isinstance(history[0], str)
                and history[1] == 0
                and type(history[2]) is int
            ):
                raise fail(f"layer {printable(layer.name, 60)}: input {brief(history)} is not known")
            layer.inputs.append((history[0], history[2]))
        elif kind == "__ellipsis__" and layer.kind == "GetItem":
            continue
        elif kind == "__slice__" and layer.kind == "GetItem" and layer.part is None:
            config = item.get("config")
            if not isinstance(config, dict) or config.get("step") is not None:
                raise fail(f"layer {printable(layer.name, 60)}: slice {brief(config)} is not known")
            layer.part = config.get("start"), config.get("stop")
        else:
            raise fail(f"layer {printable(layer.name, 60)}: argument {brief(item)} is not known")
