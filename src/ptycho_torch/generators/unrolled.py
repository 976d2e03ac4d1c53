"""The unrolled generator: a few iterations of the physics with a small network between them.

With ``o_0`` a learned constant, for k = 1..K:

    psi_c = P crop(o, r_c)          Delta_c = F^-1( A_c F psi_c / |F psi_c| ) - psi_c
    g = sum_c T_-r_c( P* Delta_c ) / ( sum_c T_-r_c |P|^2 + alpha max|P|^2 )
    o <- o + eta_k g
    o <- o + Net_k( Re o, Im o, Re g, Im g, illumination, log1p|F^-1(A^2)|, |Delta| )

The first three lines are repeated ``unrolled_physics_steps`` times, each with its own
eta, before each network. Several probe modes share the object and add in intensity. A group of one
frame needs no crop: the region is the frame itself.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ptycho_torch.config import ModelConfig, UnrolledOptions
from ptycho_torch.generators import Generator, Proposal, register
from ptycho_torch.generators.region import solve_groups
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.generators.unet import UNet
from ptycho_torch.physics.patches import Sampler, crop, region_size

__all__ = ["REGION_FORMS", "Unrolled"]

REGION_FORMS = ("region", "settling")
"""Forms that solve regions of any number of frames."""

_FEATURES = 7


@register("unrolled")
class Unrolled(Generator):
    """Physics steps with learned step sizes, each followed by a network.

    One set of weights serves every N and every group size. With ``unrolled_form`` "settling" it is the solver of
    :mod:`ptycho_torch.generators.region_solver`; "region" is that solver before its late iterations converged, and
    the lines above are the form "group".
    """

    Options = UnrolledOptions
    options: UnrolledOptions

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        options = self.options
        self.regions: RegionSolver | None = None
        if options.unrolled_form in REGION_FORMS:
            self.regions = RegionSolver(
                options.unrolled_iterations,
                options.unrolled_physics_steps or 2,
                options.unrolled_width,
                options.unrolled_levels,
                options.probe_damping,
                settles=options.unrolled_form == "settling",
            )
            return
        self.start = nn.Parameter(torch.tensor(float(options.object_start)))
        self.inner = options.unrolled_physics_steps or 1  # as in models from before there was a choice
        self.step_size = nn.Parameter(torch.ones(options.unrolled_iterations * self.inner))
        self.nets = nn.ModuleList(
            UNet(_FEATURES, 2, options.unrolled_width, options.unrolled_levels)
            for _ in range(options.unrolled_iterations)
        )

    @classmethod
    def completed(cls, config: ModelConfig) -> ModelConfig:
        """Choose one step of the physics before each network, for groups three: their frames speak of one object."""
        if config.unrolled_physics_steps is not None or config.unrolled_form in REGION_FORMS:
            return config
        return dataclasses.replace(config, unrolled_physics_steps=1 if config.gridsize == 1 else 3)

    def propose(
        self,
        x: Tensor,
        offsets: Tensor,
        probe: Tensor,
        mask: Tensor | None = None,
        region: int | None = None,
    ) -> Proposal:
        """Propose patches (B, C, N, N) complex; see :meth:`Generator.propose`."""
        if self.regions is not None:
            self.regions.bf16 = self.bf16
            return solve_groups(self.regions, x, offsets, probe, mask, region)
        size, members = x.shape[-1], x.shape[1]
        shifts = offsets.reshape(offsets.shape[0], members, 2)
        damping = self.options.probe_damping
        if members == 1:  # its own mean: nothing to translate, whatever the caller measured from
            patches = self._solve(_Groups(x, None, size, probe, mask, damping)).unsqueeze(1)
        else:
            side = region_size(shifts, size) if region is None else region
            groups = _Groups(x, Sampler(shifts, size, side), side, probe, mask, damping)
            patches = crop(self._solve(groups), shifts, size)
        return Proposal(patches, patches)

    def _solve(self, groups: _Groups) -> Tensor:
        """The iteration, (B, R, R)."""
        obj = self.start.to(groups.probe.dtype).expand(groups.shape)
        sizes = self.step_size.view(len(self.nets), self.inner)
        for net, steps in zip(self.nets, sizes, strict=True):
            for size_of_step in steps:
                update, misfit = groups.project(obj)
                obj = obj + size_of_step * update
            features = groups.features(obj, update, misfit)
            with torch.autocast(features.device.type, torch.bfloat16, enabled=self.bf16):
                change = net(features).to(groups.measured.dtype)
            obj = obj + torch.complex(change[:, 0], change[:, 1])
        return obj


class _Groups:
    """A batch of groups: their frames, the probe, and where patches lie in a region; all that stays as it is.

    ``sampler``: None for single frames, whose region is the frame.
    """

    def __init__(
        self,
        x: Tensor,
        sampler: Sampler | None,
        side: int,
        probe: Tensor,
        mask: Tensor | None,
        damping: float,
    ) -> None:
        batch, self.members, size = x.shape[:3]
        self.shape, self.sampler, self.probe = (batch, side, side), sampler, probe
        # The detector's centre is moved to the corner once, instead of the field at every step.
        self.measured = torch.fft.ifftshift(x, dim=(-2, -1)).unsqueeze(2)
        self.good = None if mask is None else torch.fft.ifftshift(mask, dim=(-2, -1))
        if self.good is not None:
            self.measured = self.measured * self.good
        power = (probe.real.square() + probe.imag.square()).sum(0)
        peak = power.max()
        illumination = self.gather(power.expand(batch, self.members, size, size)).clamp_min(0)
        self.denominator = illumination + damping * peak
        lags = torch.fft.ifft2(self.measured.squeeze(2).square(), norm="ortho").abs()
        lags = self.gather(torch.log1p(torch.fft.fftshift(lags, dim=(-2, -1)))) / self.members
        self.constant = torch.stack([illumination / peak, lags], 1)
        self.root = peak.sqrt()
        self.conjugate = probe.conj().resolve_conj()

    def gather(self, image: Tensor) -> Tensor:
        """(B, C, N, N) -> (B, R, R)."""
        return image[:, 0] if self.sampler is None else self.sampler.assemble(image)

    def under(self, image: Tensor) -> Tensor:
        """(B, R, R) -> (B, C, N, N)."""
        return image.unsqueeze(1) if self.sampler is None else self.sampler.crop(image)

    def project(self, obj: Tensor) -> tuple[Tensor, Tensor]:
        """The object's update g and the exit waves' change Delta."""
        field = torch.fft.fft2(self.under(obj).unsqueeze(2) * self.probe, norm="ortho")
        modulus = (field.real.square() + field.imag.square()).sum(2, keepdim=True).add(1e-12).sqrt()
        ratio = self.measured / modulus
        if self.good is not None:
            ratio = torch.where(self.good, ratio, torch.ones_like(ratio))
        misfit = torch.fft.ifft2(field * (ratio - 1), norm="ortho")
        return self.gather((self.conjugate * misfit).sum(2)) / self.denominator, misfit

    def features(self, obj: Tensor, update: Tensor, misfit: Tensor) -> Tensor:
        """What a network is shown, (B, 7, R, R)."""
        size = self.gather((misfit.real.square() + misfit.imag.square()).sum(2).add(1e-12).sqrt())
        parts = torch.stack([obj.real, obj.imag, update.real, update.imag], 1)
        return torch.cat([parts, self.constant, (size / (self.root * self.members)).unsqueeze(1)], 1)
