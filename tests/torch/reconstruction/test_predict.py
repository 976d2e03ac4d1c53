"""From frames to the canvas."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small import correlation, small_scan

from ptycho_torch.config import ModelConfig
from ptycho_torch.errors import DataError, ScanError
from ptycho_torch.evaluation import evaluate
from ptycho_torch.model import build_pair
from ptycho_torch.physics.units import intensity_scale_from_counts, normalise_probe
from ptycho_torch.reconstruction import reconstruct
from ptycho_torch.solvers.residual import residual

SCAN = small_scan(noise=False)


def model(gridsize: int = 1, iterations: int = 40, scan: object = SCAN) -> object:
    """An untrained solver: the physics alone, many steps."""
    config = ModelConfig(
        N=32, gridsize=gridsize, unrolled_iterations=iterations, unrolled_width=4, unrolled_levels=0
    )
    return build_pair(config, normalise_probe(SCAN.probe), intensity_scale_from_counts(SCAN.frames))[1].eval()


def test_the_object_is_found_where_it_is() -> None:
    rec = reconstruct(model(2), SCAN)
    scores = evaluate(rec, SCAN.object_guess)
    assert scores["complex_correlation"] > 0.95
    shifted = evaluate(rec, np.roll(SCAN.object_guess, 3, axis=1), keep=["shift"])
    assert shifted["complex_correlation"] < scores["complex_correlation"]
    assert np.abs(scores["alignment"]["shift_xy"]).max() < 0.3


def test_what_comes_back_is_complete_and_consistent() -> None:
    rec = reconstruct(model(), SCAN)
    assert rec.object.dtype == np.complex64
    assert rec.object.shape == rec.weight.shape
    assert rec.positions.shape == (SCAN.n_frames, 2)
    assert not rec.object[rec.weight == 0].any()
    # Amplitudes are relative to the probe, and both together predict counts.
    power = float(np.sum(np.abs(rec.probe) ** 2))
    assert power == pytest.approx(float(np.mean(np.sum(SCAN.frames**2, axis=(1, 2)))), rel=1e-3)


@pytest.mark.parametrize("gridsize", [1, 2])
def test_batches_make_no_difference(gridsize: int) -> None:
    made = model(gridsize, 3)
    a, b = (reconstruct(made, SCAN, batch_size=n) for n in (1, 17))
    np.testing.assert_allclose(a.object, b.object, atol=2e-3 * np.abs(a.object).max())


def test_exposure_makes_no_difference_and_its_own_counts_are_predicted() -> None:
    made = model(1, 3)
    brighter = dataclasses.replace(SCAN, frames=SCAN.frames * 7)
    a, b = reconstruct(made, SCAN), reconstruct(made, brighter)
    np.testing.assert_allclose(a.object, b.object, atol=1e-3)
    np.testing.assert_allclose(b.probe, 7 * a.probe, rtol=1e-5)
    assert b.intensity_scale == pytest.approx(7 * a.intensity_scale)
    assert residual(b, brighter) == pytest.approx(residual(a, SCAN), rel=1e-3)


def test_it_says_what_it_was_made_from() -> None:
    rec = reconstruct(model(2, 1), SCAN, seed=3)
    assert (rec.solver, rec.sweeps, rec.residual) == ("unrolled", 0, None)
    assert rec.seconds > 0
    assert (rec.provenance["seed"], rec.provenance["gridsize"]) == (3, 2)
    assert rec.provenance["scan"]["frames"] == SCAN.n_frames
    assert rec.provenance["versions"]["numpy"] == np.__version__


def test_repeating_gives_the_same_bits() -> None:
    made = model(2, 2)
    a, b = reconstruct(made, SCAN, seed=3), reconstruct(made, SCAN, seed=3)
    np.testing.assert_array_equal(a.object, b.object)
    assert correlation(a.object, reconstruct(made, SCAN, seed=4).object) < 1.0


def test_progress_ends_at_the_end() -> None:
    seen: list[tuple[int, int]] = []
    reconstruct(model(1, 1), SCAN, batch_size=10, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (SCAN.n_frames, SCAN.n_frames)
    assert [d for d, _ in seen] == sorted({d for d, _ in seen})


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match=r"expected 32x32.*found 16x16"):
        reconstruct(model(1, 1), small_scan(16, edge=40))
    with pytest.raises(ScanError, match="4"):
        reconstruct(model(2, 1), SCAN.select(slice(0, 3)))


def test_bf16_is_close_and_leaves_no_trace() -> None:
    made = model(1, 2)
    a, b = reconstruct(made, SCAN), reconstruct(made, SCAN, bf16=True)
    assert correlation(a.object, b.object) > 0.999
    np.testing.assert_array_equal(reconstruct(made, SCAN).object, a.object)
    assert not made.core.generator.bf16  # type: ignore[attr-defined]


def test_training_state_of_the_model_is_not_needed() -> None:
    made = model(1, 1)
    made.train()  # type: ignore[attr-defined]
    assert not torch.is_grad_enabled() or reconstruct(made, SCAN).object.any()


def test_an_error_while_reading_reaches_the_caller() -> None:
    """Frames are read in a thread, one batch ahead: a file that fails half-way must not go unseen."""

    class Failing:
        shape, dtype, ndim = SCAN.frames.shape, SCAN.frames.dtype, 3
        armed = False

        def __len__(self) -> int:
            return len(SCAN.frames)

        def __getitem__(self, index: object) -> np.ndarray:
            if self.armed and np.max(np.arange(len(self))[index]) > 16:
                raise OSError("the disk is gone")
            return SCAN.frames[index]

    frames = Failing()
    scan = dataclasses.replace(SCAN, frames=frames)
    with pytest.raises(OSError, match="the disk is gone"):
        reconstruct(
            model(iterations=1), scan, batch_size=8, progress=lambda *_: setattr(frames, "armed", True)
        )
