"""Refinement: the physics step over the whole canvas."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from small import correlation, small_scan

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation import evaluate
from ptycho_torch.physics.units import amplitude_normalisation, intensity_scale_from_counts, normalise_probe
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.solvers import SOLVERS, RefineOptions
from ptycho_torch.solvers.epie import Refined, refine
from ptycho_torch.solvers.residual import residual


def shifted(probe: np.ndarray, x: float, y: float) -> np.ndarray:
    """A probe (modes, N, N) moved by a fraction of a pixel: numpy, apart from the package's own."""
    k = np.fft.fftfreq(probe.shape[-1])
    along = [np.where(k == -0.5, np.cos(np.pi * f), np.exp(-2j * np.pi * k * f)) for f in (y, x)]
    return np.fft.ifft2(np.fft.fft2(probe) * along[0][:, None] * along[1])


def simulated(**changes: Any) -> Scan:
    """A scan without noise whose frames see the object at whole pixels, the fraction in the probe."""
    scan = small_scan(noise=False, step=4.0, **changes)
    assert scan.probe is not None
    assert scan.object_guess is not None
    frames, half = np.zeros(scan.frames.shape, np.float32), scan.N // 2
    for frame, position in zip(frames, scan.positions, strict=True):
        x, y = whole = np.floor(position + 0.5).astype(int)
        patch = scan.object_guess[y - half : y + half, x - half : x + half]
        field = np.fft.fft2(shifted(scan.probe, *(position - whole)) * patch, norm="ortho")
        frame[:] = np.fft.fftshift(np.sqrt(np.sum(np.abs(field) ** 2, axis=0)))
    return dataclasses.replace(scan, frames=frames)


SCAN = simulated()
FRAMES = SCAN.frames * np.float32(amplitude_normalisation(SCAN.frames))
PROBE = normalise_probe(SCAN.probe)


def as_reconstruction(obj: np.ndarray, origin: np.ndarray, probe: np.ndarray) -> Reconstruction:
    scale = intensity_scale_from_counts(SCAN.frames)
    weight = np.ones(obj.shape, np.float32)
    return Reconstruction(obj, weight, origin, SCAN.positions, probe * scale, intensity_scale=scale)


def refined(frames: np.ndarray, positions: np.ndarray, probe: np.ndarray, **options: Any) -> Refined:
    more = {key: options.pop(key) for key in ("good_pixels", "progress") if key in options}
    return refine(frames, positions, probe, RefineOptions(**options), **more)


def solved(start: Reconstruction | None, **options: Any) -> Reconstruction:
    return SOLVERS.get("epie")().solve(SCAN, start, RefineOptions(**options))


def truth() -> Reconstruction:
    """The simulated object, in the gauge of a normalised probe."""
    power = np.sum(np.abs(SCAN.probe) ** 2) / np.sum(np.abs(PROBE) ** 2)
    obj = SCAN.object_guess * np.sqrt(power) * amplitude_normalisation(SCAN.frames)
    return as_reconstruction(obj, np.zeros(2), PROBE)


def test_a_known_probe_gives_the_object() -> None:
    done = refined(FRAMES, SCAN.positions, PROBE, sweeps=60, update_probe=False, settling=None)
    rec = as_reconstruction(done.object, done.origin_xy, done.probe)
    rec.weight[:] = 0
    for x, y in np.floor(SCAN.positions - done.origin_xy).astype(int):
        rec.weight[y - 16 : y + 16, x - 16 : x + 16] += np.abs(PROBE[0]) ** 2
    assert evaluate(rec, SCAN.object_guess)["complex_correlation"] > 0.995
    assert done.residuals[-1] < 1e-2 * done.residuals[0]
    assert done.residuals[-1] < min(done.residuals[:5])


def test_a_wrong_probe_gets_better() -> None:
    axis = np.arange(32) - 16
    wrong = normalise_probe(PROBE * np.exp(0.02j * (axis[:, None] ** 2 + 0.5 * axis[None] ** 2)))
    fixed = refined(FRAMES, SCAN.positions, wrong, sweeps=40, update_probe=False)
    moved = refined(FRAMES, SCAN.positions, wrong, sweeps=40)
    assert moved.residuals[-1] < 0.5 * fixed.residuals[-1]
    assert correlation(moved.probe[0], PROBE[0]) > correlation(wrong[0], PROBE[0])


def test_a_wrong_probe_is_found_as_far_as_the_frames_tell() -> None:
    """A shift back that is not the adjoint, or light that is left over from the last batch, stops at 3e-3."""
    axis = np.arange(32) - 16
    wrong = normalise_probe(PROBE * np.exp(0.02j * (axis[:, None] ** 2 + 0.5 * axis[None] ** 2)))
    assert refined(FRAMES, SCAN.positions, wrong, sweeps=60).residuals[-1] < 1e-4


def test_the_truth_leaves_nothing_unexplained() -> None:
    assert residual(truth(), SCAN) < 1e-5
    worse = truth()
    worse.object = worse.object * np.exp(0.3j * np.arange(worse.object.shape[1]))[None].astype(np.complex64)
    assert residual(worse, SCAN) > 1e-3
    # A part of the frames gives about the same figure.
    assert residual(worse, SCAN, frames=20) == pytest.approx(residual(worse, SCAN), rel=0.5)


def test_a_reconstruction_stays_on_its_canvas() -> None:
    flat = dataclasses.replace(truth(), object=np.ones_like(truth().object))
    flat.weight[:3] = 0
    done = solved(flat, sweeps=15, update_probe=False)
    assert done.object.shape == flat.object.shape
    np.testing.assert_array_equal(done.origin_xy, flat.origin_xy)
    assert not done.object[:3].any()
    assert done.sweeps == 15
    assert done.residual < 0.2 * residual(flat, SCAN)


def test_a_good_start_saves_sweeps() -> None:
    near = truth()
    near.object = (near.object * (1 + 0.02 * np.random.default_rng(0).normal(size=near.object.shape))).astype(
        np.complex64
    )
    flat = dataclasses.replace(near, object=np.ones_like(near.object))
    a, b = (solved(r, sweeps=3, update_probe=False).residual for r in (near, flat))
    assert a < 0.2 * b


def test_masked_pixels_have_no_influence() -> None:
    good = np.ones((32, 32), bool)
    good[10:12, 5:9] = False
    spoiled = FRAMES.copy()
    spoiled[:, ~good] = 50.0
    a, b = (
        refined(f, SCAN.positions, PROBE, sweeps=3, good_pixels=good, update_probe=False)
        for f in (FRAMES, spoiled)
    )
    np.testing.assert_allclose(a.object, b.object, atol=1e-5)
    assert a.residuals == pytest.approx(b.residuals, rel=1e-4)


def test_it_stops_when_nothing_falls_any_more_or_time_is_up() -> None:
    done = refined(FRAMES, SCAN.positions, PROBE, sweeps=500, tolerance=0.5)
    assert len(done.residuals) < 500
    assert "stopped falling" in done.stopped
    assert refined(FRAMES, SCAN.positions, PROBE, sweeps=500, minutes=1e-9).stopped == "time used up"


def test_another_scan_is_refused() -> None:
    with pytest.raises(DataError, match="expected the"):
        SOLVERS.get("epie")().solve(SCAN.select(slice(0, 5)), truth())


def test_wrong_positions_are_found_again() -> None:
    rng = np.random.default_rng(0)
    wrong = SCAN.positions + rng.normal(0, 0.7, SCAN.positions.shape)
    wrong -= (wrong - SCAN.positions).mean(0)
    fixed = refined(FRAMES, wrong, PROBE, sweeps=40, update_probe=False)
    moved = refined(FRAMES, wrong, PROBE, sweeps=40, update_probe=False, update_positions=True)
    assert moved.residuals[-1] < 0.5 * fixed.residuals[-1]
    np.testing.assert_allclose(fixed.positions, wrong, atol=1e-9)
    # Object and positions may shift together: only what is left beside a common shift counts.
    before, after = (p - SCAN.positions - (p - SCAN.positions).mean(0) for p in (wrong, moved.positions))
    assert np.sqrt(np.mean(after**2)) < 0.1 * np.sqrt(np.mean(before**2))
    np.testing.assert_allclose(moved.positions.mean(0), wrong.mean(0), atol=1e-6)


def test_frames_far_from_home_are_brought_back() -> None:
    wrong = SCAN.positions.copy()
    lost = np.array([len(wrong) // 2, len(wrong) // 3])
    wrong[lost] += [[6.0, 1.0], [-5.0, -5.0]]
    moved = refined(FRAMES, wrong, PROBE, sweeps=40, update_probe=False, update_positions=True)
    left = moved.positions - SCAN.positions
    assert np.hypot(*(left - np.median(left, 0)).T).max() < 0.2


def test_positions_on_their_way_are_not_stopped() -> None:
    # A residual that stands still ends a run only once steps have begun to fall.
    options = {"update_probe": False, "tolerance": 1.0}
    moved = refined(FRAMES, SCAN.positions, PROBE, sweeps=30, update_positions=True, **options)
    fixed = refined(FRAMES, SCAN.positions, PROBE, sweeps=30, **options)
    assert (len(moved.residuals), len(fixed.residuals)) == (27, 11)


def test_right_positions_stay() -> None:
    done = solved(truth(), sweeps=5, update_probe=False, update_positions=True)
    assert done.info["moved_rms_px"] < 0.05
    assert residual(done, SCAN) < 1e-4


def test_positions_that_moved_belong_to_the_result() -> None:
    shifted = dataclasses.replace(truth(), positions=SCAN.positions.copy())
    shifted.positions[::2] -= 0.6
    done = solved(shifted, sweeps=20, update_probe=False, update_positions=True)
    assert residual(done, SCAN) == pytest.approx(done.residual, rel=0.5)
    assert residual(done, SCAN) < 0.5 * residual(shifted, SCAN)


def test_modes_come_back_orthogonal_and_by_power() -> None:
    axis = np.arange(32) - 16
    modes = np.stack(
        [PROBE[0], 0.3 * PROBE[0] * np.exp(0.2j * axis)[None], 0.1 * PROBE[0] * axis[:, None] / 8]
    )
    done = refined(FRAMES, SCAN.positions, normalise_probe(modes), sweeps=2)
    gram = np.einsum("mij,nij->mn", done.probe.conj(), done.probe)
    powers = np.diag(gram).real
    assert np.abs(gram - np.diag(powers)).max() < 1e-5 * powers.max()
    assert (np.diff(powers) <= 0).all()


def test_momentum_finds_the_low_frequencies_sooner() -> None:
    """And the result is what the last sweep came to, not what the next would have begun with."""
    with_it, without = (
        refined(FRAMES, SCAN.positions, PROBE, sweeps=20, update_probe=False, momentum=m) for m in (0.9, 0.0)
    )
    assert with_it.residuals[-1] < 0.5 * without.residuals[-1]
    done = solved(truth(), sweeps=1, update_probe=False)
    again = solved(truth(), sweeps=1, update_probe=False, momentum=0.0)
    np.testing.assert_array_equal(done.object, again.object)
