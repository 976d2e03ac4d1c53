"""Ending on request: Ctrl-C, SIGTERM from a scheduler, SIGHUP from a terminal that closes.

Before there is anything to keep, a signal ends the work at once. From the first training step on, the first
signal is a request: the step is finished, everything is written, and the caller learns the signal's number.
A second one ends at once. Imports no torch.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from ptycho_torch.errors import Interrupted

__all__ = ["Stopping"]

logger = logging.getLogger(__name__)
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class _AtOnce(BaseException):
    """Raised where the signal arrives; no KeyboardInterrupt, which Lightning would answer with ``exit(1)``."""


class Stopping:
    """Listens to signals while entered; may be entered again inside itself.

    Attributes
    ----------
    number : int or None
        The first signal that came.

    Examples
    --------
    >>> import os
    >>> with Stopping() as stopping:
    ...     stopping.defer(lambda: None)
    ...     os.kill(os.getpid(), signal.SIGTERM)
    >>> stopping.number == signal.SIGTERM
    True
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._depth = 0
        self._then: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if not self._depth:
            self.number = None
        self._depth += 1
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals, again if another has taken them since; not those that the process ignores."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            found = signal.getsignal(number)
            if found in (signal.SIG_IGN, self._heard) or found is None:  # nohup stays nohup
                continue
            self._before.setdefault(number, found)
            signal.signal(number, self._heard)

    def defer(self, then: Callable[[], None]) -> None:
        """From now on the first signal is noted, ``then`` is called, and the work goes on to its end."""
        self._then = then

    def _heard(self, number: int, frame: FrameType | None) -> None:
        first, self.number = self.number is None, self.number or number
        if not first or self._then is None:
            raise _AtOnce
        logger.warning("%s: ending after this step and writing everything", signal.Signals(number).name)
        self._then()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        self._then = None
        if isinstance(error, _AtOnce):
            assert self.number is not None
            raise Interrupted(self.number) from None
