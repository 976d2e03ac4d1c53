"""The params snapshot: judged as a configuration before any model is built from it.

Also where a snapshot is made. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, Final

import numpy as np

from ptycho_torch.compat.parameters import KEY_MAPPINGS, dataclass_to_legacy_dict, model_config_from_legacy
from ptycho_torch.config import InferenceConfig, ModelConfig, TrainingConfig, config_fields
from ptycho_torch.errors import BundleError, ConfigError, brief, printable

__all__ = ["MODEL_RECORD", "check_params", "flat_config", "make_snapshot", "model_record", "plain_numbers"]

MODEL_RECORD: Final = "_model_config"
"""Key of the model's configuration a second time, as JSON text: a change of one alone is noticed."""


_INTEGERS: Final = frozenset(
    KEY_MAPPINGS.get(leaf, leaf)
    for cls in (TrainingConfig, InferenceConfig)
    for leaf, kind in ((name.rpartition(".")[2], kind) for name, (kind, _) in config_fields(cls).items())
    if kind in (int, int | None)
)
"""Keys of the flat dictionary that hold integers."""


def plain_numbers(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same parameters with numpy scalars as Python numbers and text."""
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in params.items()}


def _whole(params: Mapping[str, Any], fail: Callable[[str], Exception]) -> dict[str, Any]:
    """The same with whole floats of integer parameters as integers; others of them are refused."""
    whole = plain_numbers(params)
    for key in _INTEGERS & whole.keys():
        value = whole[key]
        if isinstance(value, float):
            if not value.is_integer():
                raise fail(f"params: {key}: expected an integer, found {value}")
            whole[key] = int(value)
    return whole


def check_params(found: Any, fail: Callable[[str], BundleError]) -> dict[str, Any]:
    """The snapshot as a dictionary from which a model may be built.

    Checked: keys are text; ``N`` and ``gridsize`` are there; every field of
    :class:`~ptycho_torch.config.ModelConfig` has its type and range (whole floats are taken for
    integers, as older writers leave them); ``intensity_scale``, where
    present, is a positive finite number; the probe is a finite complex array that fits ``N``. Raises
    what ``fail`` makes.
    """
    if not isinstance(found, dict):
        raise fail(f"expected a dictionary of parameters, found {type(found).__name__}")
    if any(type(key) is not str for key in found):
        raise fail("parameter name that is not text")
    params = _whole(found, fail)
    missing = [key for key in ("N", "gridsize") if key not in params]
    if missing:
        raise fail(f"missing required fields: {', '.join(missing)}; cannot reconstruct model architecture")
    try:
        config = model_config_from_legacy(params)
    except ConfigError as error:
        raise fail(str(error)) from None
    for key in ("intensity_scale", "nphotons", "amplitude_normalisation"):
        value = params.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise fail(f"{key}: expected a number, found {type(value).__name__}")
        if not (math.isfinite(value) and value > 0):
            raise fail(f"{key}: expected a positive finite number, found {value}")
    _check_probe(params.get("probe"), config.N, fail)
    _check_record(params, fail)
    return params


def _check_probe(probe: Any, size: int, fail: Callable[[str], BundleError]) -> None:
    if probe is None:
        return
    if not isinstance(probe, np.ndarray) or probe.dtype.kind not in "fc":
        raise fail(f"probe: expected a complex array, found {type(probe).__name__}")
    shape = probe.shape
    fits = shape in ((size, size), (size, size, 1)) or (
        len(shape) == 3 and 1 <= shape[0] <= 64 and shape[1:] == (size, size)
    )
    if not fits:
        raise fail(
            f"probe: expected shape (modes, {size}, {size}) for N={size}, found {shape}; N or the probe is wrong"
        )
    if not np.isfinite(probe).all():
        raise fail("probe: holds values that are not finite")


def model_record(params: Mapping[str, Any]) -> str:
    """The model's part of ``params`` as JSON text, for :data:`MODEL_RECORD`."""
    keys = [KEY_MAPPINGS.get(f.name, f.name) for f in dataclasses.fields(ModelConfig)]
    return json.dumps({k: params[k] for k in sorted(keys) if k in params}, sort_keys=True)


def _check_record(params: Mapping[str, Any], fail: Callable[[str], BundleError]) -> None:
    text = params.get(MODEL_RECORD)
    if text is None:
        return
    try:
        record = json.loads(text) if isinstance(text, str) and len(text) < 1 << 16 else None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise fail(f"{MODEL_RECORD}: not a record of the model's configuration")
    for key, value in record.items():
        if key not in params or params[key] != value:
            raise fail(
                f"{printable(key, 60)}: {brief(params.get(key))}, but the model was saved with "
                f"{brief(value)}; one of the two was changed afterwards"
            )


def flat_config(config: Any) -> dict[str, Any]:
    """A configuration dataclass or a mapping as one flat dictionary; paths become text.

    Raises :class:`~ptycho_torch.errors.ConfigError` for anything else, and for an integer field that
    holds a fraction.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        flat = dataclass_to_legacy_dict(config)
    elif isinstance(config, Mapping):
        flat = dict(config)
    else:
        raise ConfigError(
            f"config: expected a configuration dataclass or a mapping, found {type(config).__name__}"
        )
    return {k: str(v) if isinstance(v, PurePath) else v for k, v in _whole(flat, ConfigError).items()}


def make_snapshot(
    flat: Mapping[str, Any],
    extra: Mapping[str, Any],
    intensity_scale: float,
    version: str,
    fail: Callable[[str], BundleError],
) -> dict[str, Any]:
    """The snapshot for a bundle: flat configuration, extras such as the probe, scale, version; checked.

    Raises what ``fail`` makes for what :func:`check_params` refuses.
    """
    plain = {k: v for k, v in flat.items() if k != MODEL_RECORD}  # of the bundle it came from, if any
    params = {**plain, **extra, "intensity_scale": float(intensity_scale), "_version": version}
    return {**params, MODEL_RECORD: model_record(check_params(params, fail))}
