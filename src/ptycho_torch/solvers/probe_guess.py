"""A nearer guess of the probe: the one that is given, larger or smaller, and elsewhere along the beam.

Solvers mend the shape of a probe, but neither its size nor its plane: sweeps stay where they are. Both are wrong in
practice, since they hang on distances that are known badly. What a few sweeps leave unexplained of a few frames is by
far least where both are right, so they are sought before anything else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_torch.physics.probes import magnified, propagated
from ptycho_torch.scan import Scan
from ptycho_torch.scan.tiling import innermost
from ptycho_torch.solvers.epie import refine
from ptycho_torch.solvers.options import RefineOptions
from ptycho_torch.solvers.residual import residual
from ptycho_torch.solvers.start import flat_start, problem_of

__all__ = ["Guess", "nearer_guess"]

logger = logging.getLogger(__name__)
_FRAMES: Final = 16
_SWEEPS: Final = 5
_RATIO: Final = 1.25 ** (1 / 4)
"""Finest step of the size."""
_PLANES: Final = 20
"""Finest steps of the plane in a distance of N."""
_SHARP: Final = 1.25
"""Times its R that all neighbours of a good guess have."""
_BETTER: Final = 0.7
"""Times the R of the given guess below which another one is taken."""
_HOPEFUL: Final = 0.8
"""The same for the best of a few far apart, above which nothing nearby will be so much better."""
_FEWEST: Final = 8
"""Frames below which some cannot be kept back."""
_PHOTONS: Final = 1.0
"""Per pixel of a frame, below which noise decides."""
_Step = tuple[int, int]
_FAR_APART: Final[tuple[_Step, ...]] = (
    (-8, 0), (-4, 0), (4, 0), (8, 0), (0, -16), (0, -8), (0, -4), (0, 4), (0, 8), (0, 16),
)  # fmt: skip
_FURTHEST: Final = (10, 24)
"""Steps of size and plane that are tried first, and at most."""


@dataclass(frozen=True)
class Guess:
    """A guess of the probe, and how it came from the given one.

    Attributes
    ----------
    probe : (modes, N, N) complex64 array
    size : float
        Times that it is as large as the given one.
    distance : float
        Frame sizes N by which it is further along the beam, as :func:`~ptycho_torch.physics.probes.propagated` has
        them.
    """

    probe: NDArray[np.complex64]
    size: float = 1.0
    distance: float = 0.0


def nearer_guess(scan: Scan, device: str | torch.device = "cpu") -> Guess:
    """Return the guess of a scan's probe, of the size and in the plane that explain its frames best.

    Where the frames in the middle of the scan, after some sweeps, are explained less well with all guesses nearby,
    the given one is right, and is returned as it is. So is one that no other betters clearly, on frames that were used
    and on frames that were not; and any where photons are few.

    Parameters
    ----------
    scan : Scan
        With a guess of the probe.
    device : str or torch.device

    Examples
    --------
    >>> from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
    >>> obj = make_object("lines", 96, 0)
    >>> scan = simulate_scan(obj, make_probe("zoneplate", 32), make_positions("grid", obj.shape, 32, step=6))
    >>> nearer_guess(scan).size
    1.0
    >>> smaller = magnified(scan.probe, 0.8).astype(np.complex64)
    >>> bool(abs(0.8 * nearer_guess(replace(scan, probe=smaller)).size - 1) < 0.1)
    True
    """
    assert scan.probe is not None
    given = np.asarray(scan.probe, np.complex64)
    if scan.photons_per_pixel < _PHOTONS or scan.n_frames < _FEWEST:
        return Guess(given)
    trial = _Trial.of(scan, given, device)
    if not trial.lit:
        return Guess(given)
    start = trial.used((0, 0))
    if min(map(trial.used, _around((0, 0), 2))) > _SHARP * start:
        return Guess(given)
    best = min(_FAR_APART, key=trial.used)
    if trial.used(best) >= _HOPEFUL * start:
        return Guess(given)
    best = _descended(trial.used, best)
    # A wave that spreads far explains any frame that it need not share with others, so those have a say that no
    # sweep has seen.
    if trial.used(best) >= _BETTER * start or trial.withheld(best) >= _BETTER * trial.withheld((0, 0)):
        return Guess(given)
    size, distance = _RATIO ** best[0], best[1] / _PLANES
    logger.info(
        "probe: one of %.2f times its size, %+.2f frame sizes along the beam, explains the frames better than the"
        " guess (R after %d sweeps of some frames %.3g, not %.3g)",
        size, distance, _SWEEPS, trial.used(best), start,
    )  # fmt: skip
    return Guess(_changed(given, best), size, distance)


class _Trial:
    """What guesses leave unexplained of a few frames, each computed once.

    Parameters
    ----------
    part : Scan
        Frames in memory.
    hidden : (M,) bool array
        Those of them that sweeps do not see.
    given : (modes, N, N) complex64 array
    device : str or torch.device
    """

    def __init__(
        self, part: Scan, hidden: NDArray[np.bool_], given: NDArray[np.complex64], device: str | torch.device
    ) -> None:
        self._part, self._hidden, self._given, self._device = part, hidden, given, device
        self._seen = part.select(~hidden)
        self._options = RefineOptions(sweeps=_SWEEPS, step=1.0).resolved(flat=True)
        self._found: dict[_Step, tuple[float, float]] = {}

    @classmethod
    def of(cls, scan: Scan, given: NDArray[np.complex64], device: str | torch.device) -> _Trial:
        part = scan.select(innermost(scan.positions, _FRAMES))
        inner = innermost(part.positions, part.n_frames // 2)
        hidden = np.zeros(part.n_frames, bool)
        hidden[inner[::2]] = True
        return cls(replace(part, frames=part.frames[:]), hidden, given, device)

    @property
    def lit(self) -> bool:
        """Whether there is anything in both kinds of frames."""
        return all(
            np.any(self._part.frames[np.flatnonzero(which)]) for which in (self._hidden, ~self._hidden)
        )

    def used(self, step: _Step) -> float:
        """Return R of the frames that sweeps see, in the last one; infinity where they diverge."""
        return self._both(step)[0]

    def withheld(self, step: _Step) -> float:
        """Return R of the others."""
        return self._both(step)[1]

    def _both(self, step: _Step) -> tuple[float, float]:
        if step not in self._found:
            these = replace(self._seen, probe=_changed(self._given, step))
            problem = problem_of(these, flat_start(these), device=self._device)
            done = refine(
                problem.frames,
                these.positions,
                problem.probe,
                self._options,
                start=problem.object,
                device=self._device,
            )
            rec = problem.result(done.object, done.probe, self._part.positions)
            of = done.residuals[-1], residual(rec, self._part, self._hidden, device=self._device)
            self._found[step] = of if np.isfinite(of).all() else (np.inf, np.inf)
        return self._found[step]


def _descended(unexplained: Callable[[_Step], float], best: _Step) -> _Step:
    """The best of the neighbours again and again, at ever smaller steps."""
    for width in (4, 2, 1):
        while (near := min(_around(best, width), key=unexplained)) and unexplained(near) < unexplained(best):
            best = near
    return best


def _around(step: _Step, width: int) -> Iterable[_Step]:
    """Neighbours within reach: other sizes, and other planes."""
    for size, plane in ((width, 0), (-width, 0), (0, width), (0, -width)):
        found = step[0] + size, step[1] + plane
        if abs(found[0]) <= _FURTHEST[0] and abs(found[1]) <= _FURTHEST[1]:
            yield found


def _changed(probe: NDArray[np.complex64], step: _Step) -> NDArray[np.complex64]:
    waves = probe if not step[0] else magnified(probe, _RATIO ** step[0])
    if step[1]:
        waves = propagated(waves, step[1] / _PLANES * probe.shape[-1])
    return waves.astype(np.complex64)
