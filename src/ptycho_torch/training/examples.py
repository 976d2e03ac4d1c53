"""Simulated regions to pretrain on, made on the fly: nothing is downloaded, nothing is stored.

Example ``step`` of ``seed`` is always the same one, whatever was drawn before it, so a resumed run sees what an
uninterrupted one would have seen.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.generators.region_frames import RegionFrames
from ptycho_torch.physics.regions import crop_patches, place, put_patches, shifted_probes
from ptycho_torch.simulation.variety import random_object, random_probe, spoiled_probe

__all__ = ["Example", "Examples", "Recipe"]

_OBJECT_EDGE = 320
_BANK = 120
_RENEWED_EVERY = 8
_MANY_REGIONS = 6


@dataclass(frozen=True)
class Recipe:
    """What is drawn, and how often; each range is drawn from uniformly in its logarithm where that is natural.

    ``spacing``: distance of neighbouring frames over N. ``photons``: decades of mean photons a frame.
    ``budget``: pixels of frames in a region. ``exact``: share of examples whose probe guess is the truth;
    ``mended``: share of the others whose guess is nearer, as after sweeps of an iterative solver.
    ``jitter``: largest rms error of positions, pixels, in the ``misplaced`` share of examples.
    ``few``: share of examples of one frame a region, or four, and of more regions instead.
    """

    sizes: tuple[int, ...] = (32, 32, 32, 48, 48, 64, 64, 96, 128)
    regions: int = 2
    spacing: tuple[float, float] = (0.045, 1.1)
    photons: tuple[float, float] = (3.0, 9.5)
    budget: int = 28 * 64 * 64
    exact: float = 0.65
    mended: float = 0.5
    misplaced: float = 0.25
    jitter: float = 1.0
    masked: float = 0.2
    modes: tuple[int, ...] = (1, 1, 1, 1, 1, 2, 3)
    counts_known: float = 0.7
    few: float = 0.2


@dataclass(frozen=True)
class Example:
    """Regions with their truth.

    ``frames``: what the solver is given. ``truth``: (B, H, W) complex objects. ``weight``: (B, H, W), how well
    each pixel is lit, 0 to 1. ``probe``: (B, modes, N, N), the true one. ``update_probe``: whether to solve for it.
    ``spacing``: distance of neighbours over N.
    """

    frames: RegionFrames
    truth: Tensor
    weight: Tensor
    probe: Tensor
    update_probe: bool
    spacing: float

    def to(self, device: str | torch.device) -> Example:
        """Return the same example with its tensors on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("frames", "truth", "weight", "probe")}
        return replace(self, **moved)


class Examples:
    """Draws :class:`Example` after :class:`Example` from a seed and a :class:`Recipe`."""

    def __init__(self, seed: int, recipe: Recipe | None = None) -> None:
        self.seed, self.recipe = seed, recipe or Recipe()
        self._objects: OrderedDict[int, NDArray[np.complex64]] = OrderedDict()

    def _object(self, number: int) -> NDArray[np.complex64]:
        if number not in self._objects:
            rng = np.random.default_rng([self.seed, 1, number])
            self._objects[number] = random_object(_OBJECT_EDGE, rng)
            while len(self._objects) > 2 * _BANK:
                self._objects.popitem(last=False)
        return self._objects[number]

    def draw(self, step: int) -> Example:
        """Return the example of a step."""
        recipe = self.recipe
        rng = np.random.default_rng([self.seed, 0, step])
        size = int(rng.choice(recipe.sizes))
        modes = int(rng.choice(recipe.modes)) if size <= 64 else 1
        spacing = float(np.exp(rng.uniform(*np.log(recipe.spacing))))
        most, regions = recipe.budget // (size * size * modes), recipe.regions
        if recipe.few and rng.random() < recipe.few:
            frames = int(rng.choice([1, 1, 4]))
            regions = int(np.clip(most // frames, regions, _MANY_REGIONS))
            most = frames
        positions, edge = _positions(size, spacing, most, rng)
        truth = np.stack([self._window(step, edge, rng) for _ in range(regions)])
        probe = np.stack([random_probe(size, rng, modes) for _ in range(regions)])
        known = np.array([rng.random() < recipe.exact for _ in probe])
        guess = np.stack([p if k else self._guess(p, rng) for p, k in zip(probe, known, strict=True)])
        example = self._measure(truth, probe, guess, positions, edge, rng)
        fixed = bool(known.all() and rng.random() < 0.6)
        return replace(example, update_probe=not fixed, spacing=spacing)

    def _guess(self, probe: NDArray[np.complex64], rng: np.random.Generator) -> NDArray[np.complex64]:
        """What a file may say of the probe, or what is left of that error after some sweeps."""
        guess = spoiled_probe(probe, rng)
        if not self.recipe.mended or rng.random() >= self.recipe.mended:
            return guess
        left = np.float32(rng.uniform(0.05, 0.4))
        return np.asarray(probe + left * (guess - probe))

    def _window(self, step: int, edge: int, rng: np.random.Generator) -> NDArray[np.complex64]:
        obj = self._object(step // _RENEWED_EVERY + int(rng.integers(_BANK)))
        row, column = rng.integers(0, _OBJECT_EDGE - edge + 1, 2)
        cut = np.rot90(obj[row : row + edge, column : column + edge], int(rng.integers(4)))
        cut = cut.conj() if rng.random() < 0.5 else cut
        return np.asarray(cut.T if rng.random() < 0.5 else cut)

    def _measure(
        self,
        truth: NDArray[np.complex64],
        probe: NDArray[np.complex64],
        guess: NDArray[np.complex64],
        positions: NDArray[np.float64],
        edge: int,
        rng: np.random.Generator,
    ) -> Example:
        recipe, (count, _, size, _) = self.recipe, probe.shape
        per = len(positions)
        owner = torch.arange(count).repeat_interleave(per)
        everywhere = np.tile(positions, (count, 1))
        objects, waves = torch.from_numpy(truth.copy()), torch.from_numpy(probe)
        error = rng.uniform(0, recipe.jitter) if rng.random() < recipe.misplaced else 0.0
        said = np.clip(everywhere + rng.normal(0, error, everywhere.shape), size // 2, edge - size // 2)
        corners, fractions = _inside(everywhere, size, edge)
        lit = shifted_probes(waves[owner], fractions)
        under = crop_patches(objects, corners, size, owner).unsqueeze(1)
        field = torch.fft.fft2(under * lit, norm="ortho")
        power = torch.fft.fftshift((field.real.square() + field.imag.square()).sum(1), dim=(-2, -1))
        photons = 10 ** rng.uniform(*recipe.photons)
        counts = photons / power.sum((1, 2)).view(count, per).mean(1).clamp_min(1e-20)
        torch_rng = torch.Generator().manual_seed(int(rng.integers(2**62)))
        rate = power * counts[owner][:, None, None]
        amplitudes = (torch.poisson(rate, generator=torch_rng) / counts[owner][:, None, None]).sqrt()
        light = (lit.real.square() + lit.imag.square()).sum(1)
        total = put_patches(light, corners, (count, edge, edge), owner)
        peak = waves.abs().square().sum(1).amax((1, 2))[:, None, None]
        corners, fractions = _inside(said, size, edge)
        noise = 0.5 / counts.sqrt() if rng.random() < recipe.counts_known else torch.zeros(count)
        frames = RegionFrames(
            amplitudes,
            corners,
            fractions,
            torch.from_numpy(guess),
            (edge, edge),
            owner,
            _mask(size, rng) if rng.random() < recipe.masked else None,
            noise,
        )
        return Example(frames, objects, total / (total + 0.1 * peak), waves, True, 0.0)


def _positions(
    size: int, spacing: float, most: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], int]:
    """Positions (M, 2) in a square region, and its edge: a jittered grid or at random."""
    step = spacing * size
    # As many frames as the budget allows, in a region as large as they need: dense scans stay dense.
    side = int(np.clip(np.sqrt(most), 1, 1.2 * size / step + 4))
    if rng.random() < 0.15:
        side = int(rng.integers(1, side + 1))
    reach = min(max(step * (side - 1), 0.0) + 1e-9, 288.0 - size)
    side = int(reach // step) + 1
    edge = int(np.ceil((size + reach + 2) / 2)) * 2
    low, high = size / 2, edge - size / 2 - 1
    if rng.random() < 0.35 and side > 1:
        places = rng.uniform(low, high, (side * side, 2))
    else:
        line = low + np.arange(side) * step
        grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
        places = np.clip(grid + rng.uniform(-0.2, 0.2, grid.shape) * step, low, high)
    return (np.rint(places) if rng.random() < 0.2 else places), edge


def _inside(positions: NDArray[np.float64], size: int, edge: int) -> tuple[Tensor, Tensor]:
    """Corners and fractions of positions in a region whose pixel [0, 0] is the origin."""
    placed = place(positions, size)
    shift = placed.origin_xy[::-1].astype(np.int64)
    corners = placed.corners + torch.from_numpy(shift.copy())
    return corners.clamp(0, edge - size), placed.fractions


def _mask(size: int, rng: np.random.Generator) -> Tensor:
    """Detector pixels that can be trusted: without gaps, a beam stop, or single bad ones."""
    good = np.ones((size, size), dtype=bool)
    kind = rng.integers(3)
    if kind == 0:
        good[:, int(rng.integers(size))] = False
        good[int(rng.integers(size))] = False
    elif kind == 1:
        line = np.arange(size) - size // 2
        good[np.hypot(line[:, None], line) < rng.uniform(1, 3)] = False
    else:
        good[rng.random((size, size)) < rng.uniform(0.001, 0.02)] = False
    return torch.from_numpy(good)
