"""Configuration files, for all commands alike: read, applied under the flags, and printed.

A file has the fields of a command's configuration and sections of others, as ``train`` writes them to
``config.yaml`` and ``--print-config`` prints them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ptycho_torch.config import InferenceConfig, TrainingConfig, config_fields, from_dict, read_yaml, to_yaml

__all__ = ["ConfigOption", "PrintConfigFlag", "apply_file", "print_config"]

logger = logging.getLogger(__name__)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file with any of the options below.", show_default=False)
]
PrintConfigFlag = Annotated[
    bool,
    typer.Option(
        "--print-config", help="Print what would be used, as YAML for --config, and do nothing else."
    ),
]
_SHARED = ("seed",)
"""Fields that mean the same in training and in reconstructing."""


def apply_file(path: Path, settings: Any, **sections: Any) -> None:
    """Set what a configuration file says.

    Parameters
    ----------
    path : Path
    settings : dataclass
        Gets the file's own fields. Where it is an :class:`InferenceConfig` and the file is one of training, it
        gets what means the same there, and the rest of the file is left alone: the model knows it.
    **sections : dataclass
        Get the sections of their names.

    Raises
    ------
    ConfigError
        One line with file and key.
    """
    data = dict(read_yaml(path))
    for name, section in sections.items():
        from_dict(type(section), data.pop(name, None) or {}, f"{path}: {name}.", section)
    if isinstance(settings, InferenceConfig) and _of_training(data):
        from_dict(TrainingConfig, data, f"{path}: ")
        data = {key: value for key, value in data.items() if key in _SHARED}
        logger.info("%s is of training: its seed and its section 'execution' are used", path)
    from_dict(type(settings), data, f"{path}: ", settings)


def _of_training(data: Mapping[str, Any]) -> bool:
    return bool(set(data) & (set(config_fields(TrainingConfig)) - set(config_fields(InferenceConfig))))


def print_config(settings: Any, **sections: Any) -> None:
    """Print what is used as a configuration file; raises ``typer.Exit``, since nothing else is to be done."""
    typer.echo(to_yaml(settings, **sections), nl=False)
    raise typer.Exit
