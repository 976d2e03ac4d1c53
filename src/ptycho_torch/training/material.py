"""What adaptation draws from: regions of a scan with some frames kept back, and groups with what all frames say.

Task ``step`` of a seed is always the same one, so a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from ptycho_torch.generators.region_frames import RegionFrames
from ptycho_torch.physics.regions import Placement, place
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.solvers.learned import Frames

__all__ = ["Image", "Labelled", "Material", "Withheld"]

_PIXELS = 28 * 64 * 64
"""Pixels of frames in a region, as in pretraining; six frames at least."""
_REACH = 288
"""Edge of a region, pixels, or twice N where that is more."""
_SHARE = (0.1, 0.3)
"""Part of a region's frames that is kept back."""


@dataclass(frozen=True)
class Image:
    """An object that all frames agree on. ``object``, ``weight``: (H, W); ``origin_xy``: of pixel [0, 0]."""

    object: NDArray[np.complex64]
    weight: NDArray[np.float32]
    origin_xy: NDArray[np.float64]

    @classmethod
    def of(cls, rec: Reconstruction) -> Image:
        """The object of a reconstruction."""
        return cls(rec.object, rec.weight, np.asarray(rec.origin_xy, dtype=np.float64))

    def windows(self, corners: NDArray[np.int64], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Objects (B, H, W) whose first pixels are ``corners`` (B, 2) = (x, y) of the scan, and whether each
        pixel is known."""
        height, width = self.object.shape
        sure = self.weight > 0.05 * self.weight.max()
        objects = np.ones((len(corners), *shape), np.complex64)
        known = np.zeros((len(corners), *shape), np.float32)
        for k, (x, y) in enumerate(corners - np.rint(self.origin_xy).astype(int)):
            rows, columns = (
                slice(max(y, 0), min(y + shape[0], height)),
                slice(max(x, 0), min(x + shape[1], width)),
            )
            if rows.start < rows.stop and columns.start < columns.stop:
                at = np.s_[k, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
                objects[at], known[at] = self.object[rows, columns], sure[rows, columns]
        return torch.from_numpy(objects), torch.from_numpy(known)


@dataclass(frozen=True)
class Withheld:
    """Regions with the frames that are given, and those that are to be predicted."""

    given: RegionFrames
    hidden: RegionFrames


@dataclass(frozen=True)
class Labelled:
    """Groups, each a region of its own, with the image of all frames and where it is known, both (B, H, W)."""

    given: RegionFrames
    objects: Tensor
    known: Tensor


@dataclass(frozen=True)
class Material:
    """One scan, ready to draw from.

    Attributes
    ----------
    frames : Frames
    probe : (modes, N, N) complex64 array
        That of the image, or the guess where there is none; normalised. Regions start from it, groups take it
        as known.
    held : (M,) bool array
        Frames that no step may see.
    image : Image or None
        None where frames overlap too little to make one.
    tree : cKDTree
        Of the positions.
    """

    frames: Frames
    probe: NDArray[np.complex64]
    held: NDArray[np.bool_]
    image: Image | None
    tree: cKDTree

    @classmethod
    def of(
        cls, scan: Scan, guess: NDArray[np.complex64], held: NDArray[np.bool_], rec: Reconstruction | None
    ) -> Material:
        """Gather what a scan and the reconstruction of its frames that are not ``held`` say."""
        factor = np.float32(scan.normalisation)
        frames = Frames(
            lambda index: np.asarray(scan.frames[index], dtype=np.float32) * factor,
            scan.positions,
            scan.N,
            scan.good_pixels,
            0.5 * float(factor) if scan.counts_known else 0.0,
        )
        probe = normalise_probe(guess if rec is None else rec.probe)
        return cls(frames, probe, held, None if rec is None else Image.of(rec), cKDTree(scan.positions))

    # ------------------------------------------------------------ regions
    def region_at(self, centre: int) -> NDArray[np.int64]:
        """Frames around frame ``centre``, as many as a region holds, nearest first."""
        size, modes = self.frames.size, len(self.probe)
        most = max(6, _PIXELS // (size**2 * modes))
        reach = max((_REACH - size) / 2, size / 2)
        away = np.abs(self.frames.positions - self.frames.positions[centre]).max(1)
        near = np.flatnonzero(away <= reach)
        return np.asarray(near[np.argsort(away[near], kind="stable")[:most]])

    def withheld(self, rng: np.random.Generator, regions: int) -> Withheld:
        """Draw regions, and which of their frames are kept back; none of them is ``held``."""
        parts = []
        for centre in rng.choice(np.flatnonzero(~self.held), regions):
            chosen = self.region_at(centre)
            chosen = rng.permutation(chosen[~self.held[chosen]])
            count = int(np.clip(round(rng.uniform(*_SHARE) * len(chosen)), 1, max(len(chosen) - 1, 1)))
            parts.append((chosen[count:], chosen[:count]))
        return self._cut([p for p in parts if len(p[0])] or [(parts[0][1], parts[0][1])])

    def validation(self, regions: int) -> Withheld | None:
        """Regions whose ``held`` frames are predicted from the others; None where there are none."""
        centres = np.flatnonzero(self.held)
        parts = []
        for centre in centres[:: max(1, len(centres) // regions)][:regions]:
            chosen = self.region_at(centre)
            given, hidden = chosen[~self.held[chosen]], chosen[self.held[chosen]]
            if len(given) and len(hidden):
                parts.append((given, hidden))
        return self._cut(parts) if parts else None

    def _cut(self, parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Withheld:
        placed = [place(self.frames.positions[np.concatenate(part)], self.frames.size) for part in parts]
        shape = tuple(max(p.shape[axis] for p in placed) for axis in (0, 1))
        counts = [len(given) for given, _ in parts]
        given = self._regions(
            [(p[0], at, slice(0, n)) for p, at, n in zip(parts, placed, counts, strict=True)], shape
        )
        hidden = self._regions(
            [(p[1], at, slice(n, None)) for p, at, n in zip(parts, placed, counts, strict=True)], shape
        )
        return Withheld(given, hidden)

    def _regions(
        self, parts: list[tuple[NDArray[np.int64], Placement, slice]], shape: tuple[int, ...]
    ) -> RegionFrames:
        """Frames of several regions of one shape; each part: frames, where all of its region lie, which those are."""
        count = torch.tensor([len(part[0]) for part in parts])
        probe = torch.from_numpy(self.probe)
        return RegionFrames(
            torch.from_numpy(self.frames.read(np.concatenate([part[0] for part in parts]))),
            torch.cat([at.corners[inside] for _, at, inside in parts]),
            torch.cat([at.fractions[inside] for _, at, inside in parts]),
            probe.expand(len(parts), *probe.shape),
            (int(shape[0]), int(shape[1])),
            torch.arange(len(parts)).repeat_interleave(count),
            None if self.frames.good is None else torch.from_numpy(self.frames.good),
            torch.full((len(parts),), self.frames.noise),
        )

    # ------------------------------------------------------------ groups
    def groups(self, centres: NDArray[np.int64], members: int, rng: np.random.Generator | None) -> Labelled:
        """Groups of ``members`` frames around ``centres``; ``rng`` draws the others from near ones, else they
        are the nearest."""
        parts, corners = [], []
        for centre in centres:
            near = self.tree.query(self.frames.positions[centre], k=min(2 * members, len(self.held)))[1]
            near = np.atleast_1d(near)[1:] if members > 1 else np.empty(0, np.int64)
            others = near[: members - 1] if rng is None else rng.permutation(near)[: members - 1]
            chosen = np.concatenate([[centre], others]).astype(np.int64)
            placed = place(self.frames.positions[chosen], self.frames.size)
            parts.append((chosen, placed, slice(None)))
            corners.append(np.rint(placed.origin_xy).astype(np.int64))
        shape = tuple(max(part[1].shape[axis] for part in parts) for axis in (0, 1))
        given = replace(self._regions(parts, shape), noise=None)
        if self.image is None:
            nothing = torch.zeros(len(parts), *given.shape)
            return Labelled(given, nothing.to(torch.complex64), nothing)
        return Labelled(given, *self.image.windows(np.stack(corners), given.shape))

    def drawn_groups(self, rng: np.random.Generator, count: int, members: int) -> Labelled:
        """Draw groups around frames that are not ``held`` and that the image shows."""
        return self.groups(rng.choice(self._inside(~self.held), count), members, rng)

    def validation_groups(self, count: int, members: int) -> Labelled:
        """Groups around ``held`` frames, or around others where none is held; always the same ones."""
        able = self._inside(self.held if self.held.any() else ~self.held)
        return self.groups(able[:: max(1, len(able) // count)][:count], members, None)

    def _inside(self, able: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Those of the frames whose middle the image shows."""
        chosen = np.flatnonzero(able)
        if self.image is None:
            return chosen
        column, row = np.rint(self.frames.positions[chosen] - self.image.origin_xy).astype(int).T
        height, width = self.image.object.shape
        inside = (row >= 0) & (column >= 0) & (row < height) & (column < width)
        inside[inside] &= self.image.weight[row[inside], column[inside]] > 0.05 * self.image.weight.max()
        return chosen[inside] if inside.any() else chosen
