"""Simulated scans: objects, probes, trajectories, and the forward model in numpy. Needs no torch."""

from __future__ import annotations

from ptycho_torch.simulation.objects import OBJECT_NAMES, make_object
from ptycho_torch.simulation.probes import PROBE_NAMES, make_probe
from ptycho_torch.simulation.simulate import crop_patches, diffract, simulate_scan
from ptycho_torch.simulation.trajectories import TRAJECTORY_NAMES, make_positions

__all__ = [
    "OBJECT_NAMES",
    "PROBE_NAMES",
    "TRAJECTORY_NAMES",
    "crop_patches",
    "diffract",
    "make_object",
    "make_positions",
    "make_probe",
    "simulate_scan",
]
