"""What solves a region while frames arrive, and how well its image explains frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.live.orientation import ORIENTATIONS, Orientation
from ptycho_torch.physics.projection import project
from ptycho_torch.physics.regions import crop_patches, place, shifted_probes
from ptycho_torch.solvers import LearnedOptions
from ptycho_torch.solvers.learned import Frames, RegionObject, solve_learned
from ptycho_torch.solvers.windows import Windows

__all__ = ["FlatEngine", "LearnedEngine", "Region", "RegionEngine", "misfit", "which_orientation"]

_CLEAR = 0.9
"""Another orientation than the one given must leave less than this part of its residual."""


@dataclass(frozen=True)
class Region:
    """Frames that are solved together.

    ``frames``: (M, N, N) float32 normalised amplitudes; ``positions``: (M, 2); ``probe``: (modes, N, N);
    ``good``: (N, N) bool or None; ``noise``: standard deviation of the amplitudes, 0 where it is not known.
    """

    frames: NDArray[np.float32]
    positions: NDArray[np.float64]
    probe: NDArray[np.complex64]
    good: NDArray[np.bool_] | None = None
    noise: float = 0.0

    @property
    def size(self) -> int:
        return int(self.frames.shape[-1])


class RegionEngine(Protocol):
    """Solves regions; the object is in the gauge of the probe that comes with it."""

    def solve(self, region: Region, update_probe: bool) -> RegionObject: ...


class LearnedEngine:
    """The learned solver, a few iterations.

    Parameters
    ----------
    network : RegionSolver
    sweeps : int
        Iterations of a region; one whose probe is solved for has twice as many.
    """

    def __init__(self, network: RegionSolver, sweeps: int = 3) -> None:
        self.network, self.sweeps = network, sweeps

    def solve(self, region: Region, update_probe: bool) -> RegionObject:
        frames = Frames(
            lambda index: region.frames[index], region.positions, region.size, region.good, region.noise
        )
        sweeps = 2 * self.sweeps if update_probe else self.sweeps
        options = LearnedOptions(sweeps=sweeps, update_probe=update_probe)
        return solve_learned(self.network, frames, region.probe, options)


class FlatEngine:
    """Solves nothing: a flat object where there is light. It shows what everything around a solver costs."""

    def solve(self, region: Region, update_probe: bool) -> RegionObject:
        placed = place(region.positions, region.size)
        light = torch.zeros(placed.shape)
        power = torch.from_numpy(np.square(np.abs(region.probe)).sum(0))
        windows = Windows(placed.corners.numpy(), region.size, placed.shape[1], light.device)
        windows.add(light, power.expand(len(region.positions), -1, -1))
        seen = light.numpy()
        return RegionObject((seen > 0).astype(np.complex64), seen, placed.origin_xy, region.probe)


@torch.inference_mode()
def misfit(region: Region, obj: NDArray[np.complex64]) -> float:
    """Return R of a region's frames under an object that lies where :func:`place` puts it.

    R = sum (|F psi| - A)^2 / sum A^2
    """
    placed = place(region.positions, region.size)
    probes = shifted_probes(torch.from_numpy(region.probe), placed.fractions)
    under = crop_patches(torch.from_numpy(obj), placed.corners, region.size).unsqueeze(1)
    measured = torch.fft.ifftshift(torch.from_numpy(region.frames), dim=(-2, -1)).unsqueeze(1)
    good = None if region.good is None else torch.from_numpy(np.fft.ifftshift(region.good))
    if good is not None:
        measured = measured * good
    _, left = project(under * probes, measured, good)
    return float(left.square().sum() / measured.square().sum().clamp_min(1e-30))


def which_orientation(region: Region, engine: RegionEngine) -> tuple[Orientation, dict[str, float]]:
    """Find how frames lie, by the residual that a solver leaves under each of eight orientations.

    Parameters
    ----------
    region : Region
        Frames as they come, which overlap each other.
    engine : RegionEngine

    Returns
    -------
    tuple of Orientation and dict
        The one that explains the frames best, and R by name. As they are unless another is clearly better.

    Notes
    -----
    Frames turned by 180 degrees are those of the conjugate object under the conjugate probe: only the probe's
    guess tells them apart, so that the probe is not solved for.
    """
    found: dict[str, float] = {}
    for each in ORIENTATIONS:
        turned = replace(
            region,
            frames=np.ascontiguousarray(each.turn(region.frames)),
            good=None if region.good is None else np.ascontiguousarray(each.turn(region.good)),
        )
        solved = engine.solve(turned, False)
        found[each.name] = misfit(turned, solved.object)
    best = min(found, key=lambda name: found[name])
    return Orientation.named(best if found[best] < _CLEAR * found["as-is"] else "as-is"), found
