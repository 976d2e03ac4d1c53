"""Frames and positions by number and by nothing else, with every one of them accounted for. Needs no torch.

    received = refused + waiting + paired            for frames, and for positions, at every moment

What cannot wait longer, since too much of its kind waits, is refused, the oldest first, and counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Account", "Pair", "Pairing"]

_WAITING, _PAIRED, _GIVEN_UP = 1, 2, 3
MOST_NUMBER: Final = 1 << 24
"""Frame numbers from here on are refused: what is known of each takes memory."""


class Pair(NamedTuple):
    """A frame and its position. ``slot``: where the frame was kept."""

    number: int
    slot: int
    x: float
    y: float


@dataclass
class Account:
    """What became of everything of one kind that was received."""

    received: int = 0
    paired: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def waiting(self) -> int:
        """What has neither been paired nor refused."""
        return self.received - self.paired - self.refused.total()

    def facts(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "received": self.received,
            "paired": self.paired,
            "waiting": self.waiting,
            "refused": self.refused.total(),
            "why": dict(self.refused.most_common()),
        }


class Pairing:
    """Pairs what has the same number, in whatever order it comes and however far apart.

    Parameters
    ----------
    most_waiting : int
        Frames, and positions, that may wait for their other half.

    Examples
    --------
    >>> pairing = Pairing()
    >>> pairing.position(7, 1.5, 2.5), pairing.frame(3, slot=0)
    (None, None)
    >>> pairing.frame(7, slot=1), pairing.frame(7, slot=2)
    (Pair(number=7, slot=1, x=1.5, y=2.5), None)
    >>> pairing.frames.facts()["why"], pairing.frames.waiting
    ({'duplicate': 1}, 1)
    """

    def __init__(self, most_waiting: int = 1 << 18) -> None:
        self.most_waiting = most_waiting
        self.frames, self.positions = Account(), Account()
        self._frame_states = self._position_states = np.zeros(0, np.uint8)
        self._slots: dict[int, int] = {}
        self._places: dict[int, tuple[float, float]] = {}

    def knows(self, number: int) -> bool:
        """Return whether a frame of this number was taken before."""
        return 0 <= number < len(self._frame_states) and self._frame_states[number] != 0

    def takes(self, number: int) -> str | None:
        """Return why a frame of this number is not wanted, None where it is."""
        return _unwanted(self._frame_states, number)

    def places(self, number: int) -> str | None:
        """Return why a position of this number is not wanted, None where it is."""
        return _unwanted(self._position_states, number)

    def frame(self, number: int, slot: int) -> Pair | None:
        """Take a frame; return the pair where its position is there."""
        self.frames.received += 1
        why = self.takes(number)
        if why is not None:
            self.frames.refused[why] += 1
            return None
        self._frame_states = _grown(self._frame_states, number)
        place = self._places.pop(number, None)
        if place is not None:
            return self._pair(number, slot, place)
        self._frame_states[number] = _WAITING
        self._slots[number] = slot
        if len(self._slots) > self.most_waiting:
            oldest = next(iter(self._slots))
            del self._slots[oldest]
            self._frame_states[oldest] = _GIVEN_UP
            self.frames.refused["no position, and too many wait"] += 1
        return None

    def position(self, number: int, x: float, y: float) -> Pair | None:
        """Take a position; return the pair where its frame is there."""
        self.positions.received += 1
        why = self.places(number)
        if why is not None:
            self.positions.refused[why] += 1
            return None
        self._position_states = _grown(self._position_states, number)
        self._position_states[number] = _WAITING
        slot = self._slots.pop(number, None)
        if slot is not None:
            self._frame_states = _grown(self._frame_states, number)
            return self._pair(number, slot, (x, y))
        self._places[number] = (x, y)
        if len(self._places) > self.most_waiting:
            oldest = next(iter(self._places))
            del self._places[oldest]
            self._position_states[oldest] = _GIVEN_UP
            self.positions.refused["no frame, and too many wait"] += 1
        return None

    def _pair(self, number: int, slot: int, place: tuple[float, float]) -> Pair:
        self._frame_states[number] = self._position_states[number] = _PAIRED
        self.frames.paired += 1
        self.positions.paired += 1
        return Pair(number, slot, *place)

    def close(self) -> None:
        """Refuse what still waits: its other half did not come."""
        self.frames.refused["no position came"] += len(self._slots)
        self.positions.refused["no frame came"] += len(self._places)
        self._slots.clear()
        self._places.clear()
        self.frames.refused, self.positions.refused = +self.frames.refused, +self.positions.refused

    def missing(self, expected: int | None = None) -> int:
        """Numbers of which no frame came: those below the highest one seen, and below ``expected``."""
        known = np.flatnonzero(self._frame_states)
        highest = np.flatnonzero(self._position_states)
        last = max(known[-1] if len(known) else -1, highest[-1] if len(highest) else -1)
        return int(max(last + 1, expected or 0) - len(known))


def _unwanted(states: NDArray[np.uint8], number: int) -> str | None:
    if not 0 <= number < MOST_NUMBER:
        return "number out of range"
    return "duplicate" if number < len(states) and states[number] else None


def _grown(states: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    if number < len(states):
        return states
    grown = np.zeros(max(1024, 2 * len(states), number + 1), np.uint8)
    grown[: len(states)] = states
    return grown
