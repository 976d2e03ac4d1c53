"""One step by several processes: each takes some regions of the batch, and the gradient is that of all of them.

Every process draws the whole batch, which is cheap, and goes through its part of the regions. Losses are means over
regions, so those of the parts add up to that of the batch, each weighed by its share of the regions. A process that
has none adds nothing. All then take the same step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from ptycho_torch.generators.region_frames import RegionFrames
from ptycho_torch.generators.region_solver import RegionSolver, RegionState
from ptycho_torch.processes import Group

__all__ = ["backward", "dealt", "own_parts", "regions_of"]

_PARTS: Final = 4
"""Parts of a batch on a CPU: one, two and four processes round alike."""


def own_parts(count: int, group: Group, parts: int = 1) -> list[Tensor]:
    """Return this process's regions, (n,) int64 each, in the parts in which they are gone through; there may be none.

    Regions are cut into ``parts`` parts, or into one for each process where those are more, and parts are dealt.

    Examples
    --------
    >>> [[part.tolist() for part in own_parts(5, Group(rank, 2), parts=4)] for rank in (0, 1)]
    [[[0, 1], [4]], [[2, 3]]]
    """
    return list(torch.arange(count).split(-(-count // max(parts, group.size)) or 1)[group.rank :: group.size])


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
        own=None if frames.own is None else frames.own[kept],
        lag=None if frames.lag is None else frames.lag[regions],
    )


@torch.no_grad()
def dealt(solver: RegionSolver, frames: RegionFrames) -> RegionFrames:
    """Return the same frames with the subsets that the solver deals them to.

    Their number depends on the coverage of the whole batch, so parts of it must be told.
    """
    return replace(frames, subsets=RegionState(solver, frames).subsets)


def backward(loss: Callable[[Tensor], Tensor], count: int, model: nn.Module, group: Group) -> Tensor:
    """Set the gradients of a batch's loss, and return that loss, the same on all processes.

    On a CPU regions are gone through in four parts, which are added up in float64, whether one process has all of
    them or each of four has one: so all get the same gradient. Elsewhere a process's regions go together, which is
    faster there.

    Parameters
    ----------
    loss : callable
        Given the numbers of some regions, (n,) int64, returns the mean loss of those.
    count : int
        Regions of the batch.
    model : Module
    group : Group

    Raises
    ------
    ProcessLost
        Where another process has ended.
    """
    parameters = list(model.parameters())
    device = parameters[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    used = [False] * len(parameters)
    value = torch.zeros((), dtype=wide, device=device)
    sums = [torch.zeros_like(parameter, dtype=wide) for parameter in parameters]
    for part in own_parts(count, group, _PARTS if device.type == "cpu" else 1):
        model.zero_grad()
        mean = loss(part)
        mean.backward()  # type: ignore[no-untyped-call]
        value += mean.detach().to(wide) * len(part)
        for k, parameter in enumerate(parameters):
            if parameter.grad is not None:
                sums[k].add_(parameter.grad.to(wide), alpha=len(part))
                used[k] = True
    value, used, sums = _total(value, used, sums, group)
    # Divided last: what is summed before are a few numbers of 24 bits each, mostly exact in whatever order.
    return _put(parameters, value / count, used, [part / count for part in sums])


def _total(
    value: Tensor, used: list[bool], sums: list[Tensor], group: Group
) -> tuple[Tensor, list[bool], list[Tensor]]:
    """Losses and gradients of all processes, and which weights any of them has a gradient for."""
    if group.size == 1:
        return value, used, sums
    flags = torch.tensor(used, dtype=value.dtype, device=value.device)
    total = group.total(torch.cat([value.reshape(1), flags, *(part.reshape(-1) for part in sums)]))
    left = total[1 + len(used) :].split([part.numel() for part in sums])
    flat = [part.view_as(like) for part, like in zip(left, sums, strict=True)]
    return total[0], (total[1 : 1 + len(used)] > 0).tolist(), flat


def _put(parameters: list[nn.Parameter], value: Tensor, used: list[bool], sums: list[Tensor]) -> Tensor:
    """Set the gradients; return the loss. What no process has a gradient for keeps none."""
    for parameter, flag, found in zip(parameters, used, sums, strict=True):
        parameter.grad = found.to(parameter.dtype) if flag else None
    return value.to(parameters[0].dtype)
