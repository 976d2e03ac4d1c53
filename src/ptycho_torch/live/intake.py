"""Where sources deliver: frames are checked, kept on disk, paired, and handed to the solver in the order they pair.

Sources call in from their own threads. What cannot be used is refused with its reason; nothing raises for what a
peer sent, nothing is dropped without being counted, and what waits in memory is numbers and not frames.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import printable
from ptycho_torch.files.memory import memory_limit
from ptycho_torch.live.pairing import Pair, Pairing
from ptycho_torch.live.spool import Spool
from ptycho_torch.scan.facts import Cut

__all__ = ["Arrived", "Cutting", "Intake"]

logger = logging.getLogger(__name__)
_CANVAS_BYTES: Final = 64
"""Memory that a pixel of the canvas takes, all copies counted."""
_FARTHEST: Final = float(1 << 30)
"""Object pixels from the origin, beyond which there are no samples, and fractions of a pixel get lost."""
_SAID: Final = 200
_LONGEST_WAIT: Final = 1.0
"""Seconds that a source waits at once; what takes longer is not its waiting."""
_BUSY: Final = 0.98
"""Part of its time that a source spends on reading, above which its peer is held up."""


class Arrived(NamedTuple):
    """A pair, and when it was complete (``time.monotonic``)."""

    pair: Pair
    at: float


@dataclass(frozen=True)
class Cutting:
    """Which part of a detector is kept: ``crop`` pixels around ``centre`` (row, column), default its middle."""

    crop: int | None = None
    centre: tuple[int, int] | None = None
    size: int | None = None
    """Edge that frames must have after it, where that is known."""

    def cut(self, shape: tuple[int, int]) -> Cut:
        """Return the part of frames of a shape; raises ``DataError`` where it does not fit."""
        crop = self.crop or (self.size if shape[0] != shape[1] else None)
        if crop is None:
            return Cut(slice(0, shape[0]), slice(0, shape[1]))
        return Cut.middle(shape, crop, 1, self.centre or (shape[0] // 2, shape[1] // 2))


class Intake:
    """The receiver of all sources of one scan.

    Parameters
    ----------
    spool : Spool
        What it holds already is taken over.
    cutting : Cutting, optional
    scale : float
        Object pixels for a unit of the positions that come.
    most_waiting : int
        Frames, and positions, that may wait for their other half.
    first : int
        Number that the detector gives to the frame of position 0.
    """

    def __init__(
        self,
        spool: Spool,
        cutting: Cutting | None = None,
        *,
        scale: float = 1.0,
        most_waiting: int = 1 << 18,
        first: int = 0,
    ) -> None:
        self.spool, self.cutting, self.scale, self.first = spool, cutting or Cutting(), scale, first
        self.pairing = Pairing(most_waiting)
        self.bad: NDArray[np.bool_] | None = None
        self.expected: int | None = None
        self.said: deque[tuple[float, str]] = deque(maxlen=_SAID)
        self.ended: set[str] = set()
        self.busy: dict[str, float] = {}
        self._last_arrival: float | None = None
        self._idle: dict[int, float] = {}
        self.resumed = 0
        self._closed = False
        self._lock = threading.Lock()
        self._ready: deque[Arrived] = deque()
        self._pairs: list[Pair] = []
        self._shape: tuple[int, int] | None = None
        self._cut: Cut | None = None
        self._extent: tuple[float, float, float, float] | None = None
        self._most_pixels = max(1 << 20, memory_limit() // _CANVAS_BYTES)
        self._waits: dict[int, tuple[float, float, bool]] = {}
        self._resume()

    # ---- what sources call

    def start(self, series: str, expected: int | None = None, bad: NDArray[np.bool_] | None = None) -> None:
        with self._lock:
            if self.spool.series is None and self.spool.shape is None:
                self.spool.series = series
            if series != self.spool.series:
                self._say(f"series {printable(series, 60)} is another one than {self.spool.series}: refused")
                return
            if expected is not None and 0 < expected < 1 << 31:
                self.expected = expected
            if bad is not None:
                self._mask(bad)
            self.ended.discard("frame")
            self._say(f"series {printable(series, 60)} begins" + (f", {expected} frames" if expected else ""))

    def frame(
        self, number: int, frame: NDArray[Any], xy: Sequence[float] | None = None, series: str | None = None
    ) -> None:
        self.frames([(number, frame, xy)], series)

    def frames(
        self,
        batch: Sequence[tuple[int, NDArray[Any], Sequence[float] | None]],
        series: str | None = None,
    ) -> None:
        with self._lock:
            self._came()
            kept = self._wanted(batch, series)
            if not kept:
                return
            first = self.spool.append(list(kept), [frame for frame, _ in kept.values()])
            if first is None:
                for _ in kept:
                    self._refuse(self.pairing.frames, "the disk is full")
                return
            for slot, number in enumerate(kept, first):
                self._paired(self.pairing.frame(number, slot))
            self._place([(number, xy[0], xy[1]) for number, (_, xy) in kept.items() if xy is not None])

    def position(self, number: int, x: float, y: float) -> None:
        self.positions([(number, x, y)])

    def positions(self, batch: Sequence[tuple[int, float, float]]) -> None:
        with self._lock:
            self._came()
            self._place(batch)

    def refuse(self, kind: str, reason: str) -> None:
        with self._lock:
            self._refuse(self.pairing.frames if kind == "frame" else self.pairing.positions, reason)

    def end(self, kind: str, count: int | None = None) -> None:
        with self._lock:
            self.ended.add(kind)
            if kind == "frame" and count is not None and 0 < count < 1 << 31:
                self.expected = count
            self._say(f"the sender says that no more {kind}s come")

    def say(self, text: str) -> None:
        with self._lock:
            self._say(text)

    def waited(self, seconds: float) -> None:
        """Keep the share of its time that a source does not wait, over some seconds; say when it never does."""
        now, me = time.monotonic(), threading.get_ident()
        with self._lock:
            self._idle[me] = self._idle.get(me, 0.0) + min(seconds, _LONGEST_WAIT)
        since, waited, told = self._waits.get(me, (now, 0.0, False))
        waited += seconds
        if now - since >= 2.0:
            busy = 1 - min(1.0, waited / (now - since))
            name = threading.current_thread().name
            self.busy[name] = round(busy, 3)
            if (busy > _BUSY) != told:
                held = "more comes than can be read: the sender is held up" if not told else "keeps up again"
                self.say(f"back-pressure: {name}: {held}")
                told = not told
            since, waited = now, 0.0
        self._waits[me] = since, waited, told

    def known(self, number: int) -> bool:
        # Without the lock: what is known stays known.
        return self.pairing.knows(number - self.first)

    # ---- what the session calls

    def left(self) -> None:
        """Say that the source of this thread is done."""
        with self._lock:
            self._idle.pop(threading.get_ident(), None)

    @property
    def quiet(self) -> float | None:
        """Seconds for which sources waited in vain since something came last, None before anything did.

        Time in which a source did not come to look does not count: the program may have been held up itself.
        """
        with self._lock:
            if self._last_arrival is None:
                return None
            passed = time.monotonic() - self._last_arrival
            return min([passed, *self._idle.values()])

    def take(self, most: int) -> list[Arrived]:
        """Return up to ``most`` pairs that are new, in the order in which they were complete."""
        with self._lock:
            return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    @property
    def waiting(self) -> int:
        """Pairs that :meth:`take` would return."""
        return len(self._ready)

    def pairs(self) -> list[Pair]:
        """Return all pairs by frame number."""
        with self._lock:
            return sorted(self._pairs, key=lambda pair: pair.number)

    def close(self) -> None:
        """Refuse what has no other half."""
        with self._lock:
            self.pairing.close()
            self._closed = True

    def facts(self) -> dict[str, Any]:
        """Return the account as plain values."""
        with self._lock:
            # Until the end those beyond the highest number are still to come.
            missing = self.pairing.missing(self.expected if self._closed else None)
            return {
                "frames": self.pairing.frames.facts(),
                "positions": self.pairing.positions.facts(),
                "expected": self.expected,
                "missing": missing,
                "resumed": self.resumed,
                "busy": dict(self.busy),
                "series": self.spool.series,
            }

    # ---- inside, with the lock held

    def _came(self) -> None:
        self._last_arrival = time.monotonic()
        for source in self._idle:
            self._idle[source] = 0.0

    def _say(self, text: str) -> None:
        self.said.append((time.time(), text))
        logger.info("%s", text)

    def _refuse(self, account: Any, reason: str) -> None:
        account.received += 1
        reason = printable(reason, 80)
        if len(account.refused) >= 64 and reason not in account.refused:
            reason = "other reasons"
        account.refused[reason] += 1
        if account.refused[reason] in (1, 10, 100, 1000, 10_000):
            self._say(f"refused {account.refused[reason]} x: {reason}")

    def _wanted(
        self, batch: Sequence[tuple[int, NDArray[Any], Sequence[float] | None]], series: str | None
    ) -> dict[int, tuple[NDArray[Any], Sequence[float] | None]]:
        """What of a batch is kept, by number; the rest is refused."""
        account, spool = self.pairing.frames, self.spool
        kept: dict[int, tuple[NDArray[Any], Sequence[float] | None]] = {}
        other = series is not None and spool.series is not None and series != spool.series
        for number, frame, xy in batch:
            number -= self.first
            why = (
                "after the end" if self._closed else "another series" if other else self.pairing.takes(number)
            )
            if why is None and number in kept:
                why = "duplicate"
            fitting = self._fitting(frame) if why is None else why
            if isinstance(fitting, str):
                self._refuse(account, fitting)
                continue
            if spool.shape is None:
                shape = (fitting.shape[0], fitting.shape[1])
                spool.begin(shape, fitting.dtype, spool.series or series)
            kept[number] = fitting, xy
        return kept

    def _fitting(self, frame: NDArray[Any]) -> NDArray[Any] | str:
        """The part of a frame that is kept, or why it is refused."""
        if self._shape is None:
            try:
                cut = self.cutting.cut((frame.shape[0], frame.shape[1]))
            except ValueError as error:
                return str(error)
            if frame[cut.rows, cut.columns].shape[0] != frame[cut.rows, cut.columns].shape[1]:
                return f"frames are {frame.shape}, not square: give --crop"
            if self.cutting.size not in (None, cut.size):
                return f"frames of {cut.size} pixels, the probe has {self.cutting.size}: give --crop"
            if self.spool.shape not in (None, (cut.size, cut.size)):
                return f"frames of {cut.size} pixels, earlier ones have {self.spool.shape}"
            self._shape, self._cut = (frame.shape[0], frame.shape[1]), cut
            if self.bad is not None and self.bad.shape == self._shape:
                self.bad = self.bad[cut.rows, cut.columns]
        assert self._cut is not None
        if frame.shape != self._shape:
            return f"shape {frame.shape}, others have {self._shape}"
        kept = frame[self._cut.rows, self._cut.columns]
        if self.spool.shape is not None and not np.can_cast(kept.dtype, self.spool.dtype, "safe"):
            return f"type {kept.dtype}, others have {self.spool.dtype}"
        if kept.dtype.kind == "f" and not np.isfinite(kept).all():
            return "values that are not finite"
        if kept.dtype.kind in "if" and kept.min(initial=0) < 0:
            return "values below 0"
        if kept.dtype.kind == "u" and kept.dtype.itemsize > 1:
            # Detectors mark what they cannot count with the largest value.
            most = np.iinfo(kept.dtype).max
            if kept.max() == most:
                full = kept == most
                self.bad = full if self.bad is None else self.bad | full
        return kept

    def _mask(self, bad: NDArray[np.bool_]) -> None:
        if self._cut is not None and bad.shape == self._shape:
            bad = bad[self._cut.rows, self._cut.columns]
        if self.bad is None or self.bad.shape == bad.shape:
            self.bad = bad if self.bad is None else self.bad | bad

    def _place(self, batch: Sequence[tuple[int, Any, Any]]) -> None:
        """Take positions; each that is not refused is kept before it is paired."""
        account, kept = self.pairing.positions, {}
        for number, x, y in batch:
            why = "after the end" if self._closed else self.pairing.places(number)
            if why is None and number in kept:
                why = "duplicate"
            place = self._placed(x, y) if why is None else why
            if isinstance(place, str):
                self._refuse(account, place)
            else:
                kept[number] = place
        if kept and not self.spool.note([(number, x, y) for number, (x, y) in kept.items()]):
            for _ in kept:
                self._refuse(account, "the disk is full")
            return
        for number, (x, y) in kept.items():
            self._paired(self.pairing.position(number, x, y))

    def _placed(self, x: Any, y: Any) -> tuple[float, float] | str:
        """A position in object pixels, or why it is refused."""
        try:
            x, y = float(x) * self.scale, float(y) * self.scale
        except (TypeError, ValueError, OverflowError):
            return "a position that is no two numbers"
        if not (math.isfinite(x) and math.isfinite(y)):
            return "a position that is not finite"
        if max(abs(x), abs(y)) > _FARTHEST:
            return "a position that is no place on a sample"
        extent = _with(self._extent, x, y)
        size = 1 if self.spool.shape is None else self.spool.shape[0] + 1
        if (extent[2] - extent[0] + size) * (extent[3] - extent[1] + size) > self._most_pixels:
            return "a position so far off that the canvas would not fit into memory"
        self._extent = extent
        return x, y

    def _paired(self, pair: Pair | None) -> None:
        if pair is not None:
            self._pairs.append(pair)
            self._ready.append(Arrived(pair, time.monotonic()))

    def _resume(self) -> None:
        numbers, places = self.spool.kept()
        for slot, number in enumerate(numbers.tolist()):
            self._paired(self.pairing.frame(number, slot))
        for number, x, y in places.tolist():
            self._extent = _with(self._extent, x, y)
            self._paired(self.pairing.position(number, x, y))
        self.resumed = len(numbers)
        if self.resumed:
            self._last_arrival = time.monotonic()  # a sender that is done by now sends nothing more
            self._say(f"going on with {self.resumed} frames that an earlier run received")


def _with(
    extent: tuple[float, float, float, float] | None, x: float, y: float
) -> tuple[float, float, float, float]:
    """Least x and y and greatest x and y of positions, one more taken in."""
    if extent is None:
        return x, y, x, y
    return min(extent[0], x), min(extent[1], y), max(extent[2], x), max(extent[3], y)
