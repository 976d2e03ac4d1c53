"""The object while it grows: a canvas that is enlarged as positions come, and stitched region by region.

A region's new object o, seen in the light w, takes the place of what was there, q being the light in which that was
seen:

    a = w^2 / (w^2 + g q^2),        O <- (1 - a) O + a z o,        q <- (1 - a) q + a w,        |z| = 1

so that what was solved with more frames counts more, and what is new counts more than what is old.
"""

from __future__ import annotations

import threading
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["GrowingCanvas"]

_OLD: Final = 0.25
"""g: how much what is there counts against what is new."""
_MARGIN: Final = 1.5
"""A canvas that is too small grows to this multiple of what is needed."""


class GrowingCanvas:
    """Object and light on whole pixels, the origin anywhere.

    Attributes
    ----------
    version : int
        Rises with every change.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.version = 0
        self._object = np.zeros((0, 0), np.complex64)
        self._light = np.zeros((0, 0), np.float32)
        self._sigma: NDArray[np.float32] | None = None
        self._origin = np.zeros(2, np.int64)
        self._low = self._high = np.zeros(2, np.int64)  # (x, y) of what was ever lit

    def clear(self) -> None:
        """Forget the object, not its size."""
        with self.lock:
            self._sigma = None
            self._object[:] = 0
            self._light[:] = 0
            self.version += 1

    def stitch(
        self, obj: NDArray[np.complex64], light: NDArray[np.float32], origin_xy: NDArray[np.float64]
    ) -> None:
        """Put a region (H, W) whose pixel [0, 0] lies at ``origin_xy`` in its place."""
        low = np.rint(origin_xy).astype(np.int64)
        high = low + np.array(obj.shape[::-1])
        with self.lock:
            self._sigma = None  # those of another object
            self._cover(low, high)
            window = self._window(low, high)
            there, seen = self._object[window], self._light[window]
            overlap = np.vdot(obj * light, there * seen)
            turn = np.complex64(overlap / abs(overlap)) if abs(overlap) > 0 else np.complex64(1)
            new = np.square(light)
            part = new / np.maximum(new + _OLD * np.square(seen), 1e-30)
            there += part * (obj * turn - there)
            seen += part * (light - seen)
            self.version += 1

    def replace(
        self,
        obj: NDArray[np.complex64],
        light: NDArray[np.float32],
        origin_xy: NDArray[np.float64],
        sigma: NDArray[np.float32] | None = None,
    ) -> None:
        """Take another object and light (H, W), pixel [0, 0] at ``origin_xy``, in place of all there is.

        ``sigma`` (2, H, W): error bars of amplitude and phase.
        """
        with self.lock:
            self._object, self._light, self._sigma = obj.copy(), light.copy(), sigma
            self._origin = self._low = np.rint(origin_xy).astype(np.int64)
            self._high = self._low + np.array(obj.shape[::-1])
            self.version += 1

    def crop(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.complex64]:
        """Return a copy of the object between two corners (x, y); 0 where nothing is."""
        with self.lock:
            made = np.zeros((high - low)[::-1], np.complex64)
            inner_low = np.maximum(low, self._origin)
            inner_high = np.minimum(high, self._origin + np.array(self._object.shape[::-1]))
            if (inner_high > inner_low).all():
                (x0, y0), (x1, y1) = inner_low - low, inner_high - low
                made[y0:y1, x0:x1] = self._object[self._window(inner_low, inner_high)]
            return made

    def snapshot(self) -> tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.int64], int]:
        """Return copies of object and light where it was ever lit, the origin (x, y), and the version."""
        with self.lock:
            window = self._window(self._low, self._high)
            return self._object[window].copy(), self._light[window].copy(), self._low.copy(), self.version

    def error_bars(self, version: int) -> NDArray[np.float32] | None:
        """Return error bars (2, H, W) of a snapshot's amplitude and phase, None where there are none."""
        with self.lock:
            return self._sigma if version == self.version else None

    def _window(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> tuple[slice, slice]:
        (x0, y0), (x1, y1) = (low - self._origin).tolist(), (high - self._origin).tolist()
        return slice(y0, y1), slice(x0, x1)

    def _cover(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> None:
        """Enlarge the canvas until it holds a window."""
        shape = np.array(self._object.shape[::-1])
        if not shape.any():
            self._low, self._high = low.copy(), high.copy()
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        if shape.any() and (low >= self._origin).all() and (high <= self._origin + shape).all():
            return
        size = self._high - self._low
        margin = (size * (_MARGIN - 1) / 2).astype(np.int64) + 1
        origin, whole = self._low - margin, size + 2 * margin
        obj, light = np.zeros(whole[::-1], np.complex64), np.zeros(whole[::-1], np.float32)
        # Only what was lit is carried over: margins may fall off.
        if shape.any():
            lit_low = np.maximum(self._origin, origin)
            lit_high = np.minimum(self._origin + shape, origin + whole)
            (x0, y0), (x1, y1) = (lit_low - origin).tolist(), (lit_high - origin).tolist()
            old = self._window(lit_low, lit_high)
            obj[y0:y1, x0:x1], light[y0:y1, x0:x1] = self._object[old], self._light[old]
        self._object, self._light, self._origin = obj, light, origin
