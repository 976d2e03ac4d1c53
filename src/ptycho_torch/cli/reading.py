"""How a scan file is read, as flags that every command with a scan has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ptycho_torch.cli.options import apply_flags
from ptycho_torch.config import opt

__all__ = ["ReadingConfig", "reading_options"]

_NAMES = {
    "runs": "run",
    "external_data": "external",
    "positions_file": "positions",
    "crop": "crop",
    "bin": "bin",
}
"""Fields, each with its argument of ``open_scan``."""


@dataclass
class ReadingConfig:
    """What :func:`~ptycho_torch.scan.open_scan` is asked for besides format, measurement and probe."""

    runs: int | Literal["all"] | None = opt(
        None, "of a file with several runs, the number of the one to take; 'all' takes them for one object"
    )
    external_data: bool = opt(
        False, "follow links and virtual data sets of an HDF5 file to data files in the same folder"
    )
    positions_file: Path | None = opt(None, "file with positions to use in place of the scan's")
    crop: int | None = opt(
        None, "width of the square of detector pixels to keep around the zero frequency", ge=2, le=65536
    )
    bin: int = opt(1, "width of the square of detector pixels that are added up, after --crop", ge=1, le=256)


def reading_options(flags: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return those flags of :class:`ReadingConfig` that were given, as keyword arguments of ``open_scan``."""
    asked = ReadingConfig()
    apply_flags(asked, flags or {})
    return {_NAMES[name]: getattr(asked, name) for name in flags or {} if name in _NAMES}
