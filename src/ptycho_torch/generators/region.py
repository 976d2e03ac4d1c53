"""Groups of frames as regions of the learned solver: the ``region`` form of the generator ``unrolled``."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch.generators.base import Proposal
from ptycho_torch.generators.region_frames import RegionFrames
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.physics.patches import crop, region_size

__all__ = ["solve_groups"]


def solve_groups(
    solver: RegionSolver,
    x: Tensor,
    offsets: Tensor,
    probe: Tensor,
    mask: Tensor | None = None,
    region: int | None = None,
) -> Proposal:
    """Solve each group of a batch as one region, with the probe taken as known.

    The same solver, given all frames of a scan at once, is what
    :func:`ptycho_torch.solvers.learned.solve_learned` applies. Arguments and result are those of
    :meth:`ptycho_torch.generators.Generator.propose`.
    """
    batch, members, size = x.shape[:3]
    shifts = offsets.reshape(batch, members, 2)
    if members == 1:  # its own mean: nothing to translate, whatever the caller measured from
        shifts, side = torch.zeros_like(shifts), size
    else:
        side = region_size(shifts, size) if region is None else region
    whole = torch.floor(shifts + 0.5)
    frames = RegionFrames(
        x.flatten(0, 1),
        (whole.flip(-1).long() + side // 2 - size // 2).flatten(0, 1),
        (shifts - whole).flatten(0, 1),
        probe.expand(batch, *probe.shape),
        (side, side),
        torch.arange(batch, device=x.device).repeat_interleave(members),
        mask,
    )
    objects = solver(frames, update_probe=False).objects[-1]
    patches = objects.unsqueeze(1) if members == 1 else crop(objects, shifts, size)
    return Proposal(patches, patches)
