"""Scans: reading, writing, and grouping of neighbouring frames. Needs no torch."""

from __future__ import annotations

from ptycho_torch.scan.check import check_content
from ptycho_torch.scan.frames import FrameSource
from ptycho_torch.scan.grouping import group_neighbours, group_offsets, training_groups
from ptycho_torch.scan.probes import read_probe
from ptycho_torch.scan.registry import FORMATS, ScanFormat, format_names, open_scan, write_scan
from ptycho_torch.scan.scan import Geometry, Scan, ScanSource

__all__ = [
    "FORMATS",
    "FrameSource",
    "Geometry",
    "Scan",
    "ScanFormat",
    "ScanSource",
    "check_content",
    "format_names",
    "group_neighbours",
    "group_offsets",
    "open_scan",
    "read_probe",
    "training_groups",
    "write_scan",
]
