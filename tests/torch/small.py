"""A small simulated scan and quick settings, shared by the tests of training, inference and commands."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptycho_torch.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan

QUIET = ExecutionConfig(progress=False, accelerator="cpu")


def small_scan(size: int = 32, step: float = 6.0, edge: int = 64, seed: int = 0, **changes: Any) -> Scan:
    """36 frames or so of a smooth complex object."""
    obj = make_object("grf", edge, seed)
    positions = make_positions("grid", obj.shape, size, step=step, jitter=0.4, seed=seed)
    return simulate_scan(
        obj, make_probe("zoneplate", size), positions, **{"photons": 1e5, "seed": seed, **changes}
    )


def small_config(
    size: int = 32, gridsize: int = 1, architecture: str = "unrolled", **changes: Any
) -> TrainingConfig:
    """A few steps of a very small network; no time budget, so runs repeat bit for bit."""
    model = ModelConfig(
        N=size,
        gridsize=gridsize,
        architecture=architecture,
        unrolled_width=8,
        unrolled_levels=1,
        unrolled_iterations=1,
    )
    settings: dict[str, Any] = {
        "probe": "fixed", "max_minutes": None, "n_groups": 12, "batch_size": 4, "nepochs": 2, "warmup_steps": 2,
        "overlap_distance": 10.0, "overlap_own": 1.0, "frame_weight": 0.5,
    }  # fmt: skip
    return TrainingConfig(model=model, **{**settings, **changes})


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """|<a, b>| / (|a| |b|)."""
    return float(abs(np.vdot(a, b)) / np.linalg.norm(a) / np.linalg.norm(b))
