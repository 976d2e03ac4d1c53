"""A learned solver of regions: steps of the physics over all frames, small networks on the canvas between.

A region is a window of the object plane with every frame whose patch lies in it: one frame, a group, a tile
of a scan, or all of it. With patches crop_m and their adjoint T_m (:mod:`ptycho_torch.physics.regions`):

    o_0 = constant
    for k = 1..K:
      J passes over S interleaved subsets of the frames:
        Delta_m = F^-1( A_m F psi_m / |F psi_m| ) - psi_m,          psi_m = P_m crop_m(o)
        g = sum_m T_m( P_m* Delta_m ) / ( sum_m T_m |P_m|^2 + alpha max |P|^2 )
        v <- mu_kj v + g;    o <- o + eta_kj v          (v goes on from one iteration to the next)
      P <- P + beta_k sum_m (crop_m o)* Delta_m / ( sum_m |crop_m o|^2 + alpha max )  + NetP_k(...)
      o <- o + Net_k( Re o, Im o, Re g, Im g, coverage, lag, misfit, noise )

Every feature is divided by local coverage and not by the number of frames, so one set of weights serves one
frame and ten thousand. The networks run once an iteration on the canvas, not once a frame. The more frames
cover a point, the more subsets there are: updates of a subset cost a part and move as far.

From iteration K on, eta and mu are those of late iterations, and what the network may change freely fades by
a factor each time; what remains grows with the misfit. So the iteration converges, and more come nearer.

References
----------
.. [1] A. M. Maiden and J. M. Rodenburg, Ultramicroscopy 109, 1256 (2009): the updates of object and probe.
.. [2] H. M. Hudson and R. S. Larkin, IEEE Trans. Med. Imaging 13, 601 (1994): ordered subsets.
.. [3] A. Maiden, D. Johnson and P. Li, Optica 4, 736 (2017): momentum, regularised denominators.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptycho_torch.generators.region_frames import (
    RegionFrames,
    Solution,
    mean_by_region,
    scale_of,
    subsets_for,
)
from ptycho_torch.generators.unet import UNet
from ptycho_torch.physics.projection import change_of, intensity
from ptycho_torch.physics.regions import crop_patches, put_patches, shift_ramps

__all__ = ["Descent", "RegionSolver", "RegionState"]

_FEATURES = 10
_PROBE_FEATURES = 8
_DIM = 0.01
"""Coverage below which the networks have less and less of a say."""
_MANY = 4.0
"""Coverage from which on the frames decide, and no longer what the networks know of objects."""
_CHUNK_PIXELS = 1 << 19
"""Pixels of frames worked on at once: more leave the processor's cache, fewer pay for each call."""


@dataclass(frozen=True)
class Descent:
    """What the passes of an iteration leave to the networks.

    Attributes
    ----------
    features : (B, 10, H, W) tensor
    misfit : (B, H, W) tensor
    moves, bright : tensors
        Sums over frames that move the probe, (B, modes, N, N) of its spectrum and (B, 1, N, N); 0.0 where it stays.
    left : (B,) tensor
        Power that is left unexplained, summed over frames.
    """

    features: Tensor
    misfit: Tensor
    moves: Tensor | float
    bright: Tensor | float
    left: Tensor


class RegionSolver(nn.Module):
    """The iteration above, with one network on the canvas and one on the probe, shared by all iterations.

    Parameters
    ----------
    iterations, passes : int
        K and J.
    width, levels : int
        Size of the networks on the canvas; see :class:`~ptycho_torch.generators.unet.UNet`.
    damping : float
        alpha.
    settles : bool
        Whether late iterations converge. False: as solvers of before did, each iteration begins at rest, and
        those after the K-th are like it.
    """

    def __init__(
        self,
        iterations: int = 4,
        passes: int = 2,
        width: int = 24,
        levels: int = 4,
        damping: float = 0.05,
        settles: bool = True,
    ) -> None:
        super().__init__()
        self.iterations, self.passes, self.damping = iterations, passes, damping
        self.width, self.levels = width, levels
        self.bf16 = False
        self.chunk_pixels: int | None = _CHUNK_PIXELS  # None: a region's frames all at once
        self.start = nn.Parameter(torch.tensor(1.0))
        self.eta = nn.Parameter(torch.full((iterations, passes), 1.2))
        self.momentum = nn.Parameter(torch.full((iterations, passes), 0.3))
        self.beta = nn.Parameter(torch.full((iterations,), 0.5))
        self.settles = settles
        if settles:
            self.late_eta = nn.Parameter(torch.full((passes,), 1.2))
            self.late_momentum = nn.Parameter(torch.full((passes,), 0.3))
            self.fade = nn.Parameter(torch.tensor(0.5))
        self.net = UNet(_FEATURES, 4, width, levels)
        self.probe_net = UNet(_PROBE_FEATURES, 2, max(8, width * 2 // 3), min(levels, 3))

    def forward(
        self,
        frames: RegionFrames,
        *,
        update_probe: bool = True,
        iterations: int | None = None,
        keep: bool = False,
    ) -> Solution:
        """Solve regions from frames and a guess of the probe.

        Parameters
        ----------
        frames : RegionFrames
        update_probe : bool
            Whether the probe is solved for, too, or taken as true.
        iterations : int, optional
            How many; default: as in training. More take longer and come nearer.
        keep : bool
            Whether all iterates are returned, as training needs them, or the last one only.
        """
        state = RegionState(self, frames)
        objects: list[Tensor] = []
        for k in range(self.iterations if iterations is None else iterations):
            state.iterate(k, update_probe)
            if keep:
                objects.append(state.obj * state.scale[:, None, None])
        if not keep:  # pretraining compares objects up to a factor, so the networks do not care for it
            objects = [state.obj * (state.scale * state.brightness())[:, None, None]]
        probe = state.probe / state.scale[:, None, None, None]
        return Solution(objects, probe, state.illumination / state.peak)

    def moved_probe(
        self,
        number: int,
        probe: Tensor,
        spectrum: Tensor,
        sums: tuple[Tensor, Tensor],
        wrong: Tensor,
    ) -> Tensor:
        """Return the probe after a step along the last pass's changes, then its network's, less where little is wrong.

        Parameters
        ----------
        number : int
            Of the iteration.
        probe : (B, modes, N, N) complex tensor
        spectrum : (B, 1, N, N) tensor
            Root of the frames' mean intensity, zero frequency first.
        sums : tuple of tensors
            ``moves`` and ``bright`` of a :class:`Descent`.
        wrong : (B,) tensor
            Root of the part of the frames' power that is not explained.
        """
        k, size = min(number, self.iterations - 1), probe.shape[-1]
        moves, bright = torch.fft.ifft2(sums[0]), sums[1]
        own = (probe.real.square() + probe.imag.square()).sum(1)
        peak = own.detach().amax((-2, -1))[:, None, None].clamp_min(1e-12).sqrt()[:, None]
        top = bright.detach().amax((-2, -1), keepdim=True)
        step = moves / (bright + self.damping * top)
        probe = probe + self.beta[k] * step
        field = torch.fft.fft2(probe, norm="ortho")
        modulus = (field.real.square() + field.imag.square()).sum(1, keepdim=True).add(1e-12).sqrt()
        seen = torch.fft.ifft2(field * (spectrum / modulus - 1), norm="ortho")
        parts = [probe, step, seen]
        flat = torch.cat([torch.stack([p.real, p.imag], 2) for p in parts], 2) / peak[:, None]
        light = (probe.real.square() + probe.imag.square()).sum(1, keepdim=True)
        extra = torch.stack([bright / top, (light / peak**2 + 1e-9).sqrt()], 2).expand(
            *flat.shape[:2], -1, -1, -1
        )
        flat = torch.cat([flat, extra], 2).flatten(0, 1)
        change = self.probe_net(flat).view(*probe.shape[:2], 2, size, size)
        tied = peak * (4 * wrong).clamp_max(1.0)[:, None, None, None]
        return probe + torch.complex(change[:, :, 0], change[:, :, 1]) * tied


class RegionState:
    """Object and probe of the regions while they are solved; the scale is taken out, so that |o| is about 1."""

    def __init__(self, solver: RegionSolver, frames: RegionFrames) -> None:
        self.solver, self.frames = solver, frames
        self.size = frames.amplitudes.shape[-1]
        self.measured = torch.fft.ifftshift(frames.amplitudes, dim=(-2, -1)).unsqueeze(1)
        self.good = None
        if frames.good is not None:
            self.good = torch.fft.ifftshift(frames.good, dim=(-2, -1))
            self.measured = self.measured * self.good
        regions = len(frames.probe)
        self.canvas = (regions, *frames.shape)
        power = self.measured.square().sum((1, 2, 3))
        per_region, counts = mean_by_region(power, frames.owner, regions)
        if frames.part_of is not None:
            per_region = torch.full_like(per_region, frames.part_of)
        self.mean_power = per_region
        self.total = (per_region * counts).clamp_min(1e-30)
        self.scale = scale_of(frames.probe, per_region)
        if frames.part_of is not None:
            self.scale = torch.ones_like(self.scale)
        self.probe = frames.probe * self.scale[:, None, None, None]
        self.obj = solver.start.to(self.probe.dtype).expand(self.canvas)
        self.velocity = torch.zeros_like(self.obj)
        self._spectrum = self._mean_modulus(counts)
        self._illuminate()
        self.lag = self._lags() if frames.lag is None else frames.lag
        self.subsets = self._deal() if frames.subsets is None else frames.subsets
        noise = torch.zeros(regions) if frames.noise is None else frames.noise
        level = (noise.to(power.device) / (per_region.sqrt() / self.size)).clamp_min(1e-6)
        self.noise = ((level.log10() + 3) / 3).clamp(0, 1.2)

    # ------------------------------------------------------------ set-up
    def _mean_modulus(self, counts: Tensor) -> Tensor:
        """(B, 1, N, N) root of each region's mean measured intensity."""
        mean = self.measured.new_zeros(len(counts), 1, self.size, self.size)
        mean = mean.index_add(0, self.frames.owner, self.measured.square())
        return (mean / counts[:, None, None, None] + 1e-12).sqrt()

    def _probes(self, index: Tensor) -> Tensor:
        """(m, modes, N, N) the probe as the frames ``index`` see it."""
        owner = self.frames.owner[index]
        lines = self._lines[index]
        return torch.fft.ifft2(self._transform[owner] * lines)

    def _illuminate(self) -> None:
        """Everything that follows from the probe: its shifts, coverage, denominators."""
        self._lines = shift_ramps(self.frames.fractions, self.size).unsqueeze(1)
        self._transform = torch.fft.fft2(self.probe)
        self.waves = torch.cat([self._probes(index) for index in self._chunks(self._all())])
        power = intensity(self.waves)
        self.power = power
        self.illumination = put_patches(power, self.frames.corners, self.canvas, self.frames.owner)
        own = (self.probe.real.square() + self.probe.imag.square()).sum(1)
        self.peak = own.detach().amax((-2, -1))[:, None, None].clamp_min(1e-12)

    def _all(self) -> Tensor:
        return torch.arange(self.measured.shape[0], device=self.measured.device)

    def _chunks(self, index: Tensor) -> tuple[Tensor, ...]:
        most = self.solver.chunk_pixels
        return (index,) if most is None else index.split(max(1, most // self.size**2))

    def _lags(self) -> Tensor:
        """The frames' autocorrelations, averaged where frames meet."""
        unit = (self.size**2 / 4 / self.mean_power.clamp_min(1e-30))[self.frames.owner][:, None, None]
        lags = torch.fft.ifft2(self.measured.squeeze(1).square() * unit, norm="ortho").abs()
        lags = torch.log1p(torch.fft.fftshift(lags, dim=(-2, -1))) * self.power
        total = put_patches(lags, self.frames.corners, self.canvas, self.frames.owner)
        return total / (self.illumination + self.solver.damping * self.peak)

    def _deal(self) -> tuple[Tensor, ...]:
        """Interleaved subsets of the frames: one per three-fold coverage, eight at most."""
        light = self.illumination.detach()
        cover = float(light.square().sum() / light.sum().clamp_min(1e-12) / self.peak.mean())
        fewest = int(torch.bincount(self.frames.owner, minlength=len(self.probe)).min())
        count = subsets_for(cover, fewest)
        owner = self.frames.owner.cpu()
        order = torch.randperm(len(owner), generator=torch.Generator().manual_seed(0))
        order = order[owner[order].argsort(stable=True)]  # by region: a region is dealt as if it were alone
        first = torch.searchsorted(owner[order].contiguous(), owner[order].contiguous())
        rank = torch.arange(len(owner)) - first
        return tuple(order[rank % count == i].to(self.measured.device) for i in range(count))

    # ------------------------------------------------------------ one iteration
    def iterate(self, number: int, update_probe: bool) -> None:
        """The passes, a step of the probe where asked, and the network's change."""
        found = self.descend(number, update_probe)
        if update_probe:
            wrong = (found.left / self.total).add(1e-9).sqrt()
            sums = torch.as_tensor(found.moves), torch.as_tensor(found.bright)
            self.probe = self.solver.moved_probe(number, self.probe, self._spectrum, sums, wrong)
            self._illuminate()
        self.change(self.proposed(found.features), found.misfit, number)

    def descend(self, number: int, update_probe: bool) -> Descent:
        """The passes over all frames, which move the object."""
        solver = self.solver
        k = min(number, solver.iterations - 1)
        etas, momenta = solver.eta[k], solver.momentum[k]
        velocity = self.velocity if solver.settles else torch.zeros_like(self.obj)
        if solver.settles and number >= solver.iterations:
            etas, momenta = solver.late_eta, solver.late_momentum
        for j in range(solver.passes):
            last = j == solver.passes - 1
            sums = []
            for subset in self.subsets:
                g, more = self._gradient(subset, last, last and update_probe)
                velocity = momenta[j] * velocity + g
                self.obj = self.obj + etas[j] * velocity
                sums.append(more)
        self.velocity = velocity
        damped = self.illumination + solver.damping * self.peak
        left = torch.stack([torch.as_tensor(part[0]) for part in sums]).sum(0)
        misfit = (left / damped + 1e-9).sqrt()
        features = self._features(g, misfit, number)
        moves, bright, own = (sum(part[i] for part in sums) for i in (1, 2, 3))
        power = left.sum((1, 2)) if self.frames.own is None else torch.as_tensor(own)
        return Descent(features, misfit, moves, bright, power)

    def proposed(self, features: Tensor) -> Tensor:
        """(B, 4, H, W) what the network would change."""
        with torch.autocast(features.device.type, torch.bfloat16, enabled=self.solver.bf16):
            return self.solver.net(features).to(features.dtype)  # type: ignore[no-any-return]

    def change(self, change: Tensor, misfit: Tensor, number: int) -> None:
        """Change the object as the network proposes, as far as the probe that is known now lets it."""
        solver, freedom = self.solver, None
        if solver.settles and number >= solver.iterations:
            freedom = solver.fade ** (number - solver.iterations + 1)
        self.obj = self.obj + self._weighed(change, misfit, freedom)

    def _gradient(self, subset: Tensor, last: bool, probe: bool) -> tuple[Tensor, tuple[Tensor | float, ...]]:
        """The object's update g of a subset; with ``last`` also the misfit's map, with ``probe`` the probe's sums,
        and last what its own frames leave unexplained."""
        frames = self.frames
        top: Tensor | float = 0.0
        light: Tensor | float = 0.0
        misfit: Tensor | float = 0.0
        moves: Tensor | float = 0.0
        bright: Tensor | float = 0.0
        left: Tensor | float = 0.0
        whole = len(self.subsets) == 1
        for index in self._chunks(subset):
            corners, owner, waves = frames.corners[index], frames.owner[index], self.waves[index]
            under = crop_patches(self.obj, corners, self.size, owner).unsqueeze(1)
            change = change_of(under * waves, self.measured[index], self.good)
            back = (waves.conj() * change).sum(1)
            top = top + put_patches(back, corners, self.canvas, owner)
            if not whole:
                light = light + put_patches(self.power[index], corners, self.canvas, owner)
            if last:
                misfit = misfit + put_patches(intensity(change), corners, self.canvas, owner)
            if probe:
                if frames.own is not None:
                    counts = frames.own[index][:, None, None, None]
                    change, under = change * counts, under * counts
                    left = left + intensity(change).sum()
                pull = torch.fft.fft2(under.conj() * change) * self._lines[index].conj()
                zeros = torch.zeros_like(self.probe)
                moves = moves + zeros.index_add(0, owner, pull)
                squared = intensity(under).unsqueeze(1)
                bright = bright + squared.new_zeros(len(self.probe), 1, self.size, self.size).index_add(
                    0, owner, squared
                )
        light = self.illumination if whole else light
        return top / (light + self.solver.damping * self.peak), (misfit, moves, bright, left)

    def brightness(self) -> Tensor:
        """(B,) the factor on each object that fits its frames best, ``sum A |F psi| / sum |F psi|^2``."""
        top, bottom = self.brightness_of(self._all())
        return (top / bottom.clamp_min(1e-30)).nan_to_num(1.0)

    def brightness_of(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Both sums of :meth:`brightness` over the frames ``chosen``, (B,) each."""
        frames = self.frames
        top = self.total.new_zeros(len(self.probe))
        bottom = top.clone()
        for index in self._chunks(chosen):
            under = crop_patches(self.obj, frames.corners[index], self.size, frames.owner[index]).unsqueeze(1)
            field = torch.fft.fft2(under * self.waves[index], norm="ortho")
            power = intensity(field).unsqueeze(1)
            if self.good is not None:
                power = power * self.good
            seen = (power.sqrt() * self.measured[index]).sum((1, 2, 3))
            top.index_add_(0, frames.owner[index], seen.to(top.dtype))
            bottom.index_add_(0, frames.owner[index], power.sum((1, 2, 3)).to(top.dtype))
        return top, bottom

    def _features(self, g: Tensor, misfit: Tensor, number: int) -> Tensor:
        cover = self.illumination / self.peak
        parts = [self.obj.real, self.obj.imag, g.real, g.imag]
        parts += [torch.log1p(cover), cover / (1 + cover), self.lag, misfit]
        return self.features_of(torch.stack(parts, 1), number)

    def features_of(self, parts: Tensor, number: int) -> Tensor:
        """The network's inputs in iteration ``number``: ``parts``, (B, 8, H, W), and what is the same everywhere."""
        one = parts[:, :1]
        noise = self.noise[:, None, None, None].expand_as(one)
        k = min(number, self.solver.iterations - 1)
        return torch.cat([parts, noise, torch.full_like(one, k / self.solver.iterations)], 1)

    def _weighed(self, change: Tensor, misfit: Tensor, freedom: Tensor | None) -> Tensor:
        """The network's change: what it may do anywhere, less and less where many frames meet, and what grows
        with the misfit; so that where frames decide, the iteration goes on to converge."""
        cover = self.illumination / self.peak
        # Where hardly any light falls no error is seen, and a network that is free there runs away.
        free = cover / (cover + _DIM) / (1 + cover / _MANY)
        free = free if freedom is None else freedom * free
        tied = misfit.clamp_max(1.0) * (cover / (cover + _DIM))
        real = free * change[:, 0] + tied * change[:, 2]
        return torch.complex(real, free * change[:, 1] + tied * change[:, 3])
