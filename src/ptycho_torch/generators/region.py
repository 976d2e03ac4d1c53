"""The ``region`` form of the generator ``unrolled``: groups of frames as regions of the learned solver."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ptycho_torch.config import ModelConfig
from ptycho_torch.generators import Proposal
from ptycho_torch.generators.region_solver import RegionFrames, RegionSolver
from ptycho_torch.physics.patches import crop, region_size

__all__ = ["RegionGenerator"]


class RegionGenerator(nn.Module):
    """Solves each group of a batch as one region, with the probe taken as known.

    The same :attr:`solver`, given all frames of a scan at once, is what
    :func:`ptycho_torch.solvers.learned.solve_learned` applies.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.solver = RegionSolver(
            config.unrolled_iterations,
            config.unrolled_physics_steps or 2,
            config.unrolled_width,
            config.unrolled_levels,
            config.probe_damping,
        )

    @property
    def bf16(self) -> bool:
        """Whether the networks compute in bfloat16."""
        return self.solver.bf16

    @bf16.setter
    def bf16(self, value: bool) -> None:
        self.solver.bf16 = value

    def propose(
        self,
        x: Tensor,
        offsets: Tensor,
        probe: Tensor,
        mask: Tensor | None = None,
        region: int | None = None,
    ) -> Proposal:
        """Patches (B, C, N, N) complex; see :mod:`ptycho_torch.generators` for the arguments."""
        batch, members, size = x.shape[:3]
        shifts = offsets.reshape(batch, members, 2)
        if members == 1:  # its own mean: nothing to translate, whatever the caller measured from
            shifts, side = torch.zeros_like(shifts), size
        else:
            side = region_size(shifts, size) if region is None else region
        whole = torch.floor(shifts + 0.5)
        corners = (whole.flip(-1).long() + side // 2 - size // 2).flatten(0, 1)
        frames = RegionFrames(
            x.flatten(0, 1),
            corners,
            (shifts - whole).flatten(0, 1),
            probe.expand(batch, *probe.shape),
            (side, side),
            torch.arange(batch, device=x.device).repeat_interleave(members),
            mask,
        )
        objects = self.solver(frames, update_probe=False).objects[-1]
        patches = objects.unsqueeze(1) if members == 1 else crop(objects, shifts, size)
        return Proposal(patches, patches)
