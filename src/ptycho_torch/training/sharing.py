"""One step by several processes: each takes some regions of the batch, and the gradient is that of all of them.

Every process draws the whole batch, which is cheap, and goes through every P-th region of it. Losses are means over
regions, so those of the parts add up to that of the batch, each weighed by its share of the regions. A process that
has none adds nothing. All then take the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ptycho_torch.generators.region_frames import RegionFrames
from ptycho_torch.generators.region_solver import RegionSolver, RegionState
from ptycho_torch.processes import Group

__all__ = ["backward", "own_regions", "part_of", "regions_of"]


def own_regions(count: int, group: Group) -> Tensor:
    """Return which of some regions are this process's, (n,) int64; there may be none.

    Examples
    --------
    >>> [own_regions(3, Group(rank, 2)).tolist() for rank in (0, 1)], own_regions(2, Group(2, 3)).tolist()
    ([[0, 2], [1]], [])
    """
    return torch.arange(group.rank, max(count, group.rank), group.size)


def regions_of(frames: RegionFrames, regions: Tensor) -> RegionFrames:
    """Return the frames of some regions, (n,) int64, ascending; subsets that were given stay, without the others."""
    device = frames.owner.device
    regions = regions.to(device)
    place = torch.full((len(frames.probe),), -1, device=device)
    place[regions] = torch.arange(len(regions), device=device)
    kept = torch.nonzero(place[frames.owner] >= 0)[:, 0]
    number = torch.full((len(frames.owner),), -1, device=device)
    number[kept] = torch.arange(len(kept), device=device)
    subsets = None
    if frames.subsets is not None:
        renumbered = (number[subset] for subset in frames.subsets)
        subsets = tuple(subset[subset >= 0] for subset in renumbered)
    return replace(
        frames,
        amplitudes=frames.amplitudes[kept],
        corners=frames.corners[kept],
        fractions=frames.fractions[kept],
        probe=frames.probe[regions],
        owner=place[frames.owner[kept]],
        noise=None if frames.noise is None else frames.noise[regions],
        subsets=subsets,
    )


@torch.no_grad()
def part_of(solver: RegionSolver, frames: RegionFrames, regions: Tensor) -> RegionFrames:
    """Return the frames of some regions, in the subsets to which they are dealt among all.

    Parameters
    ----------
    solver : RegionSolver
        Decides on the subsets, whose number depends on the coverage of the whole batch.
    frames : RegionFrames
    regions : (n,) int64 tensor
        Ascending; at least one.
    """
    return regions_of(replace(frames, subsets=RegionState(solver, frames).subsets), regions)


def backward(loss: Callable[[Tensor], Tensor], count: int, model: nn.Module, group: Group) -> Tensor:
    """Set the gradients of a batch's loss, and return that loss, the same on all processes.

    Parameters
    ----------
    loss : callable
        Given the numbers of this process's regions, (n,), returns the mean loss of those.
    count : int
        Regions of the batch.
    model : Module
    group : Group

    Raises
    ------
    ProcessLost
        Where another process has ended.
    """
    own = own_regions(count, group)
    model.zero_grad()
    value = next(model.parameters()).new_zeros(())
    if len(own):
        part = loss(own) * (len(own) / count)
        part.backward()  # type: ignore[no-untyped-call]
        value = part.detach()
    if group.size == 1:
        return value
    return _shared(model.parameters(), value, group)


def _shared(parameters: Iterable[nn.Parameter], value: Tensor, group: Group) -> Tensor:
    """Sum losses and gradients over all processes. What no process has a gradient for keeps none."""
    all_of = list(parameters)
    used = torch.tensor([float(p.grad is not None) for p in all_of], device=value.device)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in all_of]
    total = group.total(torch.cat([value.reshape(1), used, *(part.reshape(-1) for part in parts)]))
    found, flags, left = total[0], total[1 : 1 + len(all_of)].tolist(), total[1 + len(all_of) :]
    for parameter, flag, flat in zip(all_of, flags, left.split([p.numel() for p in all_of]), strict=True):
        parameter.grad = flat.view_as(parameter).clone() if flag else None
    return found
