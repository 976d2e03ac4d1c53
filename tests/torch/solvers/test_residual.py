"""The residual is what numpy says it is, of the frames that were asked for, and changes nothing."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
from test_epie import SCAN, shifted, truth

from ptycho_torch.errors import DataError
from ptycho_torch.result import Reconstruction
from ptycho_torch.simulation import simulate_scan
from ptycho_torch.solvers.residual import noise_floor, residual


def worse() -> Reconstruction:
    ramp = np.exp(0.3j * np.arange(truth().object.shape[1]) ** 1.2)[None]
    return dataclasses.replace(truth(), object=(truth().object * ramp).astype(np.complex64))


def by_hand(rec: Reconstruction, which: list[int]) -> float:
    error, total, half = 0.0, 0.0, SCAN.N // 2
    for m in which:
        x, y = whole = np.floor(rec.positions[m] + 0.5).astype(int)
        patch = rec.object[y - half : y + half, x - half : x + half]
        field = np.fft.fft2(shifted(rec.probe, *(rec.positions[m] - whole)) * patch, norm="ortho")
        # The probe's unit is that of the frames.
        modulus, frame = np.fft.fftshift(np.abs(field[0])), SCAN.frames[m].astype(float)
        error, total = error + np.sum((modulus - frame) ** 2), total + np.sum(frame**2)
    return float(error / total)


def test_it_is_what_numpy_says() -> None:
    rec = worse()
    everything = list(range(SCAN.n_frames))
    assert residual(rec, SCAN) == pytest.approx(by_hand(rec, everything), rel=1e-4)
    assert residual(rec, SCAN, [7, 3]) == pytest.approx(by_hand(rec, [3, 7]), rel=1e-4)
    withheld = np.arange(SCAN.n_frames) % 5 == 0
    assert residual(rec, SCAN, withheld) == pytest.approx(by_hand(rec, everything[::5]), rel=1e-4)


def test_it_says_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rec = worse()
    kept = rec.object.copy()
    with caplog.at_level(logging.DEBUG):
        residual(rec, SCAN)
    assert not caplog.records
    np.testing.assert_array_equal(rec.object, kept)


@pytest.mark.parametrize("photons", [1e2, 1e4])
def test_the_floor_is_what_noise_leaves_of_the_truth(photons: float) -> None:
    noisy = simulate_scan(SCAN.object_guess, SCAN.probe, SCAN.positions, photons=photons, seed=3)
    scale = float(np.sqrt(noisy.mean_power / SCAN.mean_power))
    rec = dataclasses.replace(
        truth(), probe=truth().probe * scale, intensity_scale=truth().intensity_scale * scale
    )
    assert noise_floor(rec, noisy) == pytest.approx(residual(rec, noisy), rel=0.05)


def test_another_scan_is_refused() -> None:
    with pytest.raises(DataError, match="expected the"):
        residual(truth(), SCAN.select(slice(0, 5)))
