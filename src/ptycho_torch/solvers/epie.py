"""Iterative refinement of object, probe and positions over the whole canvas: the generator's physics step, unlearned.

For a mini-batch b of frames (mini-batch ePIE with a shared denominator):

    Delta_j = F^-1( A_j F psi_j / |F psi_j| ) - psi_j,        psi_j = P crop(O, r_j)
    O <- O + beta_o sum_j T_-r_j( P* Delta_j ) / ( sum_j T_-r_j |P|^2 + alpha max|P|^2 )
    P <- P + beta_p sum_j o_j* Delta_j / ( sum_j |o_j|^2 + alpha max sum_j |o_j|^2 )
    r_j <- r_j + beta_r argmin_d || Delta_j - P (d . grad) o_j ||^2

Sources: A. M. Maiden and J. M. Rodenburg, Ultramicroscopy 109, 1256 (2009), for the updates;
A. Maiden, D. Johnson and P. Li, Optica 4, 736 (2017), for the regularised denominators;
M. Odstrcil, A. Menzel and M. Guizar-Sicairos, Opt. Express 26, 3108 (2018), for positions by the
object's gradient.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.errors import DataError
from ptycho_torch.physics.patches import assemble, crop
from ptycho_torch.physics.units import amplitude_normalisation
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan

__all__ = ["Refined", "refine", "refine_reconstruction", "residual"]

_log = logging.getLogger(__name__)
_MARGIN = 2
"""Pixels around a patch that the cubic interpolation of a fractional shift reaches."""
_REACH = 8
"""Pixels that the canvas extends further where positions are refined; they never move more."""
_LARGEST_MOVE = 0.5
"""Pixels that a position moves in one sweep at most."""


@dataclass(frozen=True)
class Refined:
    """Result of :func:`refine`.

    ``object``: (H, W) complex64, pixel [0, 0] at ``origin_xy``; ``probe``: (modes, N, N) complex64,
    orthogonal and by falling power; ``positions``: (M, 2) float64 as used last;
    ``residuals``: R = sum (A_hat - A)^2 / sum A^2 of each sweep, measured while it ran; ``stopped``: why it ended.
    """

    object: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    origin_xy: NDArray[np.float64]
    positions: NDArray[np.float64]
    residuals: list[float] = field(default_factory=list)
    stopped: str = ""


def canvas_of(
    positions: NDArray[Any], size: int, reach: int = 0
) -> tuple[NDArray[np.float64], tuple[int, int]]:
    whole, margin = np.floor(positions), _MARGIN + reach
    low = whole.min(0) - size // 2 - margin
    high = whole.max(0) + size - size // 2 + 1 + margin
    width, height = (high - low).astype(int)
    return low, (height, width)


def refine(
    frames: Any,
    positions: NDArray[Any],
    probe: NDArray[Any],
    *,
    start: NDArray[Any] | None = None,
    sweeps: int = 30,
    minutes: float | None = None,
    batch_size: int = 16,
    update_probe: bool = True,
    probe_after: int = 1,
    update_positions: bool = False,
    positions_after: int = 5,
    damping: float = 0.2,
    step: float = 1.0,
    probe_step: float = 1.0,
    settling: float = 5.0,
    tolerance: float = 1e-4,
    good_pixels: NDArray[np.bool_] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Refined:
    """Refines object and, if asked, probe and positions against all frames until the residual stops falling.

    ``frames``: (M, N, N) amplitudes in the unit of the probe's power; ``positions``: (M, 2) = (x, y)
    pixels; ``probe``: (modes, N, N) complex; ``start``: (H, W) complex object on the canvas that
    :func:`refine` itself would return for these positions, default: all ones. Steps fall as
    1 / (1 + sweep / ``settling``): constant ones keep chasing the frames' noise, falling ones average
    it. ``tolerance``: relative fall of R over five sweeps below which it stops. The object's gauge
    is the probe's; refined positions keep their mean, since object and positions may shift together,
    and stay within 8 px of where they began. ``probe_after``, ``positions_after``: sweeps before either moves.
    """
    device = torch.device(device)
    size = probe.shape[-1]
    origin, shape = canvas_of(positions, size, _REACH if update_positions else 0)
    begin = torch.from_numpy(positions - origin).to(device)
    places = begin.clone()
    window = size + 2 * _MARGIN
    inside = torch.arange(window, device=device)
    canvas = torch.ones(shape, dtype=torch.complex64, device=device)
    if start is not None:
        canvas = torch.from_numpy(np.array(start, dtype=np.complex64)).to(device)
    waves = torch.from_numpy(np.array(probe, dtype=np.complex64)).to(device)
    mask = None
    if good_pixels is not None:
        mask = torch.fft.ifftshift(torch.from_numpy(good_pixels).to(device), dim=(-2, -1))
    rng = np.random.default_rng(seed)
    began, residuals, stopped = time.monotonic(), [], "sweeps used up"
    power = torch.zeros((), device=device)

    for sweep in range(sweeps):
        smaller = 1 / (1 + sweep / settling)
        error, total = torch.zeros((), device=device), torch.zeros((), device=device)
        for part in np.array_split(rng.permutation(len(positions)), max(1, len(positions) // batch_size)):
            index = torch.from_numpy(part).to(device)
            measured = torch.as_tensor(np.asarray(frames[np.sort(part)], dtype=np.float32), device=device)
            index = index.sort().values
            measured = torch.fft.ifftshift(measured, dim=(-2, -1)).unsqueeze(1)
            whole = places[index].floor()
            fraction = (places[index] - whole).float().unsqueeze(1)
            corner = whole.long() - size // 2 - _MARGIN
            rows = corner[:, 1, None, None] + inside[:, None]
            columns = corner[:, 0, None, None] + inside
            flat = rows * shape[1] + columns
            here = crop(canvas.view(-1)[flat], fraction, size)
            wave = here * waves
            update, misfit = _project(wave, measured, mask)
            error += misfit
            total += measured.square().sum() if mask is None else (measured.square() * mask).sum()

            power = (waves.real.square() + waves.imag.square()).sum(0)
            back = assemble((waves.conj() * update).sum(1, keepdim=True), fraction, window)
            light = assemble(power.expand(len(part), 1, size, size), fraction, window)
            top = torch.zeros(canvas.numel(), dtype=torch.complex64, device=device)
            bottom = torch.zeros(canvas.numel(), device=device)
            top.index_add_(0, flat.reshape(-1), back.reshape(-1))
            bottom.index_add_(0, flat.reshape(-1), light.reshape(-1))
            change = top / (bottom.clamp_min(0) + damping * power.max())
            canvas = canvas + step * smaller * change.view(shape)
            if update_positions and sweep >= positions_after:
                places[index] += _moves(here, waves, update).double() * step
            if update_probe and sweep >= probe_after:
                bright = (here.real.square() + here.imag.square()).sum(0)
                change_p = (here.conj() * update).sum(0) / (bright + damping * bright.max())
                waves = waves + probe_step * smaller * change_p
        waves = _orthogonal(waves)
        if update_positions:
            moved = places - begin
            places = begin + (moved - moved.mean(0)).clamp(-_REACH, _REACH)
        residuals.append(float(error / total))
        if progress is not None:
            progress(sweep + 1, residuals[-1])
        if minutes is not None and time.monotonic() - began > 60 * minutes:
            stopped = "time used up"
            break
        if len(residuals) > 10 and residuals[-6] - min(residuals[-5:]) < tolerance * residuals[-6]:
            stopped = "residual stopped falling"
            break
    _log.info(
        "refined %d frames: R %.4g after %d sweeps (%s)",
        len(positions),
        residuals[-1],
        len(residuals),
        stopped,
    )
    final = places.cpu().numpy() + origin
    return Refined(canvas.cpu().numpy(), waves.cpu().numpy(), origin, final, residuals, stopped)


def _orthogonal(probe: Tensor) -> Tensor:
    """The same intensities from modes (modes, N, N) that are orthogonal, by falling power."""
    if len(probe) == 1:
        return probe
    _, powers, modes = torch.linalg.svd(probe.flatten(1), full_matrices=False)
    return (powers[:, None] * modes).view_as(probe)


def _moves(here: Tensor, waves: Tensor, update: Tensor) -> Tensor:
    """(B, 2) pixels (x, y) by which frames fit best, from the gradient of what lies under them (B, 1, N, N)."""
    slope_x, slope_y = torch.zeros_like(here), torch.zeros_like(here)
    slope_x[..., 1:-1] = (here[..., 2:] - here[..., :-2]) / 2
    slope_y[..., 1:-1, :] = (here[..., 2:, :] - here[..., :-2, :]) / 2
    x, y = slope_x * waves, slope_y * waves

    def product(a: Tensor, b: Tensor) -> Tensor:
        return (a.real * b.real + a.imag * b.imag).sum((1, 2, 3))

    xx, xy, yy = product(x, x), product(x, y), product(y, y)
    damped = 1e-3 * (xx + yy) + 1e-20
    xx, yy = xx + damped, yy + damped
    to_x, to_y = product(x, update), product(y, update)
    determinant = xx * yy - xy.square()
    found = torch.stack([yy * to_x - xy * to_y, xx * to_y - xy * to_x], 1) / determinant[:, None]
    return found.clamp(-_LARGEST_MOVE, _LARGEST_MOVE)


def _project(wave: Tensor, measured: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Change of the exit waves (B, modes, N, N) towards the measured moduli, and the squared misfit."""
    field_ = torch.fft.fft2(wave, norm="ortho")
    modulus = (field_.real.square() + field_.imag.square()).sum(1, keepdim=True).add(1e-12).sqrt()
    ratio = measured / modulus
    misfit = (modulus - measured).square()
    if mask is not None:
        ratio = torch.where(mask, ratio, torch.ones_like(ratio))
        misfit = misfit * mask
    return torch.fft.ifft2(field_ * (ratio - 1), norm="ortho"), misfit.sum()


def prepared(
    rec: Reconstruction, scan: Scan, reach: int = 0
) -> tuple[_Scaled, NDArray[np.complex64], NDArray[np.complex64], tuple[slice, slice], tuple[slice, slice]]:
    """Frames and probe in one unit, the start on :func:`refine`'s canvas, and where both canvases meet."""
    scale = float(rec.info.get("intensity_scale", 1.0))
    frames = _Scaled(scan.frames, amplitude_normalisation(scan.frames))
    probe = (rec.probe / scale).astype(np.complex64)
    if probe.shape[-1] != scan.N or len(rec.positions) != scan.n_frames:
        raise DataError(
            f"scan: expected the {len(rec.positions)} frames of {probe.shape[-1]} pixels that were reconstructed, "
            f"found {scan.n_frames} of {scan.N}"
        )
    origin, shape = canvas_of(rec.positions, scan.N, reach)
    move = np.rint(rec.origin_xy - origin).astype(int)
    mine, theirs = [], []
    for axis, (there, here) in enumerate(zip(rec.object.shape, shape, strict=True)):
        offset = int(move[1 - axis])
        low, high = max(0, offset), min(here, offset + there)
        mine.append(slice(low, high))
        theirs.append(slice(low - offset, high - offset))
    canvas_part, object_part = (mine[0], mine[1]), (theirs[0], theirs[1])
    known = rec.weight > 1e-3 * rec.weight.max()
    level = float(np.abs(rec.object[known]).mean())
    start = np.full(shape, level, dtype=np.complex64)
    start[canvas_part] = np.where(known[object_part], rec.object[object_part], np.complex64(level))
    return frames, probe, start, canvas_part, object_part


@dataclass(frozen=True)
class _Scaled:
    """Frames times a factor, a batch at a time."""

    frames: Any
    factor: float

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        return np.asarray(self.frames[index], dtype=np.float32) * np.float32(self.factor)


def refine_reconstruction(
    rec: Reconstruction,
    scan: Scan,
    *,
    sweeps: int = 20,
    minutes: float | None = None,
    update_probe: bool = True,
    update_positions: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Reconstruction:
    """The reconstruction after iterative sweeps over all of the scan's frames, started from it.

    Arguments as in :func:`refine`. The result lies on the same canvas; its ``info`` says how many
    sweeps were done, why they ended and what residual they reached. With ``update_positions`` its
    positions are the refined ones and ``info`` says how far they moved. Raises
    :class:`~ptycho_torch.errors.DataError` when the scan is not the one reconstructed.
    """
    frames, probe, start, mine, theirs = prepared(rec, scan, _REACH if update_positions else 0)
    began = time.monotonic()
    done = refine(
        frames,
        rec.positions,
        probe,
        start=start,
        sweeps=sweeps,
        minutes=minutes,
        step=0.5,
        probe_step=0.5,
        update_probe=update_probe,
        probe_after=0,
        update_positions=update_positions,
        positions_after=1,
        good_pixels=scan.good_pixels,
        seed=seed,
        device=device,
        progress=progress,
    )
    obj = rec.object.copy()
    obj[theirs] = np.where(rec.weight[theirs] > 0, done.object[mine], 0)
    scale = float(rec.info.get("intensity_scale", 1.0))
    info = {
        **rec.info,
        "residual": done.residuals[-1],
        "refined_sweeps": len(done.residuals),
        "refined_residuals": done.residuals,
        "refined_seconds": round(time.monotonic() - began, 3),
        "refined_stopped": done.stopped,
    }
    if update_positions:
        info["moved_rms_px"] = float(np.sqrt(np.mean(np.sum((done.positions - rec.positions) ** 2, axis=1))))
    waves = (done.probe * scale).astype(np.complex64)
    return replace(rec, object=obj, probe=waves, positions=done.positions, info=info)


def residual(
    rec: Reconstruction, scan: Scan, *, frames: int = 512, seed: int = 0, device: str | torch.device = "cpu"
) -> float:
    """``R = sum (A_hat - A)^2 / sum A^2`` of at most ``frames`` frames of the scan under the stitched object.

    What the object and probe of a reconstruction leave unexplained; 0 is perfect, photon noise sets
    the floor. Frames are drawn with ``seed``.
    """
    measured, probe, start, _, _ = prepared(rec, scan)
    origin, _ = canvas_of(rec.positions, scan.N)
    chosen = np.arange(scan.n_frames)
    if scan.n_frames > frames:
        chosen = np.sort(np.random.default_rng(seed).choice(scan.n_frames, frames, replace=False))
    part_origin, (height, width) = canvas_of(rec.positions[chosen], scan.N)
    column, row = np.rint(part_origin - origin).astype(int)
    done = refine(
        _Scaled(scan.frames[chosen], measured.factor),
        rec.positions[chosen],
        probe,
        start=start[row : row + height, column : column + width],
        sweeps=1,
        step=0.0,
        update_probe=False,
        good_pixels=scan.good_pixels,
        device=device,
    )
    return done.residuals[0]
