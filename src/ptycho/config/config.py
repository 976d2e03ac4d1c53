"""Configuration dataclasses and the flat dictionary. Imports no framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptycho_torch.compat.parameters import KEY_MAPPINGS, dataclass_to_legacy_dict, update_legacy_dict
from ptycho_torch.config import ExecutionConfig as PyTorchExecutionConfig
from ptycho_torch.config import InferenceConfig, ModelConfig, TrainingConfig, read_yaml, validate

__all__ = [
    "KEY_MAPPINGS",
    "InferenceConfig",
    "ModelConfig",
    "PyTorchExecutionConfig",
    "TrainingConfig",
    "dataclass_to_legacy_dict",
    "load_yaml_config",
    "update_legacy_dict",
    "validate_inference_config",
    "validate_model_config",
    "validate_training_config",
]


def load_yaml_config(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file."""
    return read_yaml(path)


def validate_model_config(config: ModelConfig) -> None:
    """Raises :class:`~ptycho_torch.errors.ConfigError` (a ``ValueError``) naming the first wrong field."""
    validate(config)


def validate_training_config(config: TrainingConfig) -> None:
    """As :func:`validate_model_config`, the model included."""
    validate(config)


def validate_inference_config(config: InferenceConfig) -> None:
    """As :func:`validate_model_config`, the model included."""
    validate(config)
