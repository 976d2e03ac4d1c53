"""What the learned solver is given of a scan: normalised frames, read as they are asked for, and their light."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_torch.physics.regions import Placement, put_patches, shifted_probes
from ptycho_torch.scan import Scan

__all__ = ["Frames", "frames_of", "light_of"]


@dataclass(frozen=True)
class Frames:
    """Normalised frames as the solver wants them, read as they are asked for.

    ``read(index)`` gives (m, N, N) float32 amplitudes in the unit of the probe; ``positions``: (M, 2);
    ``noise``: standard deviation of the amplitudes, 0 where it is not known.
    """

    read: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    positions: NDArray[np.float64]
    size: int
    good: NDArray[np.bool_] | None = None
    noise: float = 0.0


def frames_of(scan: Scan, positions: NDArray[np.float64] | None = None) -> Frames:
    """Return a scan's frames as the solver wants them, at its own positions or at others."""
    factor = scan.normalisation
    return Frames(
        lambda index: np.asarray(scan.frames[index], dtype=np.float32) * np.float32(factor),
        scan.positions if positions is None else positions,
        scan.N,
        scan.good_pixels,
        0.5 * factor if scan.counts_known else 0.0,
    )


def light_of(placed: Placement, probe: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Return the summed |P|^2, (H, W), of frames that lie as ``placed`` says; a part of them at a time."""
    total = torch.zeros(placed.shape)
    waves = torch.from_numpy(np.ascontiguousarray(probe))
    for part in torch.arange(len(placed.corners)).split(256):
        seen = shifted_probes(waves, placed.fractions[part]).abs().square().sum(1)
        total += put_patches(seen, placed.corners[part], placed.shape)
    return total.numpy()
