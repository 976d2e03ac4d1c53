"""Scans: reading, writing, and grouping of neighbouring frames. Needs no torch."""

from __future__ import annotations

# Importing a format's module registers it; a new format is a new file and a line here.
from ptycho_torch.scan import cxi as _cxi
from ptycho_torch.scan import npz as _npz
from ptycho_torch.scan import ptychodus as _ptychodus
from ptycho_torch.scan import ptyd as _ptyd
from ptycho_torch.scan.grouping import group_neighbours, group_offsets, training_groups
from ptycho_torch.scan.npz import read_probe
from ptycho_torch.scan.registry import format_names, open_scan, register_format, write_scan
from ptycho_torch.scan.scan import Geometry, Scan, ScanSource, check_content

__all__ = [
    "Geometry",
    "Scan",
    "ScanSource",
    "check_content",
    "format_names",
    "group_neighbours",
    "group_offsets",
    "open_scan",
    "read_probe",
    "register_format",
    "training_groups",
    "write_scan",
]
