"""Mini-batch ePIE: object, probe and positions against all frames, sweep by sweep.

For a mini-batch b of frames, in windows at whole pixels with the fraction of a position in its probe:

    psi_j = P_j crop_j(O),      P_j(r) = P(r - f_j)
    Delta_j = F^-1( A_j F psi_j / |F psi_j| ) - psi_j
    O <- O + beta_o sum_j T_j( P_j* Delta_j ) / ( sum_j T_j |P_j|^2 + alpha max|P|^2 )
    P <- P + beta_p sum_j S_-f_j( o_j* Delta_j ) / ( sum_j |o_j|^2 + alpha max sum_j |o_j|^2 )
    r_j <- r_j + 2 argmin_d || Delta_j - P_j (d . grad) o_j ||^2

Between sweeps k and k + 1 object, probe and positions go on in the direction of the last sweep (Nesterov's
extrapolation, with a restart where the residual rose). What converges slowly, the low frequencies of large objects,
converges sooner.

    x <- x_k + m_k (x_k - x_{k-1}),      m_k = min( n / (n + 3), m ),      n sweeps since the last restart

T_j puts a patch at its place, the adjoint of crop_j; S_-f shifts back by a fraction, the adjoint of the
shift in P_j. The second denominator only scales a step and takes o_j at its whole pixels.

Where positions move, steps fall in the last third of the sweeps only: an object that has settled holds its frames
where they are. Frames that the gradient does not bring home are searched for, see :mod:`.misplaced`.

References
----------
.. [1] A. M. Maiden and J. M. Rodenburg, Ultramicroscopy 109, 1256 (2009), for the updates.
.. [2] A. Maiden, D. Johnson and P. Li, Optica 4, 736 (2017), for the regularised denominators.
.. [3] M. Odstrcil, A. Menzel and M. Guizar-Sicairos, Opt. Express 26, 3108 (2018), for positions by the
   object's gradient.
.. [4] Y. Nesterov, Soviet Mathematics Doklady 27, 372 (1983); B. O'Donoghue and E. Candes, Foundations of
   Computational Mathematics 15, 715 (2015), for the extrapolation and its restart.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.config import validate
from ptycho_torch.files.memory import need_memory
from ptycho_torch.physics.gauges import keep_mean, orthogonal_modes
from ptycho_torch.physics.projection import intensity, project
from ptycho_torch.physics.regions import place, shift_ramps
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.solvers import SOLVERS
from ptycho_torch.solvers.base import Progress, Solver
from ptycho_torch.solvers.measured import Measured
from ptycho_torch.solvers.misplaced import Misplaced
from ptycho_torch.solvers.options import RefineOptions, SolverOptions
from ptycho_torch.solvers.start import flat_start, problem_of
from ptycho_torch.solvers.windows import Windows

__all__ = ["REACH", "Epie", "Iteration", "Refined", "refine"]

logger = logging.getLogger(__name__)
REACH: Final = 8
"""Pixels that the canvas extends further where positions are refined; they never move more."""
_LARGEST_MOVE: Final = 0.5
"""Pixels by which one frame moves its position at once, before the step."""
_POSITION_STEP: Final = 2.0
"""Step of positions: half of what a frame asks for, its neighbours' share in the object holds back."""
_CHUNK: Final = 16
"""Frames whose misfit is measured together."""


@SOLVERS.register("epie")
class Epie(Solver):
    """The package's own iterative solver; ``info`` of its result says why it ended and how far positions moved."""

    Options = RefineOptions

    def solve(
        self,
        scan: Scan,
        start: Reconstruction | None = None,
        options: SolverOptions | None = None,
        progress: Progress | None = None,
    ) -> Reconstruction:
        options = self._checked(options, RefineOptions)
        begin = flat_start(scan) if start is None else start
        reach = REACH if options.update_positions else 0
        problem = problem_of(scan, begin, reach, self.device)
        began = time.monotonic()
        done = refine(
            problem.frames,
            begin.positions,
            problem.probe,
            options.resolved(flat=start is None),
            start=problem.object,
            device=self.device,
            progress=progress,
        )
        logger.info(
            "refined %d frames: R %.4g after %d sweeps (%s)",
            scan.n_frames, done.residuals[-1], len(done.residuals), done.stopped,
        )  # fmt: skip
        info = {**begin.info, "stopped": done.stopped}
        if options.update_positions:
            moved = done.positions - begin.positions
            info["moved_rms_px"] = float(np.sqrt(np.mean(np.sum(moved**2, axis=1))))
        return problem.result(
            done.object,
            done.probe,
            done.positions,
            info=info,
            solver="epie",
            residual=done.residuals[-1],
            residual_withheld=None,
            residuals=tuple(done.residuals),
            sweeps=len(done.residuals),
            seconds=round(time.monotonic() - began, 3),
        )


@dataclass(frozen=True)
class Refined:
    """Result of :func:`refine`.

    Attributes
    ----------
    object : (H, W) complex64 array
        Pixel [0, 0] lies at ``origin_xy``.
    probe : (modes, N, N) complex64 array
        Orthogonal modes, by falling power.
    origin_xy : (2,) float64 array
    positions : (M, 2) float64 array
        As used last.
    residuals : list of float
        ``R = sum (|F psi| - A)^2 / sum A^2`` of each sweep, measured while it ran.
    stopped : str
        Why it ended.
    """

    object: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    origin_xy: NDArray[np.float64]
    positions: NDArray[np.float64]
    residuals: list[float] = field(default_factory=list)
    stopped: str = ""


@torch.inference_mode()
def refine(
    frames: Any,
    positions: NDArray[Any],
    probe: NDArray[Any],
    options: RefineOptions | None = None,
    *,
    start: NDArray[Any] | None = None,
    good_pixels: NDArray[np.bool_] | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Refined:
    """Refine object and, if asked, probe and positions until the residual stops falling.

    Parameters
    ----------
    frames : (M, N, N) array-like or Measured
        Amplitudes in the unit of the probe's power.
    positions : (M, 2) array
        (x, y) in pixels.
    probe : (modes, N, N) complex array
    options : RefineOptions, optional
    start : (H, W) complex array, optional
        Object on the canvas that :func:`~ptycho_torch.physics.regions.place` makes of these positions,
        with a margin of :data:`REACH` where positions are refined. Default: all ones.
    good_pixels : (N, N) bool array, optional
        Detector pixels that can be trusted.
    device : str or torch.device
    progress : callable, optional
        Called with sweep and residual.

    Returns
    -------
    Refined
        The object's gauge is the probe's. Refined positions keep their mean, since object and positions
        may shift together, and stay within 8 px of where they began.

    Raises
    ------
    ConfigError
        For options out of range.
    DataError
        When the canvas would not fit into memory.
    """
    options = options or RefineOptions()
    validate(options)
    options = options.resolved(flat=start is None)
    device = torch.device(device)
    if not isinstance(frames, Measured):
        frames = Measured(frames, 1.0, good_pixels, device)
    state = Iteration(
        frames, positions, orthogonal_modes(np.array(probe, np.complex64)), start, options, device
    )
    rng = np.random.default_rng(options.seed)
    began, residuals, stopped = time.monotonic(), [], "sweeps used up"
    for sweep in range(options.sweeps):
        residuals.append(state.sweep(rng.permutation(len(positions)), sweep))
        if progress is not None:
            progress(sweep + 1, residuals[-1])
        if options.minutes is not None and time.monotonic() - began > 60 * options.minutes:
            stopped = "time used up"
            break
        if sweep < max(10, options.settles_from + 6 if options.update_positions else 0):
            continue  # a residual may stand still while positions are on their way
        if residuals[-6] - min(residuals[-5:]) < options.tolerance * residuals[-6]:
            stopped = "residual stopped falling"
            break
    return state.result(residuals, stopped)


class Frames(Protocol):
    """What is asked of frames; see :class:`~ptycho_torch.solvers.measured.Measured`."""

    good: Tensor | None

    def batch(self, index: NDArray[np.int64]) -> Tensor:
        """Return frames (B, 1, N, N), zero frequency at [0, 0]; ``index`` in rising order."""


class Iteration:
    """Object, probe and positions between sweeps, and the plane of denominators, zero between batches."""

    def __init__(
        self,
        frames: Frames,
        positions: NDArray[Any],
        probe: NDArray[Any],
        start: NDArray[Any] | None,
        options: RefineOptions,
        device: torch.device,
    ) -> None:
        self.frames, self.options, self.device = frames, options, device
        self.size = int(probe.shape[-1])
        placed = place(positions, self.size, REACH if options.update_positions else 0)
        shape = placed.shape
        # Object, denominators, and the copy that the caller gets.
        need_memory(
            20 * shape[0] * shape[1],
            f"positions: a canvas of {shape[0]} x {shape[1]} pixels",
            "check that positions are in pixels",
        )
        self.origin = placed.origin_xy
        self.begin = np.asarray(positions, dtype=np.float64) - self.origin
        self.places = self.begin.copy()
        self.canvas = torch.ones(shape, dtype=torch.complex64, device=device)
        if start is not None:
            self.canvas = torch.from_numpy(np.array(start, dtype=np.complex64)).to(device)
        self.light = torch.zeros(shape, device=device)
        self.probe = torch.from_numpy(np.array(probe, dtype=np.complex64)).to(device)
        self.reached = self._reachable()
        self.last = self.canvas.view(-1)[self.reached], self.probe
        self.last_places = self.places.copy()
        self.run, self.residual = 0, float("inf")
        self.misplaced: Misplaced | None = None
        if options.update_positions:
            between = options.positions_after or 0, options.settles_from
            self.misplaced = Misplaced(self.misfits, self.begin, REACH, *between)

    def sweep(self, order: NDArray[np.int64], number: int) -> float:
        """Use frames once, in batches of the order given; return R as it was met.

        All frames, but for those that are looked for elsewhere.
        """
        if self.misplaced is not None:
            left_out, moved = self.misplaced.before(number, self.places)
            self.last_places[moved] = self.places[moved]
            order = order[~np.isin(order, left_out)]
        error, total = self.use(order, number)
        if self.moves_positions(number):
            self.places = self.begin + keep_mean(self.places - self.begin, REACH)
        residual = float(error / total)
        self._go_on(residual)
        return residual

    def misfits(self, index: NDArray[np.int64], places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the squared misfit of frames (K,) over their power, were they at places (K, 2); K values."""
        found = []
        for first in range(0, len(index), _CHUNK):
            part = slice(first, first + _CHUNK)
            windows, ramps = self._where(places[part])
            probes, _ = self._probes(ramps)
            measured = self.frames.batch(index[part])
            _, misfit = project(windows.crop(self.canvas).unsqueeze(1) * probes, measured, self.frames.good)
            found.append(misfit.square().sum((1, 2, 3)) / measured.square().sum((1, 2, 3)).clamp_min(1e-30))
        return torch.cat(found).double().cpu().numpy()

    def moves_positions(self, number: int) -> bool:
        """Whether positions are moved in a sweep."""
        return self.options.update_positions and number >= (self.options.positions_after or 0)

    def use(self, order: NDArray[np.int64], number: int) -> tuple[Tensor, Tensor]:
        """Use some frames in sweep ``number``, in batches of the order given; return both sums of R."""
        options = self.options
        smaller = options.share_of_step(number)
        error, total = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        moves_probe = options.update_probe and number >= (options.probe_after or 0)
        moves_positions = self.moves_positions(number)
        self.peak = intensity(self.probe).max()
        for part in np.array_split(order, max(1, len(order) // options.batch_size)):
            part = np.sort(part)
            windows, ramps = self._where(self.places[part])
            probes, light = self._probes(ramps)
            measured = self.frames.batch(part)
            here = windows.crop(self.canvas).unsqueeze(1)
            change, misfit = project(here * probes, measured, self.frames.good)
            error += misfit.square().sum()
            total += measured.square().sum()
            self._move_object(windows, probes, light, change, smaller)
            if moves_positions:
                self.places[part] += _POSITION_STEP * _moves(here, probes, change).double().cpu().numpy()
            if moves_probe:
                self._move_probe(here, change, ramps, smaller)
        return error, total

    def _reachable(self) -> Tensor:
        """Pixels of the canvas that frames can light: without them, nothing between sweeps needs the others."""
        reach = REACH if self.options.update_positions else 0
        lit = torch.zeros(self.canvas.shape, dtype=torch.bool, device=self.device)
        size = self.size + 2 * reach
        for row, column in np.floor(self.begin + 0.5).astype(np.int64)[:, ::-1] - size // 2:
            lit[row : row + size, column : column + size] = True
        return lit.view(-1).nonzero().squeeze(1)

    def _go_on(self, residual: float) -> None:
        """Move object, probe and positions on along the way of the sweep that ended with ``residual``."""
        self.run = 1 if residual > self.residual else self.run + 1
        self.residual = residual
        momentum = min(self.run / (self.run + 3), self.options.momentum)
        flat, (obj, probe) = self.canvas.view(-1), self.last
        self.last = flat[self.reached], self.probe
        flat[self.reached] = torch.lerp(obj, self.last[0], 1 + momentum)
        self.probe = torch.lerp(probe, self.probe, 1 + momentum)
        if self.misplaced is not None:
            before, self.last_places = self.last_places, self.places
            ahead = self.places + momentum * (self.places - before)
            self.places = self.begin + keep_mean(ahead - self.begin, REACH)

    def result(self, residuals: list[float], stopped: str) -> Refined:
        """What the last sweep came to, without going on from it."""
        self.canvas.view(-1)[self.reached] = self.last[0]
        canvas, probe = self.canvas.cpu().numpy(), orthogonal_modes(self.last[1].cpu().numpy())
        return Refined(canvas, probe, self.origin, self.last_places + self.origin, residuals, stopped)

    def _where(self, places: NDArray[np.float64]) -> tuple[Windows, Tensor | None]:
        """Windows of frames, and what shifts a spectrum by their fractions, None where all are 0."""
        whole = np.floor(places + 0.5)
        fractions = (places - whole).astype(np.float32)
        corners = (whole - self.size // 2).astype(np.int64)[:, ::-1].copy()
        windows = Windows(corners, self.size, self.canvas.shape[1], self.device)
        if not fractions.any():
            return windows, None
        return windows, shift_ramps(torch.from_numpy(fractions).to(self.device), self.size).unsqueeze(1)

    def _probes(self, ramps: Tensor | None) -> tuple[Tensor, Tensor]:
        """The probe as frames see it, (B or 1, modes, N, N), and its summed power, (B or 1, N, N)."""
        if ramps is None:
            return self.probe[None], intensity(self.probe[None])
        probes = torch.fft.ifft2(torch.fft.fft2(self.probe) * ramps)
        return probes, intensity(probes)

    def _move_object(
        self, windows: Windows, probes: Tensor, light: Tensor, change: Tensor, smaller: float
    ) -> None:
        step = float(self.options.step or 1) * smaller
        windows.add(self.light, light.expand(len(change), -1, -1))
        below = windows.crop(self.light).add_(self.options.damping * self.peak)
        windows.clear(self.light)
        pull = probes.conj() * change
        windows.add(self.canvas, (pull[:, 0] if len(self.probe) == 1 else pull.sum(1)) * (step / below))

    def _move_probe(self, here: Tensor, change: Tensor, ramps: Tensor | None, smaller: float) -> None:
        pull = here.conj() * change
        if ramps is not None:  # summed as spectra, so that only one goes back
            pull = torch.fft.ifft2((torch.fft.fft2(pull) * ramps.conj()).sum(0, keepdim=True))
        pull = pull.sum(0)
        bright = torch.view_as_real(here).square().sum(0).sum(-1)
        step = float(self.options.probe_step or 1) * smaller
        self.probe = self.probe + pull * (step / (bright + self.options.damping * bright.max()))
        self.peak = intensity(self.probe).max()


def _moves(here: Tensor, probes: Tensor, change: Tensor) -> Tensor:
    """(B, 2) pixels (x, y) by which frames fit best, from the gradient of what lies under them (B, 1, N, N)."""
    slope_x, slope_y = torch.zeros_like(here), torch.zeros_like(here)
    slope_x[..., 1:-1] = (here[..., 2:] - here[..., :-2]) / 2
    slope_y[..., 1:-1, :] = (here[..., 2:, :] - here[..., :-2, :]) / 2
    x, y = slope_x * probes, slope_y * probes

    def product(a: Tensor, b: Tensor) -> Tensor:
        return (a.real * b.real + a.imag * b.imag).sum((1, 2, 3))

    xx, xy, yy = product(x, x), product(x, y), product(y, y)
    damped = 1e-3 * (xx + yy) + 1e-20
    xx, yy = xx + damped, yy + damped
    to_x, to_y = product(x, change), product(y, change)
    determinant = xx * yy - xy.square()
    found = torch.stack([yy * to_x - xy * to_y, xx * to_y - xy * to_x], 1) / determinant[:, None]
    return found.clamp(-_LARGEST_MOVE, _LARGEST_MOVE)
