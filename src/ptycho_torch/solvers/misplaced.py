"""Frames that stay where they do not belong: found by their misfit, and searched for all around.

A position follows the gradient only as far as the object's features reach. A frame further off settles in a wrong
place, and spoils the object there for its neighbours as well. Such frames explain themselves worse than most. They
are left out for some sweeps, so that the object is what the others say, and are then tried at every place of a grid.

References
----------
.. [1] A. M. Maiden, M. J. Humphry, M. C. Sarahan, B. Kraus and J. M. Rodenburg, Ultramicroscopy 120, 64 (2012),
   for positions found by trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Misplaced"]

_WORSE: Final = 1.5
"""Misfit over the median of all frames above which a frame may be in a wrong place."""
_BETTER: Final = 0.8
"""Part of its misfit that a frame may have at most in a new place: noise alone must not move it."""
_MOST: Final = 0.5
"""Part of the frames that are left out at most, so that there is an object to search on."""
_GRID: Final = 2.0
"""Pixels between places that are tried; from the best of them on the gradient leads."""
_FIRST, _EVERY, _OUT = 8, 6, 3
"""Sweeps of moving positions before the first search, between searches, and for which frames are left out."""

Misfits = Callable[[NDArray[np.int64], NDArray[np.float64]], NDArray[np.float64]]
"""Of frames (K,) at places (K, 2): their squared misfit over their power, (K,)."""


class Misplaced:
    """Which frames a sweep leaves out, and where they are put then.

    Parameters
    ----------
    misfits : callable
    begin : (M, 2) float64 array
        Where positions began.
    reach : float
        Pixels along each axis up to which places are tried.
    first, last : int
        Sweeps between which positions look for their place.

    Examples
    --------
    >>> there = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    >>> begin = np.zeros((3, 2))
    >>> found = Misplaced(lambda k, at: ((at - there[k]) ** 2).sum(1) + 1, begin, 8, 0, 40)
    >>> frames = found.suspects(begin)
    >>> frames.tolist(), found.searched(frames, begin).tolist()
    ([1], [[2.0, 4.0]])
    """

    def __init__(
        self, misfits: Misfits, begin: NDArray[np.float64], reach: float, first: int, last: int
    ) -> None:
        self._misfits, self._begin, self._reach = misfits, begin, reach
        self._times = range(first + _FIRST, last - _OUT, _EVERY)
        self._out = np.zeros(0, np.int64)

    def before(self, sweep: int, places: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Look at frames where it is time, and put those back that were left out for long enough.

        Parameters
        ----------
        sweep : int
        places : (M, 2) float64 array
            Changed in place.

        Returns
        -------
        left_out : (K,) int64 array
            Frames that this sweep is not to use.
        moved : (L,) int64 array
            Frames that have just been put elsewhere.
        """
        moved = self._out[:0]
        if sweep - _OUT in self._times and len(self._out):
            new = self.searched(self._out, places)
            moved = self._out[(new != places[self._out]).any(1)]
            places[self._out] = new
        if sweep - _OUT in self._times:
            self._out = self._out[:0]
        if sweep in self._times:
            self._out = self.suspects(places)
        return self._out, moved

    def suspects(self, places: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the frames, ascending, that are explained much worse than most, the worst half at most."""
        misfit = self._misfits(np.arange(len(places)), places)
        worst = np.argsort(-misfit)[: int(_MOST * len(places))]
        return np.sort(worst[misfit[worst] > _WORSE * np.median(misfit)])

    def searched(self, frames: NDArray[np.int64], places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the places of some frames, (K, 2): where they are, or where they fit better by far."""
        found = places[frames].copy()
        least = _BETTER * self._misfits(frames, found)
        steps = np.arange(-self._reach, self._reach + 1e-6, _GRID)
        for move in np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2):
            there = self._begin[frames] + move
            misfit = self._misfits(frames, there)
            better = misfit < least
            least[better], found[better] = misfit[better], there[better]
        return found
