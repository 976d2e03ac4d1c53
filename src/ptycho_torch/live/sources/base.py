"""What a source is: it reads one protocol and hands frames and positions to a receiver. Needs no torch."""

from __future__ import annotations

import importlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DependencyError

__all__ = ["Gathered", "Peer", "Receiver", "Sender", "Source", "SourceOptions", "needed"]

_GATHERED: Final = 4 << 20
"""Bytes of frames that are handed on at once."""
_PLACES: Final = 4096
"""Positions that are."""


@dataclass(frozen=True)
class SourceOptions:
    """What all sources understand; each uses what its protocol needs.

    Attributes
    ----------
    most_bytes : int
        Largest message, and largest frame once decompressed. What claims more is refused before memory is taken.
    frames_key, numbers_key : str, optional
        Data sets of frames and of frame numbers in HDF5 files; default: found by what they are.
    positions_keys : tuple of str, optional
        Names of x and of y: data sets, attributes, or channels of an encoder.
    samples : int
        Encoder samples a frame, which are averaged.
    poll : float
        Seconds between two looks at a file or folder.
    """

    most_bytes: int = 256 << 20
    frames_key: str | None = None
    numbers_key: str | None = None
    positions_keys: tuple[str, str] | None = None
    samples: int = 1
    poll: float = 0.05


class Receiver(Protocol):
    """Takes what a source reads. Its methods never raise for what a peer sent: they count it as refused."""

    def start(self, series: str, expected: int | None = None, bad: NDArray[np.bool_] | None = None) -> None:
        """Begin a series of frames, ``expected`` of them, with untrusted pixels ``bad`` (H, W)."""

    def frame(
        self, number: int, frame: NDArray[Any], xy: Sequence[float] | None = None, series: str | None = None
    ) -> None:
        """Take frame ``number`` (H, W), with its position where that came with it."""

    def frames(
        self,
        batch: Sequence[tuple[int, NDArray[Any], Sequence[float] | None]],
        series: str | None = None,
    ) -> None:
        """Take frames as :meth:`frame` does, several at once, which takes less for each."""

    def position(self, number: int, x: float, y: float) -> None:
        """Take the position of frame ``number``."""

    def positions(self, batch: Sequence[tuple[int, float, float]]) -> None:
        """Take positions (number, x, y), several at once."""

    def refuse(self, kind: str, reason: str) -> None:
        """Count a message that could not be read; ``kind`` is ``frame`` or ``position``."""

    def end(self, kind: str, count: int | None = None) -> None:
        """Say that no more of a kind will come, and how many there were where the sender says so."""

    def say(self, text: str) -> None:
        """Tell people what happens to the connection."""

    def waited(self, seconds: float) -> None:
        """Say how long the source waited for its peer: one that never waits is slower than its peer."""

    def known(self, number: int) -> bool:
        """Return whether frame ``number`` was received before, so that reading it again can be spared."""


class Source(ABC):
    """Reads one protocol.

    Parameters
    ----------
    address : str
        Where: a path, or an address of the protocol.
    options : SourceOptions, optional

    Raises
    ------
    DependencyError
        When a library that the protocol needs is not installed.
    """

    gives: tuple[str, ...] = ("frame",)
    """What it can give: ``frame``, ``position`` or both."""

    def __init__(self, address: str, options: SourceOptions | None = None) -> None:
        self.address = address
        self.options = options or SourceOptions()

    @abstractmethod
    def read(self, to: Receiver, stop: threading.Event) -> None:
        """Hand over what comes until the sender ends the series or ``stop`` is set.

        Messages that cannot be understood are refused by ``to.refuse``. A peer that goes away is waited for.
        """

    @classmethod
    def sender(cls, address: str) -> Sender:
        """Return the other end, which makes a stream out of a scan: for demonstrations and tests."""
        raise NotImplementedError


class Sender(ABC):
    """The detector's end of a protocol."""

    @abstractmethod
    def start(self, count: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        """Announce ``count`` frames."""

    @abstractmethod
    def frame(self, number: int, frame: NDArray[Any]) -> None:
        """Send one."""

    def position(self, number: int, x: float, y: float) -> None:
        """Send one, where positions travel this way."""
        raise NotImplementedError

    @abstractmethod
    def end(self) -> None:
        """Say that it was the last one, and let go."""


class Peer:
    """Tells a receiver when a connection is silent and when it speaks again, once each.

    Examples
    --------
    >>> class Told:
    ...     def say(self, text): print(text)
    >>> peer = Peer(Told(), "detector", seconds=0.0)
    >>> peer.silent(); peer.silent(); peer.heard()
    detector: silent
    detector: speaks again
    """

    def __init__(self, to: Any, name: str, seconds: float = 5.0) -> None:
        import time

        self._clock = time.monotonic
        self.to, self.name, self.seconds = to, name, seconds
        self._last, self._said = self._clock(), False

    def heard(self) -> None:
        """Note a message."""
        self._last = self._clock()
        if self._said:
            self.to.say(f"{self.name}: speaks again")
            self._said = False

    def silent(self) -> None:
        """Note that none came."""
        if not self._said and self._clock() - self._last >= self.seconds:
            self.to.say(f"{self.name}: silent")
            self._said = True


class Gathered:
    """A receiver that hands on what it gets in batches, in the order in which it came.

    What a source reads at once goes through :meth:`frame` and :meth:`position`; :meth:`flush` hands it on, before
    that much memory is taken.

    Parameters
    ----------
    to : Receiver

    Examples
    --------
    >>> class Told:
    ...     def positions(self, batch): print(batch)
    >>> gathered = Gathered(Told())
    >>> gathered.position(0, 1.0, 2.0); gathered.position(1, 1.5, 2.0); gathered.flush()
    [(0, 1.0, 2.0), (1, 1.5, 2.0)]
    """

    def __init__(self, to: Any) -> None:
        self.to = to
        self._series: str | None = None
        self._bytes = 0
        self._frames: list[tuple[int, NDArray[Any], Sequence[float] | None]] = []
        self._positions: list[tuple[int, float, float]] = []

    def frame(
        self, number: int, frame: NDArray[Any], xy: Sequence[float] | None = None, series: str | None = None
    ) -> None:
        """Gather a frame."""
        if series != self._series:
            self.flush()
            self._series = series
        self._frames.append((number, frame, xy))
        self._bytes += frame.nbytes
        if self._bytes > _GATHERED:
            self.flush()

    def position(self, number: int, x: float, y: float) -> None:
        """Gather a position."""
        self.positions([(number, x, y)])

    def frames(
        self,
        batch: Sequence[tuple[int, NDArray[Any], Sequence[float] | None]],
        series: str | None = None,
    ) -> None:
        """Hand on frames, after what was gathered."""
        self.flush()
        self.to.frames(batch, series)

    def positions(self, batch: Sequence[tuple[int, float, float]]) -> None:
        """Gather positions."""
        self._positions += batch
        if len(self._positions) >= _PLACES:
            self.flush()

    def start(self, series: str, expected: int | None = None, bad: NDArray[np.bool_] | None = None) -> None:
        """Begin a series, after what was gathered."""
        self.flush()
        self.to.start(series, expected, bad)

    def end(self, kind: str, count: int | None = None) -> None:
        """Say that it was all, after what was gathered."""
        self.flush()
        self.to.end(kind, count)

    def refuse(self, kind: str, reason: str) -> None:
        """Count what could not be read."""
        self.to.refuse(kind, reason)

    def say(self, text: str) -> None:
        """Tell people something."""
        self.to.say(text)

    def waited(self, seconds: float) -> None:
        """Say how long the source waited."""
        self.to.waited(seconds)

    def known(self, number: int) -> bool:
        """Return whether a frame was received before and handed on."""
        return bool(self.to.known(number))

    def flush(self) -> None:
        """Hand on what was gathered."""
        if self._frames:
            frames, self._frames, self._bytes = self._frames, [], 0
            self.to.frames(frames, self._series)
        if self._positions:
            places, self._positions = self._positions, []
            self.to.positions(places)


def needed(module: str, package: str | None = None) -> Any:
    """Import what a protocol needs.

    Raises
    ------
    DependencyError
        When it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(
            f"{package or module}: needed for this source and not installed: pip install 'ptychopinn[live]'"
        ) from error
