"""Error bars of whole reconstructions: where they are, what they grow with, and that the truth is within them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.solvers import SOLVERS, RefineOptions
from ptycho_torch.uncertainty import errors_against, replicates, with_sigma
from ptycho_torch.uncertainty.calibration import NORMAL
from ptycho_torch.uncertainty.replicates import FEATURES

SIZE = 32


def scan_of(photons: float, step: float = 7.0) -> Scan:
    obj = make_object("siemens", 72)
    positions = make_positions("grid", obj.shape, SIZE, step=step, jitter=0.5, seed=0)
    return simulate_scan(obj, make_probe("zoneplate", SIZE), positions, photons=photons, seed=1)


def solve(scan: Scan) -> Reconstruction:
    return SOLVERS.get("epie")("cpu").solve(scan, None, RefineOptions(sweeps=12))


@cache
def barred(photons: float) -> Reconstruction:
    scan = scan_of(photons)
    return with_sigma(solve(scan), scan, solve)


def test_they_are_where_something_was_measured_and_nowhere_else() -> None:
    rec = barred(1e5)
    for sigma in (rec.sigma_amplitude, rec.sigma_phase):
        assert np.array_equal(np.isfinite(sigma), rec.measured())
        assert np.nanmin(sigma) > 0
    assert rec.info["sigma_phase_median"] == pytest.approx(float(np.nanmedian(rec.sigma_phase)))
    assert rec.info["uncertainty_replicates"] == 4


def test_the_truth_is_mostly_within_them_and_not_by_being_wide() -> None:
    rec, truth = barred(1e5), scan_of(1e5).object_guess
    wrong = errors_against(rec, truth)
    for sigma, error in ((rec.sigma_amplitude, wrong.amplitude), (rec.sigma_phase, wrong.phase)):
        inside = np.abs(error)[rec.measured()] <= NORMAL * sigma[rec.measured()]
        assert 0.75 < inside.mean() < 0.98


def test_fewer_photons_wider_bars() -> None:
    few, many = barred(1e3), barred(1e5)
    assert np.nanmedian(few.sigma_phase) > 2 * np.nanmedian(many.sigma_phase)


def test_frames_that_the_model_does_not_explain_widen_them() -> None:
    """Positions wrong by a pixel: no replicate knows, and the residual tells."""
    scan = scan_of(1e5)
    spoiled = replace(
        scan, positions=scan.positions + np.random.default_rng(0).normal(0, 1, scan.positions.shape)
    )
    left = FEATURES.index("unexplained")
    found = replicates(solve(spoiled), spoiled, solve, count=1)
    plain = replicates(solve(scan), scan, solve, count=1)
    assert np.median(found.features[0, left]) > np.median(plain.features[0, left]) + 0.2


def test_the_other_image_tells_what_a_solver_that_is_sure_of_itself_does_not() -> None:
    """A solver that always says the same has replicates without errors; other sweeps of the frames differ from it."""
    scan = scan_of(1e5)
    good = solve(scan)
    waves = np.exp(0.5j * np.cos(0.7 * np.indices(good.object.shape)[0]))
    spoiled = replace(good, object=good.object * waves)
    stubborn = replicates(spoiled, scan, lambda _: spoiled, count=1)
    honest = replicates(good, scan, lambda _: good, count=1)
    k = FEATURES.index("other_near")
    assert stubborn.features[1, FEATURES.index("found_near")].max() < -5
    assert np.median(stubborn.features[1, k]) > np.median(honest.features[1, k]) + 1


def test_bars_are_wider_at_edges_and_where_light_is_weak() -> None:
    rec = barred(1e5)
    here = rec.measured()
    found = replicates(rec, scan_of(1e5), lambda _: rec, count=1).features[0]
    steep, dim = found[FEATURES.index("detail")], found[FEATURES.index("dim")]
    assert abs(steep[here].mean()) < 1e-3
    assert abs(dim[here].mean()) < 1e-3
    across = np.hypot(*np.gradient(np.abs(rec.object)))
    assert np.corrcoef(steep[here], np.log(across[here] + 1e-3))[0, 1] > 0.3
    assert np.corrcoef(dim[here], np.log(rec.weight[here]))[0, 1] < -0.9


def test_the_same_seed_gives_the_same_bars() -> None:
    scan = scan_of(1e5).select(np.arange(12))
    rec = solve(scan)
    one, again, other = (with_sigma(rec, scan, solve, count=1, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.sigma_phase, again.sigma_phase, equal_nan=True)
    assert not np.array_equal(one.sigma_phase, other.sigma_phase, equal_nan=True)
