from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ptycho_torch import reconstruct
from ptycho_torch.physics.probes import magnified, propagated
from ptycho_torch.scan import Scan
from ptycho_torch.scan.tiling import innermost
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.solvers.probe_guess import nearer_guess
from ptycho_torch.uncertainty import relative_error

N = 64


def scan_of(probe: str = "zoneplate", photons: float = 1e6, step: float = 12, seed: int = 0) -> Scan:
    obj = make_object("siemens", max(124, N + round(4 * step)), seed)
    positions = make_positions("grid", obj.shape, N, step=step, jitter=0.1 * step, seed=seed)
    return simulate_scan(obj, make_probe(probe, N), positions, photons=photons, seed=seed + 1)


def guessed(scan: Scan, size: float = 1.0, distance: float = 0.0) -> Scan:
    """The scan with the true probe made larger and moved along the beam for a guess."""
    assert scan.probe is not None
    return replace(scan, probe=propagated(magnified(scan.probe, size), distance * N).astype(np.complex64))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("probe", ["zoneplate", "disk"])
def test_the_true_probe_is_left_as_it_is(probe: str, seed: int) -> None:
    scan = scan_of(probe, seed=seed)
    found = nearer_guess(scan)
    assert (found.size, found.distance) == (1.0, 0.0)
    assert np.array_equal(found.probe, scan.probe)


@pytest.mark.parametrize(("probe", "size"), [("zoneplate", 0.65), ("disk", 0.8), ("zoneplate", 1.5)])
def test_the_right_size_is_found(probe: str, size: float) -> None:
    found = nearer_guess(guessed(scan_of(probe), size=size))
    assert found.size * size == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("distance", [-0.5, 0.3])
def test_the_right_plane_is_found(distance: float) -> None:
    found = nearer_guess(guessed(scan_of(), distance=distance))
    assert found.distance + distance == pytest.approx(0, abs=0.06)
    assert found.size == pytest.approx(1, abs=0.06)


def test_both_are_found_together() -> None:
    scan = scan_of()
    wrong = guessed(scan, size=0.8, distance=0.2)

    def like_the_true_one(probe: NDArray[Any] | None) -> float:
        assert probe is not None
        assert scan.probe is not None
        return float(abs(np.vdot(probe, scan.probe)) / np.linalg.norm(probe) / np.linalg.norm(scan.probe))

    assert like_the_true_one(wrong.probe) < 0.5
    assert like_the_true_one(nearer_guess(wrong).probe) > 0.95


def test_few_photons_leave_the_guess_alone() -> None:
    scan = guessed(scan_of(photons=0.9 * N**2), size=0.8)
    assert np.array_equal(nearer_guess(scan).probe, scan.probe)


@pytest.mark.parametrize("step", [36, 44])
def test_frames_that_hardly_touch_leave_the_true_probe_alone(step: float) -> None:
    """A wave that spreads far explains each of them by itself."""
    scan = scan_of(step=step)
    assert scan.n_frames >= 16
    assert np.array_equal(nearer_guess(scan).probe, scan.probe)


def test_images_do_not_depend_on_the_size_and_the_plane_of_the_guess(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    scan = scan_of()
    assert scan.object_guess is not None
    right = relative_error(reconstruct(scan, device="cpu"), scan.object_guess)
    for wrong in (guessed(scan, size=0.7), guessed(scan, distance=0.6)):
        caplog.clear()
        image = reconstruct(wrong, device="cpu")
        assert relative_error(image, scan.object_guess) < 1.2 * right
        assert image.info["probe_guess_size"] != 1 or image.info["probe_guess_distance"] != 0
        assert sum("explains the frames better" in text for text in caplog.messages) == 1


def test_frames_without_light_in_the_middle_leave_the_guess_alone() -> None:
    scan = guessed(scan_of(step=8), size=0.8)
    frames = np.array(scan.frames[:])
    frames[innermost(scan.positions, 16)] = 0
    dark = replace(scan, frames=frames)
    assert np.array_equal(nearer_guess(dark).probe, scan.probe)
    assert reconstruct(dark, withhold=0.0, device="cpu").residual is not None


def test_a_guess_of_nearly_nothing_does_no_harm() -> None:
    """Where sweeps diverge or stand still, nothing is better than what was given."""
    scan = scan_of()
    nothing = np.zeros_like(scan.probe)
    nothing[0, 0, 0] = 1e-20
    found = nearer_guess(replace(scan, probe=nothing))
    assert np.isfinite(found.probe).all()
