"""Settings of exported files, each with its help text, range and default. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ptycho_torch.config.declare import opt

__all__ = ["ExportOptions"]


@dataclass
class ExportOptions:
    """What an exported file is made for."""

    frame_size: int | None = opt(
        None,
        "edge of a frame, pixels; default: the model's, 64 for the one that ships",
        ge=16,
        le=1024,
        multiple_of=2,
    )
    region: int = opt(192, "region solvers: edge of the region, pixels", ge=32, le=8192, multiple_of=2)
    modes: int = opt(1, "region solvers: probe modes", ge=1, le=16)
    subsets: int = opt(
        4,
        "region solvers: parts in which frames change the object; a part holds frames that cover a point about"
        " three times",
        ge=1,
        le=8,
    )
    iterations: int = opt(10, "region solvers: iterations; 10 is what reconstruct takes", ge=1, le=64)
    update_probe: bool = opt(True, "region solvers: whether the probe is solved for")
    reach: float | None = opt(
        None, "groups of frames: largest offset from a group's mean, pixels; default: N / 4", gt=0
    )
