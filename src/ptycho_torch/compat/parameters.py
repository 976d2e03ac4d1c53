"""The flat parameter dictionary of the older program, and its one global instance.

``dataclass_to_legacy_dict`` renames fields to the dotted keys that the older program's archives and
scripts use. ``cfg`` exists for outside callers; inside this package only the bundle's load and save
edge reads or writes it. Imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

from ptycho_torch.config import ModelConfig

__all__ = [
    "KEY_MAPPINGS",
    "cfg",
    "dataclass_to_legacy_dict",
    "model_config_from_legacy",
    "update_legacy_dict",
]

KEY_MAPPINGS: Final[dict[str, str]] = {
    "object_big": "object.big",
    "probe_big": "probe.big",
    "probe_mask": "probe.mask",
    "probe_trainable": "probe.trainable",
    "intensity_scale_trainable": "intensity_scale.trainable",
    "positions_provided": "positions.provided",
    "output_dir": "output_prefix",
    "train_data_file": "train_data_file_path",
    "test_data_file": "test_data_file_path",
    # In the flat dictionary 'probe' is the array itself; how it is treated needs a name of its own.
    "probe": "probe.treatment",
}
"""Field name -> key of the flat dictionary, where the two differ."""

cfg: dict[str, Any] = {}
"""The global dictionary, for outside callers."""


def dataclass_to_legacy_dict(config: Any) -> dict[str, Any]:
    """Flattens a configuration dataclass to the older program's keys; paths become text.

    Nested dataclasses are merged into the one level: ``config.model.N`` is ``N``.
    """
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            flat |= dataclass_to_legacy_dict(value)
        else:
            flat[KEY_MAPPINGS.get(item.name, item.name)] = str(value) if isinstance(value, Path) else value
    return flat


def update_legacy_dict(target: MutableMapping[str, Any], config: Any) -> None:
    """Writes a configuration into a flat dictionary. Unset (``None``) fields leave old values alone."""
    for key, value in dataclass_to_legacy_dict(config).items():
        if value is not None or key not in target:
            target[key] = value


def model_config_from_legacy(params: Mapping[str, Any]) -> ModelConfig:
    """The :class:`ModelConfig` that a params snapshot describes; absent keys take their defaults.

    Raises :class:`~ptycho_torch.errors.ConfigError` for a value of the wrong type or out of range.
    """
    from ptycho_torch.config import set_field

    config = ModelConfig()
    for item in dataclasses.fields(ModelConfig):
        key = KEY_MAPPINGS.get(item.name, item.name)
        if key in params:
            set_field(config, item.name, params[key], where="params: ")
    return config
