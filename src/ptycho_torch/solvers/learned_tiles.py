r"""The learned solver in tiles that go in step, so that the cut hardly shows.

A tile is a window of the object plane with frames of its own and a halo of its neighbours'. One iteration is

    each tile:   the network's change from the canvas as all have left it, in a window as wide as the network sees;
                 then passes over the tile's frames
    together:    canvas = sum_t w_t c_t / sum_t w_t,    w_t = sum of |P_m|^2 over the tile's own frames
                 the probe, from sums over all frames, each counted by the one tile whose own it is

What a region takes from all its frames comes from the whole scan: the mean power, the mean modulus, the number of
subsets and who is in which, the probe, and the brightness at the end. Windows begin on the grid on which the
network pools. So tiles compute what the whole would, but for frames beyond their halo, within the passes of one
iteration.

What a tile came to is one piece, on the disk or in memory. Any process may do any of them; a run that ends goes on
from those that are there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.generators.region_frames import (
    RegionFrames,
    dealt_subsets,
    mean_by_region,
    scale_of,
    subsets_for,
)
from ptycho_torch.generators.region_solver import RegionSolver, RegionState
from ptycho_torch.physics.gauges import level
from ptycho_torch.physics.regions import Placement, place
from ptycho_torch.processes import ALONE, Group, dealt
from ptycho_torch.scan.tiling import Tile, as_box, meeting, overlapping
from ptycho_torch.solvers.frames import Frames, light_of
from ptycho_torch.solvers.options import LearnedOptions

__all__ = ["InMemory", "LearnedTiles", "Pieces"]

logger = logging.getLogger(__name__)
Arrays = dict[str, NDArray[Any]]
_FEATURES: Final = 8
"""Planes of a piece, the first of the network's features: object and g (real, imaginary), two of coverage, lag and
misfit; the others are the same everywhere. Behind them are two of velocity."""
_OBJECT, _VELOCITY, _LAG, _MISFIT = slice(0, 2), slice(8, 10), 6, 7
_FRAMES: Final = 256
"""Frames of a tile that are read at once for what needs no more."""


class Pieces(Protocol):
    """Where pieces are kept; see :class:`ptycho_torch.tiles.store.Store`."""

    def has(self, stage: str, piece: int | str = "end") -> bool: ...

    def missing(self, stage: str, pieces: list[int]) -> list[int]: ...

    def put(self, stage: str, piece: int | str, **arrays: Any) -> None: ...

    def get(self, stage: str, piece: int | str = "end") -> Arrays: ...

    def drop(self, stage: str) -> None: ...


class InMemory:
    """Pieces of one process that end with it.

    Examples
    --------
    >>> pieces = InMemory()
    >>> pieces.put("stage", 0, x=np.arange(2))
    >>> pieces.missing("stage", [0, 1]), pieces.has("stage")
    ([1], False)
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[int | str, Arrays]] = {}

    def has(self, stage: str, piece: int | str = "end") -> bool:
        """Return whether a piece is there."""
        return piece in self._kept.get(stage, {})

    def missing(self, stage: str, pieces: list[int]) -> list[int]:
        """Return the pieces that are not there."""
        return [piece for piece in pieces if not self.has(stage, piece)]

    def put(self, stage: str, piece: int | str, **arrays: Any) -> None:
        """Keep a piece."""
        self._kept.setdefault(stage, {})[piece] = {name: np.asarray(value) for name, value in arrays.items()}

    def get(self, stage: str, piece: int | str = "end") -> Arrays:
        """Return a piece."""
        return self._kept[stage][piece]

    def drop(self, stage: str) -> None:
        """Forget a stage."""
        self._kept.pop(stage, None)


@dataclass(frozen=True)
class _Window:
    """A tile on the canvas of the whole scan.

    ``box``: first row and column, height and width of what it computes on; ``wide``: of what its network sees;
    ``own``: of what its own frames light; ``placed``: its frames in ``box``; ``core``: which of them are its own.
    """

    box: NDArray[np.int64]
    wide: NDArray[np.int64]
    own: NDArray[np.int64]
    placed: Placement
    core: NDArray[np.bool_]


@dataclass
class LearnedTiles:
    """The tiles of a scan, solved in step.

    Attributes
    ----------
    solver : RegionSolver
        On the device that computes, ready to predict.
    frames : Frames
    tiles : list of Tile
        Their halos at least a frame wide.
    options : LearnedOptions
    pieces : Pieces
    group : Group
        Processes that share the work.
    name : str
        Of the stages; the one of this name is the result: for each tile ``object``, ``weight`` and ``box``, in
        whole pixels of the scan, and at its end ``probe``, the ``turns`` that objects are to be multiplied by and
        the amplitude ``flat`` of what no frame lights.
    """

    solver: RegionSolver
    frames: Frames
    tiles: list[Tile]
    options: LearnedOptions
    pieces: Pieces = field(default_factory=InMemory)
    group: Group = ALONE
    name: str = "tiles"

    def __post_init__(self) -> None:
        self.whole = place(self.frames.positions, self.frames.size)
        self.device = self.solver.start.device

    # ------------------------------------------------------------ the whole run
    def run(self, probe: NDArray[np.complex64], progress: Callable[[int, int], None] | None = None) -> None:
        """Solve from a guess of the probe, in any gauge of power.

        ``progress``: called with tiles done by this process over all iterations, and its share of them.
        """
        if self.group.shared(lambda: self.pieces.has(self.name)):
            return
        self.solver.eval()
        before, self.solver.bf16 = self.solver.bf16, self.options.bf16
        try:
            with torch.inference_mode():
                self._run(probe, progress)
        finally:
            self.solver.bf16 = before
        logger.info("solved %d frames in %d tiles", len(self.frames.positions), len(self.tiles))

    def _run(self, probe: NDArray[np.complex64], progress: Callable[[int, int], None] | None) -> None:
        sweeps, first = self.options.sweeps, self._stage(0)
        self._together(first, lambda n: self._surveyed(n, probe), lambda: self._survey(probe))
        for k in range(sweeps):

            def told(done: int, share: int, k: int = k) -> None:
                if progress is not None:
                    progress(k * share + done, sweeps * share)

            self._together(self._stage(k + 1), partial(self._iterated, k=k), partial(self._moved, k), told)
            if self.group.first and k:
                self.pieces.drop(self._stage(k))
        self._together(self.name, self._result, self._finished)
        if self.group.first:
            for stage in (first, self._stage(sweeps)):
                self.pieces.drop(stage)
        self.group.wait()

    def _stage(self, iterations: int) -> str:
        return f"{self.name}-{iterations:04d}"

    def _together(
        self,
        stage: str,
        work: Callable[[int], Arrays],
        end: Callable[[], Arrays],
        told: Callable[[int, int], None] | None = None,
    ) -> None:
        """Do what is left of a stage, all processes together; the first one ends it."""
        pieces, group = self.pieces, self.group
        if group.shared(lambda: pieces.has(stage)):
            return
        todo = group.shared(lambda: pieces.missing(stage, list(range(len(self.tiles)))))
        mine = dealt([float(len(self.tiles[n].frames)) for n in todo], group)
        for count, n in enumerate(mine):
            pieces.put(stage, todo[n], **work(todo[n]))
            if told is not None:
                told(count + 1, len(mine))
        group.wait()
        if group.first:
            pieces.put(stage, "end", **end())
        group.wait()

    # ------------------------------------------------------------ windows
    def _window(self, number: int) -> _Window:
        """Where a tile lies: from the grid on which the network pools, and no further than the canvas."""
        tile, size, grid = self.tiles[number], self.frames.size, self.solver.net.multiple
        corners = self.whole.corners[tile.frames]
        core = np.isin(tile.frames, tile.core)
        low, high = corners.min(0).values.numpy(), corners.max(0).values.numpy() + size
        reach = self.solver.net.reach
        first_seen = np.maximum((low - reach) // grid * grid, 0)
        last_seen = np.minimum(-(-(high + reach) // grid) * grid, self.whole.shape)
        own = corners[torch.from_numpy(core)]
        first = own.min(0).values.numpy()
        placed = Placement(
            corners - torch.from_numpy(low),
            self.whole.fractions[tile.frames],
            (int(high[0] - low[0]), int(high[1] - low[1])),
            self.whole.origin_xy + low[::-1],
        )
        box, wide = np.concatenate([low, high - low]), np.concatenate([first_seen, last_seen - first_seen])
        lit = np.concatenate([first, own.max(0).values.numpy() + size - first])
        return _Window(box, wide, lit, placed, core)

    def _gathered(self, window: _Window, stage: str) -> Tensor:
        """(10, H, W) the canvas that a tile's network sees, as all tiles have left it."""
        shape = tuple(window.wide[2:].tolist())
        total, weight = np.zeros((_FEATURES + 2, *shape), np.float32), np.zeros(shape, np.float32)
        boxes = self.pieces.get(self._stage(0))["boxes"]
        for n in overlapping(as_box(window.wide), boxes):
            shared = meeting(as_box(window.wide), as_box(boxes[n]))
            if shared is not None:
                mine, theirs = shared
                light = self.pieces.get(self._stage(0), n)["weight"][theirs]
                total[:, *mine] += light * self.pieces.get(stage, n)["fields"][:, *theirs]
                weight[mine] += light
        lit = weight > 0
        total /= np.where(lit, weight, 1)
        # What no frame lights stays as it began, and there is no misfit but the floor of its root.
        total[0][~lit] = float(self.solver.start.detach())
        total[_MISFIT][~lit] = np.sqrt(1e-9)
        return torch.from_numpy(total).to(self.device)

    # ------------------------------------------------------------ what the whole scan says
    def _surveyed(self, number: int, probe: NDArray[np.complex64]) -> Arrays:
        """Sums over a tile's own frames, and their light."""
        window, frames, own = self._window(number), self.frames, self.tiles[number].core
        core = _only(window.placed, window.core)
        inside = _inside(window.own, window.box)
        light, total = light_of(core, probe)[inside], light_of(window.placed, probe)[inside]
        mean, powers = np.zeros((frames.size, frames.size)), []
        for part in np.array_split(own, -(-len(own) // _FRAMES)):
            read = torch.from_numpy(frames.read(part))
            read = read if frames.good is None else read * torch.from_numpy(frames.good)
            squared = torch.fft.ifftshift(read, dim=(-2, -1)).unsqueeze(1).square()
            mean += squared.sum((0, 1), dtype=torch.float64).numpy()
            powers.append(squared.sum((1, 2, 3)).numpy())
        # Light squared and summed over the canvas, each pixel's by the frames that light it.
        sums = np.array([np.vdot(light, total), light.sum(dtype=np.float64)])
        return {
            "weight": light,
            "mean": mean,
            "powers": np.concatenate(powers),
            "sums": sums,
            "box": window.own,
        }

    def _survey(self, probe: NDArray[np.complex64]) -> Arrays:
        """The probe in the unit of the frames, their mean, the number of subsets; and the tiles' own windows."""
        found = [self.pieces.get(self._stage(0), n) for n in range(len(self.tiles))]
        count = len(self.frames.positions)
        mean = sum((piece["mean"] for piece in found), np.zeros((self.frames.size,) * 2)) / count
        powers = np.empty(count, np.float32)
        for tile, piece in zip(self.tiles, found, strict=True):
            powers[tile.core] = piece["powers"]
        squared, light = sum((piece["sums"] for piece in found), np.zeros(2))
        own = np.square(np.abs(probe)).sum(0)
        cover = squared / max(light, 1e-12) / max(float(own.max()), 1e-12)
        # As a region does it, frame after frame: where the field of a flat object is zero, the last bit of the probe
        # decides on its phase.
        power, _ = mean_by_region(torch.from_numpy(powers), torch.zeros(count, dtype=torch.int64), 1)
        guess = torch.from_numpy(np.ascontiguousarray(probe, dtype=np.complex64))[None]
        scale = scale_of(guess, power)
        return {
            "probe": (guess * scale[:, None, None, None])[0].numpy(),
            "scale": scale.numpy()[0],
            "mean_power": power.numpy()[0],
            "spectrum": np.sqrt(mean + 1e-12).astype(np.float32),
            "subsets": np.array(subsets_for(float(cover), count)),
            "boxes": np.stack([piece["box"] for piece in found]),
        }

    # ------------------------------------------------------------ one tile
    def _state(self, number: int, window: _Window, iterations: int) -> RegionState:
        """A tile after some iterations of all, the network's last change in it."""
        frames, tile, whole = self.frames, self.tiles[number], self.pieces.get(self._stage(0))
        dealt_to = dealt_subsets(len(frames.positions), int(whole["subsets"]))[torch.from_numpy(tile.frames)]
        probe = self.pieces.get(self._stage(iterations))["probe"]
        device, before, here = self.device, None, None
        inside = _inside(window.box, window.wide)
        if iterations:
            before = self._gathered(window, self._stage(iterations))
            here = before[:, *inside]
        given = RegionFrames(
            torch.from_numpy(frames.read(tile.frames)).to(device),
            window.placed.corners.to(device),
            window.placed.fractions.to(device),
            torch.from_numpy(probe)[None].to(device),
            window.placed.shape,
            torch.zeros(len(tile.frames), dtype=torch.int64, device=device),
            None if frames.good is None else torch.from_numpy(frames.good).to(device),
            torch.tensor([frames.noise], device=device),
            tuple(torch.nonzero(dealt_to == n)[:, 0].to(device) for n in range(int(whole["subsets"]))),
            float(whole["mean_power"]),
            torch.from_numpy(window.core).to(device),
            None if here is None else here[None, _LAG],
        )
        state = RegionState(self.solver, given)
        if before is not None and here is not None:
            change = state.proposed(state.features_of(before[None, :_FEATURES], iterations - 1))
            state.obj = torch.complex(*here[_OBJECT])[None]
            state.velocity = torch.complex(*here[_VELOCITY])[None]
            state.change(change[:, :, *inside], here[None, _MISFIT], iterations - 1)
        return state

    def _iterated(self, number: int, k: int) -> Arrays:
        """A tile's own window after the passes of iteration ``k``, and its sums for the probe."""
        window = self._window(number)
        state = self._state(number, window, k)
        found = state.descend(k, self.options.update_probe)
        fields = torch.cat([found.features[0, :_FEATURES], state.velocity.real, state.velocity.imag])
        cut = np.ascontiguousarray(fields.cpu().numpy()[:, *_inside(window.own, window.box)])
        if not self.options.update_probe:
            return {"fields": cut}
        moves, bright = torch.as_tensor(found.moves)[0], torch.as_tensor(found.bright)[0]
        sums = {
            "moves": moves.cpu().numpy(),
            "bright": bright.cpu().numpy(),
            "left": found.left.cpu().numpy(),
        }
        return {"fields": cut, **sums}

    def _moved(self, k: int) -> Arrays:
        """The probe after iteration ``k``."""
        probe = self.pieces.get(self._stage(k))["probe"]
        if not self.options.update_probe:
            return {"probe": probe}
        whole = self.pieces.get(self._stage(0))
        sums = {name: np.zeros((), np.complex128) for name in ("moves", "bright", "left")}
        for n in range(len(self.tiles)):  # always in one order, so that rounding is the same
            piece = self.pieces.get(self._stage(k + 1), n)
            sums = {name: total + piece[name] for name, total in sums.items()}
        moves = torch.from_numpy(sums["moves"].astype(np.complex64))[None].to(self.device)
        bright = torch.from_numpy(sums["bright"].real.astype(np.float32))[None].to(self.device)
        total = max(float(whole["mean_power"]) * len(self.frames.positions), 1e-30)
        left = float(sums["left"].real.item()) / total
        moved = self.solver.moved_probe(
            k,
            torch.from_numpy(probe)[None].to(self.device),
            torch.from_numpy(whole["spectrum"])[None, None].to(self.device),
            (moves, bright),
            torch.tensor([np.sqrt(left + 1e-9)], dtype=torch.float32, device=self.device),
        )
        return {"probe": moved[0].cpu().numpy()}

    # ------------------------------------------------------------ the end
    def _result(self, number: int) -> Arrays:
        """A tile's own part of the object, before the brightness of all."""
        window = self._window(number)
        state = self._state(number, window, self.options.sweeps)
        core = torch.nonzero(torch.from_numpy(window.core))[:, 0].to(self.device)
        top, bottom = state.brightness_of(core)
        probe = self.pieces.get(self._stage(self.options.sweeps))["probe"]
        row, column = self.whole.origin_xy[::-1].astype(int)
        inside = _inside(window.own, window.box)
        return {
            "object": state.obj[0].cpu().numpy()[inside],
            "weight": light_of(_only(window.placed, window.core), _normal(probe))[inside],
            "box": window.own + np.array([row, column, 0, 0]),
            "sums": np.array([float(top), float(bottom)]),
        }

    def _finished(self) -> Arrays:
        """The probe with the power of normalised frames, and the factor on all objects that goes with it."""
        found = [self.pieces.get(self.name, n) for n in range(len(self.tiles))]
        top, bottom = sum((piece["sums"] for piece in found), np.zeros(2))
        probe = self.pieces.get(self._stage(self.options.sweeps))["probe"]
        normal = _normal(probe)
        brightness = float(top / bottom) if bottom > 0 else 1.0
        factor = brightness * float(np.linalg.norm(probe) / np.linalg.norm(normal))
        return {
            "probe": normal,
            "raw": probe / self.pieces.get(self._stage(0))["scale"],
            "turns": np.full(len(found), factor, np.complex128),
            "boxes": np.stack([piece["box"] for piece in found]),
            "flat": np.array(factor * np.mean([level(piece["object"], piece["weight"]) for piece in found])),
        }


def _normal(probe: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """The probe with the power (N/2)^2."""
    return probe * np.float32(probe.shape[-1] / 2 / np.linalg.norm(probe))


def _only(placed: Placement, chosen: NDArray[np.bool_]) -> Placement:
    """A part of the frames, where they lie."""
    these = torch.from_numpy(chosen)
    return Placement(placed.corners[these], placed.fractions[these], placed.shape, placed.origin_xy)


def _inside(part: NDArray[np.int64], whole: NDArray[np.int64]) -> tuple[slice, slice]:
    """Rows and columns of a window in one that holds it."""
    row, column = (part[:2] - whole[:2]).tolist()
    height, width = part[2:].tolist()
    return slice(row, row + height), slice(column, column + width)
