"""How a scan file is read, as flags that every command with a scan has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ptycho_torch.cli.options import apply_flags
from ptycho_torch.config import opt

__all__ = ["ReadingConfig", "reading_options"]


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
    crop: int | None = opt(None, "take so many detector pixels around the zero frequency", ge=2, le=65536)
    bin: int = opt(1, "add the counts of so many by so many detector pixels, after --crop", ge=1, le=256)


def reading_options(flags: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the flags of :class:`ReadingConfig` as keyword arguments of ``open_scan``."""
    asked = ReadingConfig()
    apply_flags(asked, flags or {})
    return {
        "run": asked.runs,
        "external": asked.external_data,
        "positions": asked.positions_file,
        "crop": asked.crop,
        "bin": asked.bin,
    }
