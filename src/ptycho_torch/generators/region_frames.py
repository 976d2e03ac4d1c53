"""Frames of a region as the solver is given them, what it gives back, and what it takes from all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["RegionFrames", "Solution", "dealt_subsets", "mean_by_region", "scale_of", "subsets_for"]


def subsets_for(cover: float, frames: int) -> int:
    """Return how many subsets frames are dealt to: one per three-fold coverage, eight at most.

    Examples
    --------
    >>> subsets_for(0.4, 9), subsets_for(12.0, 100), subsets_for(90.0, 1000)
    (1, 4, 8)
    """
    return min(max(round(cover / 3), 1), 8, max(frames, 1))


def mean_by_region(values: Tensor, owner: Tensor, regions: int) -> tuple[Tensor, Tensor]:
    """Return the mean of the frames' values, (M,), in each of some regions, and how many frames it has, (B,) both."""
    counts = values.new_zeros(regions).index_add_(0, owner, torch.ones_like(values)).clamp_min(1)
    return values.new_zeros(regions).index_add_(0, owner, values) / counts, counts


def scale_of(probe: Tensor, mean_power: Tensor) -> Tensor:
    """Return the factors (B,) on probes (B, modes, N, N) that give them the power of their frames."""
    power = (probe.real.square() + probe.imag.square()).sum((1, 2, 3))
    return (mean_power / power).clamp_min(1e-30).sqrt()


def dealt_subsets(frames: int, count: int) -> Tensor:
    """Return the subset of each of a region's frames, (frames,) int64, as the solver deals them.

    Examples
    --------
    >>> torch.bincount(dealt_subsets(10, 3)).tolist()
    [4, 3, 3]
    """
    subset = torch.empty(frames, dtype=torch.int64)
    subset[torch.randperm(frames, generator=torch.Generator().manual_seed(0))] = torch.arange(frames) % count
    return subset


@dataclass(frozen=True)
class RegionFrames:
    """The frames of one region, or of several regions of one shape.

    Attributes
    ----------
    amplitudes : (M, N, N) float tensor
        Measured amplitudes, zero frequency at pixel [N//2, N//2].
    corners : (M, 2) int64 tensor
        Row and column of each patch's first pixel.
    fractions : (M, 2) float tensor
        Fraction of each position, (x, y).
    probe : (B, modes, N, N) complex tensor
        The guess for each region.
    shape : tuple of int
        (H, W) of a region.
    owner : (M,) int64 tensor
        Region of each frame, 0 to B - 1.
    good : (N, N) bool tensor, optional
        Detector pixels that can be trusted.
    noise : (B,) float tensor, optional
        Standard deviation of the amplitudes, in their unit; 0 where it is not known.
    subsets : tuple of (m,) int64 tensors, optional
        Which frames change the object together, each frame in one of them; default: dealt by coverage.
    part_of : float, optional
        Mean power of the frames of a scan that these are a part of; ``probe`` is in their unit then.
    own : (M,) bool tensor, optional
        Which frames count in the sums that move a probe; default: all.
    lag : (B, H, W) tensor, optional
        The frames' autocorrelations, averaged where frames meet, where they are known; default: computed.
    """

    amplitudes: Tensor
    corners: Tensor
    fractions: Tensor
    probe: Tensor
    shape: tuple[int, int]
    owner: Tensor
    good: Tensor | None = None
    noise: Tensor | None = None
    subsets: tuple[Tensor, ...] | None = None
    part_of: float | None = None
    own: Tensor | None = None
    lag: Tensor | None = None

    def to(self, device: str | torch.device) -> RegionFrames:
        """Return the same frames with their tensors on a device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        if self.subsets is not None:
            moved["subsets"] = tuple(subset.to(device) for subset in self.subsets)
        return replace(self, **moved)


@dataclass(frozen=True)
class Solution:
    """What the solver found, in the gauge of the probe it was given.

    Attributes
    ----------
    objects : list of (B, H, W) complex tensor
        The object after each iteration, the last one last.
    probe : (B, modes, N, N) complex tensor
    coverage : (B, H, W) real tensor
        ``sum_m T_m |P_m|^2`` over its probe's maximum.
    """

    objects: list[Tensor]
    probe: Tensor
    coverage: Tensor
