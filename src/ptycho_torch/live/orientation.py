"""How a detector's frames lie: eight ways to turn and mirror a square, found by which one explains them.

Turning frames and swapping the axes of positions the same way give the same diffraction, so that one of eight also
stands for swapped or reversed axes of positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ConfigError, brief

__all__ = ["ORIENTATIONS", "Orientation"]


@dataclass(frozen=True)
class Orientation:
    """What is done to frames: axes swapped first, then rows and columns reversed.

    Examples
    --------
    >>> Orientation.named("mirror-x").turn(np.array([[[1, 2, 3], [4, 5, 6]]])).tolist()
    [[[3, 2, 1], [6, 5, 4]]]
    """

    name: str
    swap: bool = False
    rows: bool = False
    columns: bool = False

    @classmethod
    def named(cls, name: str) -> Orientation:
        """Return one by name; raises :class:`ConfigError` for others."""
        for each in ORIENTATIONS:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in ORIENTATIONS)
        raise ConfigError(f"orientation: expected auto, {known}, found {brief(name)}")

    def shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of frames of a shape once they are turned."""
        return (shape[1], shape[0]) if self.swap else shape

    def turn(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Return frames (..., H, W) turned, with their middle pixel [H//2, W//2] where it was.

        Edges of even length have no pixel in their middle: what is reversed is rolled by one.
        """
        if self.swap:
            frames = frames.swapaxes(-1, -2)
        for axis, asked in ((-2, self.rows), (-1, self.columns)):
            if asked:
                frames = np.flip(frames, axis)
                if frames.shape[axis] % 2 == 0:
                    frames = np.roll(frames, 1, axis)
        return frames

    def undo(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Return what :meth:`turn` turns into ``frames``."""
        for axis, asked in ((-2, self.rows), (-1, self.columns)):
            if asked:
                frames = np.flip(frames, axis)
                if frames.shape[axis] % 2 == 0:
                    frames = np.roll(frames, 1, axis)
        return frames.swapaxes(-1, -2) if self.swap else frames


ORIENTATIONS: Final = (
    Orientation("as-is"),
    Orientation("mirror-x", columns=True),
    Orientation("mirror-y", rows=True),
    Orientation("turn-180", rows=True, columns=True),
    Orientation("swap", swap=True),
    Orientation("swap-mirror-x", swap=True, columns=True),
    Orientation("swap-mirror-y", swap=True, rows=True),
    Orientation("swap-turn-180", swap=True, rows=True, columns=True),
)
"""All eight. ``swap`` exchanges rows and columns; ``mirror-x`` reverses columns, ``mirror-y`` rows."""
