"""From the description of a Keras model to the network it is, or to a refusal that names what is not known.

The description lists layers and what each takes in. It is walked from the outputs back to the inputs
along the one path that the TensorFlow program builds; every class, every option that changes a number
and every connection is compared. Names of layers play no part, so they may start at any number. A
layer that the walk does not meet is refused, too: it would mean that the model does something else.
Imports neither torch nor Keras.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ptycho_torch.bundle.keras.layers import Layer, read_ends, read_layers
from ptycho_torch.errors import BundleError, brief, printable

__all__ = ["HeadLayers", "Network", "read_network"]

Fail = Callable[[str], BundleError]

_CONV: Final = {
    "kernel_size": [3, 3], "strides": [1, 1], "padding": "same", "data_format": "channels_last",
    "dilation_rate": [1, 1], "groups": 1, "use_bias": True,
}  # fmt: skip
_POOL: Final = {"pool_size": [2, 2], "strides": [2, 2], "padding": "same", "data_format": "channels_last"}
_UP: Final = {"size": [2, 2], "interpolation": "nearest", "data_format": "channels_last"}
_AMPLITUDES: Final = ("sigmoid", "swish", "softplus", "relu")
_OUTER: Final = 4


@dataclass(frozen=True)
class HeadLayers:
    """Names of one decoder's convolutions; ``inner``, ``up`` and ``outer`` as in the ``cnn`` generator."""

    base: list[str]
    inner: str | None
    up: list[str]
    outer: str | None


@dataclass(frozen=True)
class Network:
    """What a description says about the model, and the names of its convolutions.

    ``padded_size``: side of the canvas, None where the model does not say; ``filters``: of the first
    convolution; ``with_physics``: three outputs (autoencoder) or the object alone.
    """

    size: int
    members: int
    filters: int
    amp_activation: str
    object_big: bool
    probe_big: bool
    pad_object: bool
    padded_size: int | None
    with_physics: bool
    encoder: list[str]
    amplitude: HeadLayers
    phase: HeadLayers


def read_network(description: dict[str, Any], fail: Fail) -> Network:
    """The network of a ``config.json``. Raises what ``fail`` makes, naming layer and option."""
    if description.get("class_name") != "Functional":
        raise fail(f"class {brief(description.get('class_name'))}; only Functional models are known")
    config = description.get("config")
    if not isinstance(config, dict):
        raise fail("has no configuration")
    layers = read_layers(config.get("layers"), fail)
    inputs, outputs = (read_ends(config.get(key), key, fail) for key in ("input_layers", "output_layers"))
    return _Walk(layers, inputs, outputs, fail).network()


# ---------------------------------------------------------------- walking


class _Walk:
    """One pass from outputs to inputs. Each step takes a layer's name and returns its input's."""

    def __init__(self, layers: dict[str, Layer], inputs: list[str], outputs: list[str], fail: Fail) -> None:
        self.layers, self.inputs, self.outputs, self.fail = layers, inputs, outputs, fail
        self.met: set[str] = set()

    def network(self) -> Network:
        """Walk from inputs and outputs to the middle; every layer must have been met then."""
        physics = self._ends()
        trim = self._layer(self.outputs[0], "TrimReconstructionLayer")
        self._options(trim, {"output_size": self.size}, optional=True)
        canvas = self._only(trim)
        if physics:
            self._physics(canvas)
        objects, object_big, padded = self._canvas(canvas)
        amplitude, phase, bottom, activation = self._decoders(objects)
        encoder = self._encoder(bottom)
        unmet = [name for name in self.layers if name not in self.met]
        if unmet:
            raise self.fail(
                f"layer {printable(unmet[0], 60)}: {self.layers[unmet[0]].kind} that the known model does not have"
            )
        return Network(
            size=self.size,
            members=self.members,
            filters=self.layers[encoder[0]].config["filters"],
            amp_activation=activation,
            object_big=object_big,
            # Without padding there is no border of its own, and the option has no effect.
            probe_big=amplitude.outer is not None,
            pad_object=amplitude.inner is not None,
            padded_size=padded,
            with_physics=physics,
            encoder=encoder,
            amplitude=amplitude,
            phase=phase,
        )

    def _ends(self) -> bool:
        """Check inputs and number of outputs; whether the forward model is among the layers."""
        if len(self.inputs) != 2:
            raise self.fail(f"{len(self.inputs)} inputs; expected frames and positions")
        frames = self._layer(self.inputs[0], "InputLayer")
        shape = frames.config.get("batch_shape")
        if (
            not isinstance(shape, list)
            or len(shape) != 4
            or shape[1] != shape[2]
            or any(type(n) is not int for n in shape[1:])
        ):
            raise self.fail(f"layer {printable(frames.name, 60)}: batch_shape {brief(shape)} is not known")
        self.size, self.members = shape[1], shape[3]
        positions = self._layer(self.inputs[1], "InputLayer")
        self._options(positions, {"batch_shape": [None, 1, 2, self.members]})
        if len(self.outputs) not in (1, 3):
            raise self.fail(
                f"{len(self.outputs)} outputs; expected the object, or object, amplitude and intensity"
            )
        return len(self.outputs) == 3

    def _decoders(self, objects: str) -> tuple[HeadLayers, HeadLayers, str, str]:
        """The heads of amplitude and phase, the layer that both start from, and the amplitude's activation."""
        combine = self._layer(objects, "CombineComplexLayer")
        self._polar(combine)
        if len(combine.inputs) != 2:
            raise self._unexpected(combine, f"{len(combine.inputs)} inputs")
        (amplitude_end, _), (phase_end, _) = combine.inputs
        amplitude, bottom, activation = self._head(amplitude_end, phase=False)
        phase, bottom_2, _ = self._head(phase_end, phase=True)
        if bottom != bottom_2:
            raise self.fail(
                f"the two decoders start from {printable(bottom, 60)} and {printable(bottom_2, 60)};"
                " expected one encoder"
            )
        if (amplitude.inner is None, amplitude.outer is None) != (phase.inner is None, phase.outer is None):
            raise self.fail("amplitude and phase decoders are built differently")
        return amplitude, phase, bottom, activation

    # -- single steps

    def _unexpected(self, layer: Layer, what: str) -> BundleError:
        return self.fail(f"layer {printable(layer.name, 60)} ({layer.kind}): {what}; not the known model")

    def _layer(self, name: str, *kinds: str) -> Layer:
        layer = self.layers.get(name)
        if layer is None:
            raise self.fail(f"layer {printable(name, 60)} is used but not described")
        if layer.kind not in kinds:
            raise self._unexpected(layer, f"expected {' or '.join(kinds)} here")
        self.met.add(name)
        return layer

    def _options(self, layer: Layer, expected: dict[str, Any], optional: bool = False) -> None:
        """``optional``: an option may be missing or null, as older versions wrote it."""
        for key, value in expected.items():
            found = layer.config.get(key)
            if not (optional and found is None) and (
                found != value or isinstance(found, bool) != isinstance(value, bool)
            ):
                raise self._unexpected(layer, f"{key}: expected {value!r}, found {brief(found)}")

    def _only(self, layer: Layer, output: int = 0) -> str:
        if len(layer.inputs) != 1 or layer.inputs[0][1] != output:
            raise self._unexpected(layer, f"inputs {brief(layer.inputs, 80)}")
        return layer.inputs[0][0]

    def _two(self, layer: Layer) -> tuple[str, str]:
        if len(layer.inputs) != 2 or any(index != 0 for _, index in layer.inputs):
            raise self._unexpected(layer, f"inputs {brief(layer.inputs, 80)}")
        return layer.inputs[0][0], layer.inputs[1][0]

    def _conv(self, name: str, activation: str) -> str:
        if name in self.met:  # also ends the walk around a loop
            raise self.fail(f"layer {printable(name, 60)} is used twice; not the known model")
        layer = self._layer(name, "Conv2D")
        self._options(layer, {**_CONV, "activation": activation})
        policy = layer.config.get("dtype")
        inner = policy.get("config") if isinstance(policy, dict) else None
        dtype = inner.get("name") if isinstance(inner, dict) else policy
        if dtype != "float32":
            raise self._unexpected(layer, f"dtype: expected float32, found {brief(dtype)}")
        if type(layer.config.get("filters")) is not int:
            raise self._unexpected(layer, "filters: expected a number")
        return self._only(layer)

    def _pair(self, name: str, kind: str, options: dict[str, Any]) -> tuple[list[str], str]:
        """Convolution, convolution, then ``kind``: the two names in their order, and what goes in."""
        after = self._layer(name, kind)
        self._options(after, options)
        second = self._only(after)
        first = self._conv(second, "relu")
        return [first, second], self._conv(first, "relu")

    # -- parts of the model

    def _polar(self, layer: Layer) -> None:
        polar = layer.config.get("use_polar")
        if polar is None:
            raise self._unexpected(
                layer,
                "use_polar is missing: whether the network gives amplitude and phase or real and imaginary"
                " part cannot be known",
            )
        if polar is not True:
            raise self._unexpected(layer, f"use_polar: expected True, found {brief(polar, 20)}")

    def _canvas(self, name: str) -> tuple[str, bool, int | None]:
        layer = self._layer(name, "ReassemblePatchesLayer", "PadReconstructionLayer")
        if layer.kind == "PadReconstructionLayer":
            return self._only(layer), False, None
        side = math.isqrt(self.members)
        self._options(layer, {"N": self.size, "gridsize": side}, optional=True)
        padded = layer.config.get("padded_size")
        if padded is not None and type(padded) is not int:
            raise self._unexpected(layer, f"padded_size {brief(padded, 40)}")
        objects, positions = self._two(layer)
        if positions != self.inputs[1]:
            raise self._unexpected(layer, f"positions come from {printable(positions, 60)}")
        return objects, True, padded

    def _head(self, name: str, phase: bool) -> tuple[HeadLayers, str, str]:
        """One decoder from its last layer down: its convolutions, the layer it starts from, its activation."""
        top = self._layer(name, "Add", "ZeroPadding2D", "ActivationLayer")
        inner: str | None = None
        up: list[str] = []
        outer: str | None = None
        if top.kind == "ActivationLayer":
            activation, outer = self._activation(name, phase)
            up, base_end = self._full(outer)
        else:
            padding, border = self._two(top) if top.kind == "Add" else (name, None)
            quarter = self.size // 4
            padded = self._layer(padding, "ZeroPadding2D")
            self._options(padded, {"padding": [[quarter, quarter]] * 2, "data_format": "channels_last"})
            activation, inner = self._activation(self._only(padded), phase)
            base_end = self._channels(self._conv(inner, "linear"), (None, -_OUTER))
            if border is not None:
                outer = self._border(border)
                up, part = self._full(outer)
                if self._channels(part, (-_OUTER, None)) != base_end:
                    raise self._unexpected(top, "centre and border come from different layers")
        base: list[str] = []
        while self.layers.get(base_end, top).kind == "UpSampling2D":
            pair, base_end = self._pair(base_end, "UpSampling2D", _UP)
            base = pair + base
        return HeadLayers(base, inner, up, outer), base_end, activation

    def _activation(self, name: str, phase: bool) -> tuple[str, str]:
        layer = self._layer(name, "ActivationLayer")
        kind, scale = layer.config.get("activation_name"), layer.config.get("scale", 1.0)
        if phase:
            if kind != "tanh" or not isinstance(scale, float) or abs(scale - math.pi) > 1e-6:
                raise self._unexpected(layer, f"expected pi tanh, found {brief(scale, 30)} {brief(kind, 30)}")
        elif kind not in _AMPLITUDES or scale != 1:
            raise self._unexpected(
                layer,
                f"activation {brief(kind, 30)} times {brief(scale, 30)}; known are {', '.join(_AMPLITUDES)}",
            )
        return str(kind), self._only(layer)

    def _full(self, outer: str) -> tuple[list[str], str]:
        """The block that doubles the size, below the convolution ``outer``."""
        return self._pair(self._conv(outer, "linear"), "UpSampling2D", _UP)

    def _channels(self, name: str, part: tuple[int | None, int | None]) -> str:
        layer = self._layer(name, "GetItem")
        if layer.part != part:
            raise self._unexpected(layer, f"channels {brief(layer.part, 40)}, expected {part}")
        return self._only(layer)

    def _border(self, name: str) -> str:
        """silu(outer) times the mask of the border: the convolution's name."""
        product = self._layer(name, "Multiply")
        silu, mask = self._two(product)
        masking = self._layer(mask, "CenterMaskLayer")
        self._options(masking, {"N": self.size, "c": 1, "kind": "border"})
        if self._only(masking) != silu:
            raise self._unexpected(masking, "is made for another layer")
        return self._only(self._layer(silu, "Silu"))

    def _encoder(self, name: str) -> list[str]:
        convs: list[str] = []
        while not convs or (name in self.layers and self.layers[name].kind == "MaxPooling2D"):
            pair, name = self._pair(name, "MaxPooling2D", _POOL)
            convs = pair + convs
        scaler = self._layer(name, "IntensityScaler")
        if self._only(scaler) != self.inputs[0]:
            raise self._unexpected(scaler, "does not take the frames")
        return convs

    def _physics(self, canvas: str) -> None:
        square = self._layer(self.outputs[2], "SquareLayer")
        if self._only(square) != self.outputs[1]:
            raise self._unexpected(square, "is not the square of the second output")
        channels = self._layer(
            self._only(self._layer(self.outputs[1], "IntensityScaler_inv")), "FlatToChannelLayer"
        )
        side = math.isqrt(self.members)
        self._options(channels, {"N": self.size, "gridsize": side})
        far = self._layer(self._only(channels, output=1), "PadAndDiffractLayer")
        self._options(far, {"h": self.size, "w": self.size, "pad": False})
        probe = self._layer(self._only(far), "ProbeIllumination")
        self._options(probe, {"N": self.size}, optional=True)
        patches = self._layer(self._only(probe), "ExtractPatchesPositionLayer")
        self._options(patches, {"jitter": 0.0})
        self._options(patches, {"N": self.size, "gridsize": side}, optional=True)
        if self._two(patches) != (canvas, self.inputs[1]):
            raise self._unexpected(patches, "is not cut from the object at the given positions")
