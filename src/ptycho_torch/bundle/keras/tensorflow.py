"""Archives of the TensorFlow program: reading them as models of this package, and converting them.

The weights come from ``model.keras``, probe, scale and options from ``params.dill``; TensorFlow and Keras
are not needed, and ``custom_objects.dill`` is never opened. The description inside ``model.keras``
decides what the network is; parameters that say something else are an error, not a choice.
See docs/tensorflow-archives.md.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ptycho_torch.bundle.container.archive import Archive, bundle_file
from ptycho_torch.bundle.contents import Bundle, read_bundle, read_params
from ptycho_torch.bundle.keras.graph import HeadLayers, Network, read_network
from ptycho_torch.bundle.keras.weights import KerasFile, read_keras
from ptycho_torch.errors import BundleError, PtychoError, brief, printable
from ptycho_torch.files import require_new

__all__ = ["ConversionReport", "convert", "load_tensorflow_archive"]

Arrays = dict[str, list[NDArray[np.float32]]]

_NEEDED: Final = ("probe", "intensity_scale", "probe.mask", "gaussian_smoothing_sigma")
"""Parameters that change numbers and that the network's description does not hold."""
_TAIL: Final = "model.keras"


def load_tensorflow_archive(archive: Archive, model_name: str) -> tuple[nn.Module, dict[str, Any]]:
    """One model of a TensorFlow archive, rebuilt in eval mode, and the params that describe it.

    ``archive``: opened by :func:`~ptycho_torch.bundle.container.archive.open_archive`; ``model_name``: a folder in
    it. A model with three outputs becomes an ``Autoencoder``, one with the object alone a
    ``DiffractionToObject``. The params are the archive's, with ``architecture`` 'cnn' and, where the
    archive is silent, the values that the network itself shows.

    Raises :class:`~ptycho_torch.errors.BundleError` for whatever is unknown, does not fit or is damaged.
    """
    read = _read(archive, model_name)
    return _rebuild(archive, model_name, read), read.params


@dataclass(frozen=True)
class _Read:
    """One model as read from the archive: checked, and not yet a module."""

    params: dict[str, Any]
    network: Network
    keras: KerasFile


def _read(archive: Archive, model: str) -> _Read:
    member = f"{model}/{_TAIL}"
    fail = partial(archive.error, member)
    params = read_params(archive, model)
    data = archive.read(member)
    keras = read_keras(data, fail, archive.budget)
    archive.budget.give_back(len(data))
    network = read_network(keras.config, lambda reason: fail(f"config.json: {reason}"))
    return _Read(_agreed(params, network, partial(archive.error, f"{model}/params.dill")), network, keras)


def _agreed(
    params: Mapping[str, Any], network: Network, fail: Callable[[str], BundleError]
) -> dict[str, Any]:
    """The params completed by what the network shows. Raises where the two disagree or nobody knows."""
    missing = [key for key in _NEEDED if params.get(key) is None]
    if missing:
        raise fail(f"{missing[0]}: parameter is missing; without it the model's numbers cannot be known")
    if np.shape(params["probe"]) not in ((network.size, network.size), (network.size, network.size, 1)):
        raise fail(
            f"probe: expected shape ({network.size}, {network.size}, 1), found {np.shape(params['probe'])}"
        )
    side = math.isqrt(network.members)
    shown: dict[str, Any] = {
        "N": network.size,
        "gridsize": side,
        "n_filters_scale": _filters_scale(network, fail),
        "amp_activation": network.amp_activation,
        "object.big": network.object_big,
        "pad_object": network.pad_object,
    }
    if network.pad_object:
        shown["probe.big"] = network.probe_big
    for key, value in shown.items():
        if params.get(key) is not None and params[key] != value:
            raise fail(f"{key}: {brief(params[key], 40)} in params, but the network in {_TAIL} has {value!r}")
    full: dict[str, Any] = {"offset": 4, "max_position_jitter": 10, "probe.big": True, "model_type": "pinn"}
    full |= {
        **{k: v for k, v in params.items() if v is not None or k not in full},
        **shown,
        "architecture": "cnn",
    }
    padded = network.size + (side - 1) * full["offset"] + full["max_position_jitter"]
    if side * side != network.members or network.padded_size not in (None, padded):
        raise fail(
            f"offset, max_position_jitter: give a canvas of {padded} pixels, but the network in {_TAIL} has "
            f"{network.padded_size} pixels and {network.members} members"
        )
    return full


def _filters_scale(network: Network, fail: Callable[[str], BundleError]) -> int:
    from ptycho_torch.generators.cnn_layers import encoder_filters

    try:
        first = encoder_filters(network.size, 1)[0]
    except PtychoError as error:
        raise fail(str(error)) from None
    if network.filters < first or network.filters % first:
        raise fail(
            f"n_filters_scale: {network.filters} filters in the first layer; expected a multiple of {first}"
        )
    return network.filters // first


# ---------------------------------------------------------------- building


def _rebuild(archive: Archive, model: str, read: _Read) -> nn.Module:
    from ptycho_torch.model import create_torch_model_with_gridsize

    params, fail = read.params, partial(archive.error, f"{model}/{_TAIL}")

    def built(device: str) -> nn.Module:
        # Fresh weights are all replaced; the random numbers drawn for them are given back.
        with torch.random.fork_rng(devices=[]), torch.device(device):
            pair = create_torch_model_with_gridsize(params["gridsize"], params["N"], params)
        return pair[0] if read.network.with_physics else pair[1]

    try:
        empty = built("meta")  # without memory, to compare shapes before anything is allocated
    except PtychoError as error:
        raise archive.error(f"{model}/params.dill", str(error)) from None
    _compare(empty, read, fail)
    module = built("cpu")
    convolutions = dict(_convolutions(module, read.network, fail))
    with torch.no_grad():
        for name, conv in convolutions.items():
            kernel, bias = read.keras.arrays[name]
            conv.weight.copy_(torch.from_numpy(kernel).permute(3, 2, 0, 1))
            conv.bias.copy_(torch.from_numpy(bias))  # type: ignore[union-attr]
    return module.eval()


def _convolutions(
    module: nn.Module, network: Network, fail: Callable[[str], BundleError]
) -> list[tuple[str, nn.Conv2d]]:
    """Layer of the archive <-> convolution of the generator."""
    generator: Any = module.get_submodule("core.generator")
    pairs = _matched(network.encoder, generator.encoder.convs, "encoder", fail)
    for part, head in (("amplitude", network.amplitude), ("phase", network.phase)):
        pairs += _head(head, getattr(generator, part), part, fail)
    return pairs


def _head(
    layers: HeadLayers, head: Any, part: str, fail: Callable[[str], BundleError]
) -> list[tuple[str, nn.Conv2d]]:
    pairs = _matched(layers.base, head.base, f"{part} decoder", fail)
    pairs += _matched(layers.up, head.up or (), f"{part} border", fail)
    for name, conv in ((layers.inner, head.inner), (layers.outer, head.outer)):
        if name is not None:
            pairs.append((name, conv))
    return pairs


def _matched(
    names: list[str], convs: Any, what: str, fail: Callable[[str], BundleError]
) -> list[tuple[str, nn.Conv2d]]:
    if len(names) != len(convs):
        raise fail(
            f"config.json: {what}: expected {len(convs)} convolutions for these params, found {len(names)}"
        )
    return list(zip(names, convs, strict=True))


def _compare(empty: nn.Module, read: _Read, fail: Callable[[str], BundleError]) -> None:
    """Every convolution has its two arrays, of the right shapes, and no array is left over."""
    arrays = read.keras.arrays
    expected = dict(_convolutions(empty, read.network, fail))
    for name, conv in expected.items():
        outputs, inputs, height, width = conv.weight.shape
        wanted = [(height, width, inputs, outputs), (outputs,)]
        if name not in arrays:
            raise fail(f"model.weights.h5: {printable(name)}: its weights are missing")
        found = [array.shape for array in arrays[name]]
        if found != wanted:
            raise fail(f"model.weights.h5: {printable(name)}: expected shapes {wanted}, found {found}")
    left = sorted(set(arrays) - set(expected))
    if left:
        raise fail(f"model.weights.h5: weights of {printable(left[0])}, a layer that the model does not have")


# ---------------------------------------------------------------- converting


@dataclass(frozen=True)
class ConversionReport:
    """What :func:`convert` did.

    ``origin``: what the new bundle's provenance says of the old one; ``not_carried``: sentences on what
    the old archive held and the new bundle does not.
    """

    source: str
    target: str
    origin: dict[str, Any]
    not_carried: list[str] = field(default_factory=list)


def convert(old_path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> ConversionReport:
    """Writes a TensorFlow archive out as a bundle of this package's format.

    The new bundle's provenance names the old archive, its SHA-256 and the Keras version; its self-test
    is made from the converted model. Autoencoder and object model share their weights from then on, so
    both are read and have to be equal.

    Raises :class:`~ptycho_torch.errors.BundleError` when the old archive cannot be read,
    :class:`~ptycho_torch.errors.OutputError` when the new one cannot be written or is the old one.
    """
    from ptycho_torch.bundle.save import save_torch_bundle
    from ptycho_torch.model import Autoencoder, DiffractionToObject

    target = bundle_file(new_path)
    with read_bundle(old_path) as bundle:
        if bundle.backend != "tensorflow":
            raise bundle.error(None, f"is a {bundle.backend} bundle already (version {bundle.version})")
        require_new([target], bundle.path)
        models = {name: _read(bundle.archive, name) for name in bundle.models}
        _check_one_network(bundle, models)
        name, main = max(models.items(), key=lambda item: item[1].network.with_physics)
        module: Any = _rebuild(bundle.archive, name, main)
        origin = _origin(bundle, main)
        report = ConversionReport(bundle.path, str(target), origin, _not_carried(bundle, models))
    params = {**main.params, "backend": "pytorch"}
    save_torch_bundle(
        {
            "autoencoder": Autoencoder(module.core, params).eval(),
            "diffraction_to_obj": DiffractionToObject(module.core, params).eval(),
        },
        target,
        {key: value for key, value in params.items() if key != "probe"},
        intensity_scale=float(params["intensity_scale"]),
        provenance={"origin": origin, "not_carried": report.not_carried},
    )
    return report


def _check_one_network(bundle: Bundle, models: Mapping[str, _Read]) -> None:
    (first, one), *others = models.items()
    for name, other in others:
        same = one.keras.arrays.keys() == other.keras.arrays.keys() and all(
            np.array_equal(a, b)
            for key, arrays in one.keras.arrays.items()
            for a, b in zip(arrays, other.keras.arrays[key], strict=True)
        )
        if not same:
            raise bundle.error(
                f"{name}/{_TAIL}", f"holds other weights than {first}; one model cannot stand for both"
            )


def _origin(bundle: Bundle, read: _Read) -> dict[str, Any]:
    origin: dict[str, Any] = {
        "program": "PtychoPINN (TensorFlow)",
        "archive": Path(bundle.path).name,
        "version": bundle.version,
        "keras_version": read.keras.keras_version,
        "date_saved": read.keras.date_saved,
    }
    if Path(bundle.path).is_file():
        with Path(bundle.path).open("rb") as file:
            origin["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return origin


def _not_carried(bundle: Bundle, models: Mapping[str, _Read]) -> list[str]:
    told = []
    for name, read in models.items():
        if read.keras.optimizer_arrays:
            told.append(
                f"{name}: optimiser state ({read.keras.optimizer_arrays} arrays); further training starts it afresh"
            )
        if name not in ("autoencoder", "diffraction_to_obj"):
            told.append(f"{name}: the bundle holds this network as autoencoder and diffraction_to_obj")
    if any(name.endswith("/custom_objects.dill") for name in bundle.archive.names):
        told.append("custom_objects.dill: names of the program's own classes; never opened, not needed")
    return told
