"""A live session: sources in their threads, solving in this one, everything there is to say in one place."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from ptycho_torch.errors import PtychoError, one_line
from ptycho_torch.live.growing import Growing
from ptycho_torch.live.intake import Intake
from ptycho_torch.live.sources.base import Source

__all__ = ["Ending", "Session"]

logger = logging.getLogger(__name__)
_IDLE: Final = 0.01
_AGAIN: Final = 1.0
_RATE: Final = 2.0
"""Seconds over which rates are averaged."""


@dataclass(frozen=True)
class Ending:
    """When a scan is over.

    Attributes
    ----------
    frames : int, optional
        That many frames were received and found their positions.
    patience : float
        Seconds without anything new after the sender said that it was all, while halves still wait.
    silence : float
        Seconds without anything new, whatever the sender said; 0: wait for ever.
    """

    frames: int | None = None
    patience: float = 10.0
    silence: float = 30.0


@dataclass
class Session:
    """Runs sources and solver until the scan is over.

    Attributes
    ----------
    intake : Intake
    growing : Growing
    sources : list of Source
    ending : Ending
    solving : threading.Event
        Set while regions are solved; cleared, frames are only received.
    finish : threading.Event
        Set: take the scan for complete, now.
    stage : str
        ``waiting``, ``live``, ``last pass`` or ``done``.
    """

    intake: Intake
    growing: Growing
    sources: list[Source]
    ending: Ending = field(default_factory=Ending)

    def __post_init__(self) -> None:
        self.solving, self.finish, self._stop = threading.Event(), threading.Event(), threading.Event()
        self.solving.set()
        self.stage = "waiting"
        self.result: dict[str, Any] | None = None
        self.began = time.monotonic()
        self._stopped = False
        self._threads: list[threading.Thread] = []
        self._failed: PtychoError | None = None
        self._rates: dict[str, float] = {}
        self._counted = (self.began, 0, 0)

    def run(self) -> None:
        """Receive and solve until the scan is over; then what waits for its other half is refused.

        Raises
        ------
        PtychoError
            When a source cannot be read at all.
        """
        for number, source in enumerate(self.sources):
            name = f"source {number + 1} ({'+'.join(source.gives)})"
            thread = threading.Thread(target=self._read, args=(source,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        try:
            while not (self._stopped or self._over()):
                if self._failed is not None:
                    raise self._failed
                if self.intake.pairing.frames.received:
                    self.stage = "live"
                if not (self.solving.is_set() and self.growing.step()):
                    time.sleep(_IDLE)
                self._count()
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(5.0)
        if self._stopped:
            return
        self._drain()
        self.growing.settle()
        self.intake.close()
        self.stage = "last pass"

    def stop(self) -> None:
        """End :meth:`run` soon, wherever it is."""
        self._stopped = True

    def facts(self) -> dict[str, Any]:
        """Return everything there is to say as plain values."""
        growing = self.growing
        late = np.array(growing.latencies)
        found = np.quantile(late, [0.5, 0.99]).tolist() if len(late) else [None, None]
        return {
            **self.intake.facts(),
            "stage": self.stage,
            "seconds": round(time.monotonic() - self.began, 1),
            "used": growing.used,
            "backlog": growing.backlog,
            "solving": self.solving.is_set(),
            "rates": dict(self._rates),
            "latency": {"median": found[0], "p99": found[1]},
            "residual": growing.residual,
            "orientation": growing.orientation.name,
            "steps": dict(growing.steps),
            "version": growing.canvas.version,
            "said": [[at, text] for at, text in list(self.intake.said)[-30:]],
            "result": self.result,
        }

    def _read(self, source: Source) -> None:
        """Keep a source read: what fails in it is said, and it is begun anew."""
        try:
            self._read_on(source)
        finally:
            self.intake.left()

    def _read_on(self, source: Source) -> None:
        while not self._stop.is_set():
            try:
                return source.read(self.intake, self._stop)
            except PtychoError as error:
                self._failed = error
                return None
            except Exception as error:  # a connection, a file: whatever fails there may come back
                self.intake.say(
                    f"source failed, trying again: {type(error).__name__}: {one_line(error, 200)}"
                )
                logger.debug("source failed", exc_info=True)
                self._stop.wait(_AGAIN)
                self.intake.waited(_AGAIN)
        return None

    def _over(self) -> bool:
        intake, ending = self.intake, self.ending
        if self.finish.is_set():
            return True
        frames = intake.pairing.frames
        if ending.frames is not None and frames.paired >= ending.frames:
            return True
        quiet = intake.quiet
        if quiet is None:
            return False
        if ending.silence and quiet >= ending.silence:
            intake.say(f"nothing came for {ending.silence:g} s: the scan is taken for complete")
            return True
        alone = {"position" for source in self.sources if source.gives == ("position",)}
        if {"frame"} | alone <= intake.ended and frames.waiting == 0:
            return True
        return "frame" in intake.ended and quiet >= ending.patience

    def _drain(self) -> None:
        """Let what is paired reach the canvas, if that is soon done."""
        until = time.monotonic() + 10.0
        while self.solving.is_set() and self.growing.backlog and time.monotonic() < until:
            if not self.growing.step():
                break

    def _count(self) -> None:
        now, (then, received, used) = time.monotonic(), self._counted
        if now - then < _RATE:
            return
        frames = self.intake.pairing.frames.received
        self._rates = {
            "received": round((frames - received) / (now - then), 1),
            "used": round((self.growing.used - used) / (now - then), 1),
        }
        self._counted = now, frames, self.growing.used
