from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from ptycho_torch import reconstruct
from ptycho_torch.physics.probes import magnified, propagated
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.solvers.probe_guess import nearer_guess
from ptycho_torch.uncertainty import relative_error

N = 32


def scan_of(probe: str = "zoneplate", photons: float | None = 1e6, step: float = 6, seed: int = 0) -> Scan:
    obj = make_object("siemens", 96, seed)
    positions = make_positions("grid", obj.shape, N, step=step, jitter=0.1 * step, seed=seed)
    return simulate_scan(obj, make_probe(probe, N), positions, photons=photons, seed=seed + 1)


def guessed(scan: Scan, size: float = 1.0, distance: float = 0.0) -> Scan:
    """The scan with the true probe made larger and moved along the beam for a guess."""
    assert scan.probe is not None
    return replace(
        scan, probe=propagated(magnified(scan.probe, size), distance * N).astype(np.complex64)
    )


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("probe", ["zoneplate", "disk"])
def test_the_true_probe_is_left_as_it_is(probe: str, seed: int) -> None:
    scan = scan_of(probe, seed=seed)
    found = nearer_guess(scan)
    assert (found.size, found.distance) == (1.0, 0.0)
    assert np.array_equal(found.probe, scan.probe)


@pytest.mark.parametrize("size", [0.65, 0.8, 1.25, 1.5])
def test_the_right_size_is_found(size: float) -> None:
    found = nearer_guess(guessed(scan_of(), size=size))
    assert found.size * size == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("distance", [-0.5, 0.3, 0.7])
def test_the_right_plane_is_found(distance: float) -> None:
    found = nearer_guess(guessed(scan_of(), distance=distance))
    assert found.distance + distance == pytest.approx(0, abs=0.11)
    assert found.size == pytest.approx(1, abs=0.08)


def test_few_photons_leave_the_guess_alone() -> None:
    scan = guessed(scan_of(photons=0.9 * N**2), size=0.8)
    assert np.array_equal(nearer_guess(scan).probe, scan.probe)


def test_frames_that_hardly_touch_leave_the_true_probe_alone() -> None:
    scan = scan_of(step=22)
    assert np.array_equal(nearer_guess(scan).probe, scan.probe)


def test_images_do_not_depend_on_the_size_and_the_plane_of_the_guess(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scan = scan_of()
    assert scan.object_guess is not None
    right = relative_error(reconstruct(scan, device="cpu"), scan.object_guess)
    for wrong in (guessed(scan, size=0.7), guessed(scan, distance=0.6)):
        caplog.clear()
        image = reconstruct(wrong, device="cpu")
        assert relative_error(image, scan.object_guess) < 1.3 * right
        assert image.info["probe_guess_size"] != 1 or image.info["probe_guess_distance"] != 0
        assert sum("explains the frames better" in text for text in caplog.messages) == 1
