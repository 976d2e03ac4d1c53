"""Positions over ZeroMQ, as PandABlocks' data is republished at beamlines: JSON messages of encoder samples.

    {"msg_type": "start", ...}
    {"msg_type": "data", "frame_number": 3, "datasets": {"/INENC1.VAL.Value": {"starting_sample_number": 30,
        "data": [...]}, "/INENC2.VAL.Value": {...}}}
    {"msg_type": "stop", "emitted_frames": 51600}

Several samples belong to a frame, sample s to frame s // samples; their mean is its position. A short form has one
position a message: ``{"frame_number": 3, "x": 1.5, "y": 2.5}``.
"""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError, PtychoError
from ptycho_torch.live.pairing import MOST_NUMBER
from ptycho_torch.live.sources import SOURCES
from ptycho_torch.live.sources.base import Receiver, Sender, Source
from ptycho_torch.live.sources.sockets import connected, follow, let_go, patient_send, subscribed

__all__ = ["Panda", "PandaSender", "Samples"]

_MOST_BYTES: Final = 16 << 20
_AT_ONCE: Final = 4096
"""Positions that are handed on at once: a message may hold millions."""
_MOST_OPEN: Final = 1 << 16
"""Frames of which some samples are there and others are not."""


@SOURCES.register("panda")
class Panda(Source):
    """Positions from an encoder; ``positions_keys`` name its two channels, default the first two by name."""

    gives = ("position",)

    def __init__(self, address: str, options: Any = None) -> None:
        super().__init__(address, options)
        kind = "PULL" if address.startswith("pull+") else "SUB"
        self._socket = connected(address.removeprefix("pull+"), kind, _MOST_BYTES)
        self._samples = Samples(self.options.samples)

    def read(self, to: Receiver, stop: threading.Event) -> None:
        follow(self._socket, to, stop, self._take, "positions", "position", bound="@" in self.address)

    def _take(self, parts: list[bytes], to: Receiver) -> bool:
        try:
            message = json.loads(parts[-1])
        except (ValueError, RecursionError) as error:
            raise DataError("malformed: not JSON") from error
        if not isinstance(message, dict):
            raise DataError("malformed: no object")
        kind = message.get("msg_type")
        if kind == "start":
            to.say("positions: begin")
        elif kind == "stop":
            for number, x, y in self._samples.rest():
                to.position(number, x, y)
            to.end("position")
            return True
        elif kind == "data":
            self._data(message.get("datasets"), to)
        elif kind is None and {"x", "y", "frame_number"} <= message.keys():
            number, x, y = message["frame_number"], message["x"], message["y"]
            if type(number) is not int or not isinstance(x, int | float) or not isinstance(y, int | float):
                raise DataError("malformed: no numbers")
            to.position(number, x, y)
        else:
            raise DataError("malformed: unknown type")
        return False

    def _data(self, datasets: Any, to: Receiver) -> None:
        if not isinstance(datasets, dict):
            raise DataError("malformed: no datasets")
        names = self.options.positions_keys or tuple(sorted(datasets)[:2])
        if len(names) != 2 or any(name not in datasets for name in names):
            raise DataError("no such channel: give --position-keys")
        (first, x), (again, y) = (_channel(datasets[name]) for name in names)
        if first != again or len(x) != len(y):
            raise DataError("malformed: x and y of other samples")
        if not 0 <= first < MOST_NUMBER * self.options.samples:
            raise DataError("number out of range: of a sample")
        step = _AT_ONCE * self.options.samples
        for at in range(0, len(x), step):
            to.positions(self._samples.add(first + at, x[at : at + step], y[at : at + step]))
        lost, again = self._samples.given_up()
        for _ in range(lost):
            to.refuse("position", "some of its samples missing, and too many wait")
        for _ in range(again):
            to.refuse("position", "duplicate")

    @classmethod
    def sender(cls, address: str) -> Sender:
        return PandaSender(address)


def _channel(found: Any) -> tuple[int, NDArray[np.float64]]:
    """Number of the first sample, and the samples."""
    if not isinstance(found, dict) or type(found.get("starting_sample_number")) is not int:
        raise DataError("malformed: no sample number")
    try:
        values = np.asarray(found.get("data"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("malformed: samples that are no numbers") from error
    if values.ndim != 1:
        raise DataError("malformed: samples that are no list")
    return found["starting_sample_number"], values


class Samples:
    """Averages samples by frame; each counts once, whatever their order.

    Parameters
    ----------
    each : int
        Samples of a frame.

    Examples
    --------
    >>> samples = Samples(2)
    >>> samples.add(1, np.array([3.0, 5.0, 7.0]), np.zeros(3))
    [(1, 6.0, 0.0)]
    >>> samples.add(0, np.array([1.0, 3.0]), np.zeros(2))
    [(0, 2.0, 0.0)]
    """

    def __init__(self, each: int) -> None:
        self.each = each
        self._open: dict[int, dict[int, tuple[float, float]]] = {}
        self._done = bytearray()  # by frame: a set of numbers would take fifty times as much
        self._lost = self._again = 0

    def add(
        self, first: int, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> list[tuple[int, float, float]]:
        """Take samples from number ``first`` on; return the frames that are complete, as (number, x, y)."""
        number, part = divmod(first, self.each)
        frames = range(number, number + len(x) // self.each)
        if not part and len(x) % self.each == 0 and self._open.keys().isdisjoint(frames):
            return self._whole(frames, x, y)
        complete = []
        for sample, place in enumerate(zip(x.tolist(), y.tolist(), strict=True), first):
            number, part = divmod(sample, self.each)
            if self._is_done(number):
                self._again += part == 0
                continue
            have = self._open.setdefault(number, {})
            have.setdefault(part, place)
            if len(have) == self.each:
                complete.append(self._mean(number))
        while len(self._open) > _MOST_OPEN:
            del self._open[next(iter(self._open))]
            self._lost += 1
        return complete

    def rest(self) -> list[tuple[int, float, float]]:
        """Return frames of which some samples came, by the mean of those."""
        return [self._mean(number) for number in list(self._open)]

    def given_up(self) -> tuple[int, int]:
        """Return how many frames were given up, and how many came again, since this was last asked."""
        found, self._lost, self._again = (self._lost, self._again), 0, 0
        return found

    def _whole(
        self, frames: range, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> list[tuple[int, float, float]]:
        """Means of frames of which all samples are there."""
        means = [(np.add.reduce(v.reshape(-1, self.each), 1) / self.each).tolist() for v in (x, y)]
        found = []
        for number, at_x, at_y in zip(frames, *means, strict=True):
            if self._is_done(number):
                self._again += 1
            else:
                self._finish(number)
                found.append((number, at_x, at_y))
        return found

    def _mean(self, number: int) -> tuple[int, float, float]:
        x, y = np.mean(list(self._open.pop(number).values()), axis=0).tolist()
        self._finish(number)
        return number, x, y

    def _is_done(self, number: int) -> bool:
        return number < len(self._done) and bool(self._done[number])

    def _finish(self, number: int) -> None:
        if number >= len(self._done):
            self._done.extend(bytes(max(1024, len(self._done), number + 1 - len(self._done))))
        self._done[number] = 1


class PandaSender(Sender):
    """Sends each position as ``samples`` samples around it, whose mean is the position."""

    def __init__(self, address: str, samples: int = 1) -> None:
        self._pushes = address.startswith("pull+")
        self._socket = connected(address.removeprefix("pull+"), "PUSH" if self._pushes else "XPUB", bind=True)
        self.samples = samples
        self._spread = np.linspace(-0.02, 0.02, samples) if samples > 1 else np.zeros(1)

    def _send(self, message: dict[str, Any]) -> None:
        patient_send(self._socket, [json.dumps(message).encode()])

    def start(self, count: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        if not self._pushes:
            subscribed(self._socket)
        self._send({"msg_type": "start"})

    def frame(self, number: int, frame: NDArray[Any]) -> None:
        raise NotImplementedError

    def position(self, number: int, x: float, y: float) -> None:
        first = number * self.samples
        sets = {
            name: {"starting_sample_number": first, "data": (at + self._spread).tolist()}
            for name, at in (("/INENC1.VAL.Value", x), ("/INENC2.VAL.Value", y))
        }
        self._send({"msg_type": "data", "frame_number": number, "datasets": sets})

    def end(self) -> None:
        with contextlib.suppress(PtychoError):  # whoever listened may be gone
            self._send({"msg_type": "stop"})
        let_go(self._socket)
