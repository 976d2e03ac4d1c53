"""A stream out of a scan, as a detector would send it, with the faults that streams have. Needs no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.config import opt, validate
from ptycho_torch.live.sources import SOURCES, Sender
from ptycho_torch.scan import Scan

__all__ = ["ReplayOptions", "Replayed", "Stream", "addresses", "replay", "stored_frames"]

_SHUFFLED: Final = 64
"""Places over which order is lost."""


@dataclass
class ReplayOptions:
    """How a scan is replayed."""

    rate: float = opt(500.0, "frames a second; 0: as fast as they are taken", ge=0)
    skew: float = opt(0.0, "seconds by which positions come later than their frames, earlier if negative")
    drop: float = opt(0.0, "part of the frames that is never sent", ge=0, le=1)
    duplicate: float = opt(0.0, "part of the frames that is sent twice", ge=0, le=1)
    shuffle: bool = opt(False, "frames and positions come out of order, each in its own way")
    samples: int = opt(1, "encoder samples a frame", ge=1, le=10_000)
    seed: int = opt(0, "seed of what is dropped, doubled and shuffled", ge=0)


@dataclass(frozen=True)
class Stream:
    """What is sent when: events (seconds, kind, number), rising, kind ``frame`` or ``position``."""

    events: tuple[tuple[float, str, int], ...]
    dropped: tuple[int, ...]

    @classmethod
    def of(cls, count: int, options: ReplayOptions) -> Stream:
        """Plan the replay of ``count`` frames.

        Examples
        --------
        >>> plan = Stream.of(100, ReplayOptions(drop=0.1, shuffle=True))
        >>> len(plan.dropped), len(plan.events)
        (10, 190)
        """
        rng = np.random.default_rng(options.seed)
        spacing = 1 / options.rate if options.rate else 1e-9
        dropped = rng.choice(count, round(options.drop * count), replace=False)
        sent = np.setdiff1d(np.arange(count), dropped)
        twice = rng.choice(sent, min(len(sent), round(options.duplicate * count)), replace=False)
        events = [
            *cls._lane("frame", np.concatenate([sent, twice]), 0.0, spacing, options.shuffle, rng),
            *cls._lane(
                "position",
                np.concatenate([np.arange(count), twice]),
                options.skew,
                spacing,
                options.shuffle,
                rng,
            ),
        ]
        begin = min(at for at, _, _ in events)
        planned = sorted((at - begin, kind, number) for at, kind, number in events)
        return cls(tuple(planned), tuple(np.sort(dropped).tolist()))

    @staticmethod
    def _lane(
        kind: str,
        numbers: NDArray[np.int64],
        late: float,
        spacing: float,
        shuffle: bool,
        rng: np.random.Generator,
    ) -> Iterator[tuple[float, str, int]]:
        at = numbers * spacing + late
        if shuffle:
            at = at + rng.uniform(0, _SHUFFLED * spacing, len(numbers))
        yield from ((float(t), kind, int(n)) for t, n in zip(at, numbers, strict=True))


@dataclass(frozen=True)
class Replayed:
    """What was sent."""

    frames: int
    positions: int
    dropped: int
    seconds: float


def addresses(kind: str, to: str | None, positions_to: str | None) -> tuple[str, str | None]:
    """Return where frames and positions go, by default to this machine; None: positions go with the frames.

    Examples
    --------
    >>> addresses("folder", None, None), addresses("simplon2", None, None)
    (('replay', None), ('tcp://127.0.0.1:9999', 'tcp://127.0.0.1:9998'))
    """
    defaults = {"pva": "pva://127.0.0.1:5076/REPLAY", "swmr": "replay.h5", "folder": "replay"}
    carried = kind in ("swmr", "folder")
    frames = to or defaults.get(kind, "tcp://127.0.0.1:9999")
    return frames, positions_to or (None if carried else "tcp://127.0.0.1:9998")


def stored_frames(scan: Scan) -> NDArray[Any]:
    """Return a scan's frames as a detector has them: whole counts where those are known, else amplitudes."""
    frames = np.asarray(scan.frames)
    if not scan.counts_known:
        return frames
    counts = np.rint(np.square(frames, dtype=np.float64))
    return counts.astype(np.uint16 if counts.max(initial=0) < 65535 else np.uint32)


def replay(
    scan: Scan,
    kind: str,
    address: str,
    options: ReplayOptions | None = None,
    *,
    positions_to: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    sent: Callable[[str, int], None] | None = None,
) -> Replayed:
    """Send a scan as a stream.

    Parameters
    ----------
    scan : Scan
    kind : str
        Name of a source.
    address : str
        Where its frames go.
    options : ReplayOptions, optional
    positions_to : str, optional
        Address of a ``panda`` source for the positions. Default: they go the frames' way, which is for ``swmr`` and
        ``folder``.
    progress : callable, optional
        Called with events done and events in all.
    sent : callable, optional
        Called with ``frame`` or ``position`` and the number of each before it goes out.

    Raises
    ------
    ConfigError
        For options out of range, and when nobody receives.
    """
    options = options or ReplayOptions()
    validate(options)
    plan = Stream.of(scan.n_frames, options)
    frames = stored_frames(scan)
    sender = SOURCES.get(kind).sender(address)
    places: Sender = sender
    if positions_to is not None:
        from ptycho_torch.live.sources.panda import PandaSender

        places = PandaSender(positions_to, options.samples)
    began = time.monotonic()
    sender.start(scan.n_frames, (scan.N, scan.N), frames.dtype)
    if places is not sender:
        places.start(scan.n_frames, (scan.N, scan.N), frames.dtype)
    count = {"frame": 0, "position": 0}
    began = time.monotonic()
    for done, (at, what, number) in enumerate(plan.events, 1):
        if options.rate:
            time.sleep(max(0.0, began + at - time.monotonic()))
        if sent is not None:
            sent(what, number)
        if what == "frame":
            sender.frame(number, frames[number])
        else:
            places.position(number, *scan.positions[number].tolist())
        count[what] += 1
        if progress is not None and done % 50 == 0:
            progress(done, len(plan.events))
    sender.end()
    if places is not sender:
        places.end()
    return Replayed(count["frame"], count["position"], len(plan.dropped), round(time.monotonic() - began, 3))
