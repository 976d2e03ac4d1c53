"""Configuration: plain dataclasses, and moving them between dicts, YAML and flags. Needs no torch."""

from __future__ import annotations

from ptycho_torch.config.convert import (
    config_fields,
    from_dict,
    load_yaml,
    read_yaml,
    set_field,
    to_dict,
    to_yaml,
    validate,
)
from ptycho_torch.config.declare import opt
from ptycho_torch.config.generators import CnnOptions, UnrolledOptions
from ptycho_torch.config.schema import ExecutionConfig, InferenceConfig, ModelConfig, TrainingConfig

__all__ = [
    "CnnOptions",
    "ExecutionConfig",
    "InferenceConfig",
    "ModelConfig",
    "TrainingConfig",
    "UnrolledOptions",
    "config_fields",
    "from_dict",
    "load_yaml",
    "opt",
    "read_yaml",
    "set_field",
    "to_dict",
    "to_yaml",
    "validate",
]
