"""The object grows with the frames: bounded work at a time, the newest first, what is worth it again later.

Each step solves one region of bounded size: new frames that lie close to each other with the nearest of those that
were there before; or, when nothing is new, a region whose frames have got neighbours since they were solved. What
takes longer goes on beside, one at a time: how the detector lies, then the probe, on the frames in the middle.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as waited_for
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.live.canvas import GrowingCanvas
from ptycho_torch.live.engines import Region, RegionEngine, misfit, which_orientation
from ptycho_torch.live.intake import Arrived, Intake
from ptycho_torch.live.orientation import Orientation
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.scan.tiling import innermost
from ptycho_torch.solvers.learned import RegionObject

__all__ = ["Growing", "GrowingOptions"]

logger = logging.getLogger(__name__)
_FIRST: Final = 9
"""Frames with which solving begins."""
_ORIENTED: Final = 100
"""Frames that show how the detector lies."""
_TRIED: Final = 48
"""Of these, so many that lie close to each other are solved in each orientation."""
_TOTAL: Final = (12, 256)
"""Least and most frames of a region."""
_NEIGHBOURS: Final = 32
"""Frames of a region that were there before, at most, unless twice as many are new."""
_PROBE_FRAMES: Final = 128
_JUDGED: Final = 8
_AT_ONCE: Final = 16
"""Frames that are made amplitudes of at once, while they lie in the processor's memory."""
_GATHER: Final = 0.03
"""Seconds for which new frames gather."""
_QUICK: Final = 64
"""Frames of a region from which on they do: a few take longer one by one than together."""
_RARELY: Final = 20
"""How much longer than it took nothing is solved again while new frames come."""
_JUDGE: Final = 0.2
"""Seconds between two looks at the residual."""
_STALE: Final = 4
"""New neighbours from which on a frame is solved again."""
_RECENT: Final = 2000
_LOOK: Final = 0.01
"""Seconds between two looks at what goes on beside."""


@dataclass(frozen=True)
class GrowingOptions:
    """How regions are solved.

    Attributes
    ----------
    seconds : float
        What a step should take; regions are made as large as that allows.
    orientation : str
        A name of :data:`~ptycho_torch.live.orientation.ORIENTATIONS`, or ``auto``.
    update_probe : bool
        Find the probe, too.
    """

    seconds: float = 0.1
    orientation: str = "auto"
    update_probe: bool = True


class Growing:
    """Solves what arrives at an intake onto a canvas.

    Parameters
    ----------
    intake : Intake
    engine : RegionEngine
    probe : (modes, N, N) complex array, or a function of N that makes one
    options : GrowingOptions, optional
    """

    def __init__(
        self,
        intake: Intake,
        engine: RegionEngine,
        probe: NDArray[np.complex64] | Callable[[int], NDArray[np.complex64]],
        options: GrowingOptions | None = None,
    ) -> None:
        self.intake, self.engine, self.options = intake, engine, options or GrowingOptions()
        self.canvas = GrowingCanvas()
        self.orientation = Orientation.named(
            "as-is" if self.options.orientation == "auto" else self.options.orientation
        )
        self.oriented = self.options.orientation != "auto"
        self.residual: float | None = None
        self.latencies: deque[float] = deque(maxlen=_RECENT)
        self.used = 0
        self.busy_seconds = 0.0
        """Time spent on regions of new frames."""
        self.steps: dict[str, int] = {"new": 0, "again": 0, "probe": 0}
        self._given = probe
        self.probe: NDArray[np.complex64] | None = None
        self.factor = 1.0
        self._noise = 0.0
        self._counts = True
        self._positions = np.zeros((1024, 2))
        self._slots = np.zeros(1024, np.int64)
        self._stale = np.zeros(1024, np.int32)
        self.shown = np.zeros(1024)
        """When each frame was first on the canvas (``time.monotonic``), in the order in which they were paired."""
        self._cells: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._pending: dict[int, float] = {}
        self._count = 0
        self._probed = 0
        self._judged = -_JUDGE
        self._again_from = 0.0
        self._per_frame = self.options.seconds / 32
        self._room = _Room()
        self._beside: Future[Callable[[], None]] | None = None

    @property
    def probe_given(self) -> NDArray[np.complex64] | None:
        """The guess of the caller; None where it is one that is made."""
        return None if callable(self._given) else self._given

    @property
    def positions(self) -> NDArray[np.float64]:
        """(M, 2) of all frames so far, in the order in which they were paired."""
        return self._positions[: self._count]

    @property
    def slots(self) -> NDArray[np.int64]:
        """(M,) where each frame is kept, in the same order."""
        return self._slots[: self._count]

    @property
    def backlog(self) -> int:
        """Frames that are paired and not on the canvas."""
        return len(self._pending) + self.intake.waiting

    def step(self) -> bool:
        """Do one bounded piece of work; return whether there was any."""
        self._accept(self.intake.take(4096))
        if self.probe is None:
            # A few frames are waited for; what never gets more is solved by the last pass.
            if self._count < _FIRST:
                return False
            self._begin()
        self._adopt(0.0)
        if self._beside is None:
            if not self.oriented:
                if self._count >= _ORIENTED:
                    self._orient()
            elif self.options.update_probe and self._count >= 2 * self._probed:
                self._solve_probe()
        ripe = self._ripe_in() if self._pending else 0.0
        if self._pending and ripe <= 0:
            self._solve_new()
            return True
        if (not self._pending or time.monotonic() >= self._again_from) and self._solve_again():
            return True
        if self._pending:
            time.sleep(ripe)
            return True
        if self._beside is not None:
            self._adopt(_LOOK)
            return True
        return False

    def settle(self) -> None:
        """Finish what goes on beside; a scan that ended before shows how the detector lies with what it has."""
        self._accept(self.intake.take(self.intake.waiting))
        if self._count < _FIRST:
            return
        if self.probe is None:
            self._begin()
        self._adopt(None)
        if not self.oriented:
            self._orient()
            self._adopt(None)

    # ---- bookkeeping

    def _adopt(self, seconds: float | None) -> None:
        """Take over what was done beside, if it is done within some seconds; None: however long that takes."""
        if self._beside is None:
            return
        waited_for([self._beside], seconds)
        if self._beside.done():
            done, self._beside = self._beside, None
            done.result()()

    def _accept(self, arrived: list[Arrived]) -> None:
        if not arrived:
            return
        first, self._count = self._count, self._count + len(arrived)
        while self._count > len(self._positions):
            self._positions, self._slots, self._stale, self.shown = (
                np.concatenate([old, np.zeros_like(old)])
                for old in (self._positions, self._slots, self._stale, self.shown)
            )
        new = slice(first, self._count)
        self._positions[new] = [each.pair[2:] for each in arrived]
        self._slots[new] = [each.pair.slot for each in arrived]
        cells = (self._positions[new] // self._edge).astype(np.int64).tolist()
        for index, (each, (column, row)) in enumerate(zip(arrived, cells, strict=True), first):
            self._cells[column, row].append(index)
            self._pending[index] = each.at

    @property
    def _size(self) -> int:
        assert self.intake.spool.shape is not None
        return self.intake.spool.shape[0]

    @property
    def _edge(self) -> int:
        return max(8, self._size // 2)

    def _cell(self, index: int) -> tuple[int, int]:
        x, y = self._positions[index].tolist()
        return int(x // self._edge), int(y // self._edge)

    def _around(self, index: int, reach: int) -> NDArray[np.int64]:
        """Frames in the cells up to ``reach`` away from that of a frame."""
        column, row = self._cell(index)
        found: list[int] = []
        for i in range(column - reach, column + reach + 1):
            for j in range(row - reach, row + reach + 1):
                found += self._cells.get((i, j), ())
        return np.array(found, dtype=np.int64)

    def _nearest(self, index: int, among: NDArray[np.int64], most: int) -> NDArray[np.int64]:
        if len(among) <= most:
            return among
        distance = np.square(self._positions[among] - self._positions[index]).sum(1)
        return among[np.argpartition(distance, most - 1)[:most]]

    # ---- beginning

    def _begin(self) -> None:
        given = self._given(self._size) if callable(self._given) else self._given
        self.probe = normalise_probe(given)
        frames = self.intake.spool.read(self._slots[: min(self._count, 64)])
        self._counts = frames.dtype.kind in "iu" or bool((frames == np.rint(frames)).all())
        power = self._powers(frames)
        self.factor = float(self._size / 2 / np.sqrt(max(power.mean(), 1e-30)))
        self._noise = 0.5 * self.factor if self._counts else 0.0

    def _powers(self, frames: NDArray[Any]) -> NDArray[np.float64]:
        good = self.intake.bad
        values = frames.astype(np.float64)
        if good is not None and good.shape == values.shape[1:]:
            values[:, good] = 0
        return (values if self._counts else np.square(values)).sum((1, 2))

    def _region(
        self, index: NDArray[np.int64], orientation: Orientation | None = None, beside: bool = False
    ) -> Region:
        """Frames that are solved together; unless that is done ``beside``, the next region takes their memory."""
        assert self.probe is not None
        turned = self.orientation if orientation is None else orientation
        # Neighbours on the disk are read at once, and the newest come last.
        index = index[np.argsort(self._slots[index])]
        bad, size = self.intake.bad, self._size
        good = None if bad is None or bad.shape != (size, size) else np.ascontiguousarray(turned.turn(~bad))
        shape = (len(index), size, size)
        frames = np.empty(shape, np.float32) if beside else self._room.of(shape)
        for start in range(0, len(index), _AT_ONCE):
            part = index[start : start + _AT_ONCE]
            stored = turned.turn(self.intake.spool.read(self._slots[part]))
            self._amplitudes(stored, frames[start : start + _AT_ONCE])
        if good is not None:
            frames *= good
        return Region(frames, self._positions[index], self.probe, good, self._noise)

    def _amplitudes(self, stored: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Normalised amplitudes of frames as they are stored."""
        factor = np.float32(self.factor)
        if self._counts:
            np.sqrt(stored, out=out, casting="same_kind")
            out *= factor
        else:
            np.multiply(stored, factor, out=out, casting="same_kind")

    def _orient(self) -> None:
        region = self._region(innermost(self.positions, _TRIED), Orientation("as-is"), beside=True)

        def tried() -> Callable[[], None]:
            best, found = which_orientation(region, self.engine)
            return lambda: self._turn(best, found)

        self._beside = _beside(tried)

    def _turn(self, best: Orientation, found: dict[str, float]) -> None:
        self.oriented = True
        shown = ", ".join(
            f"{name} {value:.3f}" for name, value in sorted(found.items(), key=lambda i: i[1])[:3]
        )
        self.intake.say(f"detector orientation: {best.name} explains the frames best (R: {shown})")
        if best.name != self.orientation.name:
            self.orientation = best
            self.canvas.clear()
            self.residual = None
            self._stale[: self._count] = _STALE

    # ---- regions

    @property
    def _total(self) -> int:
        """Frames that a region may have."""
        return int(np.clip(self.options.seconds / self._per_frame, *_TOTAL))

    def _ripe_in(self) -> float:
        """Seconds until new frames are to be solved: where that is quick, some are let gather."""
        if self._total < _QUICK or 4 * len(self._pending) >= self._total:
            return 0.0
        return next(iter(self._pending.values())) + _GATHER - time.monotonic()

    def _solve_new(self) -> None:
        total = self._total
        seed = next(iter(self._pending))
        near = self._around(seed, 2)
        waiting = np.array([i for i in near.tolist() if i in self._pending], dtype=np.int64)
        # With a backlog more of a region is new: more frames in the same time, each with fewer neighbours.
        share = 3 * total // 4 if len(self._pending) > total else total // 2
        new = self._nearest(seed, waiting, max(1, share))
        others = np.setdiff1d(near, waiting, assume_unique=True)
        known = self._nearest(seed, others, min(total - len(new), max(len(new) // 2, _NEIGHBOURS)))
        self._solve(np.concatenate([new, known]), "new")
        now = time.monotonic()
        self.shown[new] = now
        for index in new.tolist():
            self.latencies.append(now - self._pending.pop(index))
        self.used += len(new)
        for index in new[:: max(1, len(new) // 8)].tolist():
            self._stale[self._around(index, 1)] += 1
        self._stale[new] = 0

    def _solve_again(self) -> bool:
        if not self._count:
            return False
        stalest = int(np.argmax(self._stale[: self._count]))
        if self._stale[stalest] < _STALE:
            return False
        index = self._nearest(stalest, self._around(stalest, 2), self._total)
        began = time.monotonic()
        self._solve(index, "again")
        self._again_from = (1 + _RARELY) * time.monotonic() - _RARELY * began
        inner = self._nearest(stalest, index, max(1, len(index) // 2))
        self._stale[inner] = 0
        self._stale[stalest] = 0
        return True

    def _solve_probe(self) -> None:
        self._probed = self._count
        if self._count < _FIRST:
            return
        index = innermost(self.positions, _PROBE_FRAMES)
        region = self._region(index, beside=True)

        def solved() -> Callable[[], None]:
            found = self.engine.solve(region, True)
            return lambda: self._take_probe(index, found)

        self._beside = _beside(solved)

    def _take_probe(self, index: NDArray[np.int64], solved: RegionObject) -> None:
        level = np.float32((self._size / 2) / np.linalg.norm(solved.probe))
        self.probe = (solved.probe * level).astype(np.complex64)
        self.canvas.stitch(solved.object / level, solved.weight * level**2, solved.origin_xy)
        self._stale[: self._count] = np.maximum(self._stale[: self._count], _STALE)
        self._stale[index] = 0
        self.steps["probe"] += 1

    def _solve(self, index: NDArray[np.int64], kind: str) -> None:
        began = time.monotonic()
        region = self._region(index)
        solved = self.engine.solve(region, False)
        self.canvas.stitch(solved.object, solved.weight, solved.origin_xy)
        taken = (time.monotonic() - began) / len(index)
        self._per_frame += 0.3 * (taken - self._per_frame)
        self.steps[kind] += 1
        if self.residual is None or (kind == "new" and time.monotonic() - self._judged > _JUDGE):
            self._judge(region)
            self._judged = time.monotonic()
        if kind == "new":
            self.busy_seconds += time.monotonic() - began

    def _judge(self, region: Region) -> None:
        """Follow R of the newest frames under the canvas."""
        few = Region(
            region.frames[-_JUDGED:], region.positions[-_JUDGED:], region.probe, region.good, region.noise
        )
        whole = np.floor(few.positions + 0.5).astype(np.int64)
        low = whole.min(0) - few.size // 2
        found = misfit(few, self.canvas.crop(low, whole.max(0) + few.size - few.size // 2))
        self.residual = found if self.residual is None else self.residual + 0.2 * (found - self.residual)


class _Room:
    """Memory that is used again: the system takes longer to give new memory than frames take to be put there."""

    def __init__(self) -> None:
        self._memory = np.zeros(0, np.float32)

    def of(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array, in the place of the one before."""
        count = int(np.prod(shape))
        if count > len(self._memory):
            self._memory = np.empty(count, np.float32)
        return self._memory[:count].reshape(shape)


def _beside(work: Callable[[], Callable[[], None]]) -> Future[Callable[[], None]]:
    """Do work in a thread of its own; what it returns is to be called by the thread that asked for it."""
    made: Future[Callable[[], None]] = Future()

    def run() -> None:
        try:
            made.set_result(work())
        except BaseException as error:  # raised where the result is asked for
            made.set_exception(error)

    threading.Thread(target=run, name="beside", daemon=True).start()
    return made
