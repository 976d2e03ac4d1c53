"""Frames in, image out, without training: with the bundle that ships, and frames kept back as judges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ptycho_torch.bundle.shipped import load_solver, shipped_bundle
from ptycho_torch.bundle.verify import verify_bundle
from ptycho_torch.compat import parameters
from ptycho_torch.errors import BundleNotFoundError
from ptycho_torch.physics.probes import magnified
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.solvers import SOLVERS, LearnedOptions, RefineOptions, SolverOptions
from ptycho_torch.uncertainty import relative_error
from ptycho_torch.workflows.solving import (
    Network,
    judged,
    kept_back,
    only_noise_is_left,
    polishing,
    reconstruct,
    solve,
    starts_flat,
    with_guess,
)

SIZE = 32


def scan_of(step: float, edge: int = 112, photons: float = 1e6) -> Scan:
    obj = make_object("siemens", edge, 0)
    positions = make_positions("grid", obj.shape, SIZE, step=step, jitter=0.4, seed=0)
    return simulate_scan(obj, make_probe("zoneplate", SIZE), positions, photons=photons, seed=0)


def likeness(rec: Reconstruction, scan: Scan) -> float:
    """Correlation of object and truth without their means, so that a flat or blurred image does not score."""
    assert scan.object_guess is not None
    column, row = np.rint(rec.origin_xy).astype(int)
    height, width = rec.object.shape
    truth = scan.object_guess[row : row + height, column : column + width]
    lit = rec.weight > 0.2 * rec.weight.max()
    a, b = rec.object[lit], truth[lit]
    a, b = a - a.mean(), b - b.mean()
    return float(abs(np.vdot(a, b)) / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_shipped_bundle_is_sound_and_says_where_it_comes_from() -> None:
    report = verify_bundle(shipped_bundle())
    assert [check.status for check in report.checks] == ["passed", "passed"], report
    assert shipped_bundle().stat().st_size < 10_000_000


@pytest.mark.parametrize("step", [5.0, 8.0])
def test_a_scan_that_nobody_trained_on(step: float) -> None:
    scan = scan_of(step)
    image = reconstruct(scan)
    assert likeness(image, scan) > {5.0: 0.99, 8.0: 0.98}[step]
    assert image.solver == "epie"
    assert image.residual is not None
    assert image.residual < 0.01


def test_a_bundles_probe_is_used_for_its_own_beam_only() -> None:
    """A better known form of the guess is where to begin; the probe of another beamline would spoil everything."""
    scan = scan_of(8.0)
    assert scan.probe is not None
    better = scan.probe * np.exp(0.2j * np.linspace(-1, 1, SIZE))
    stranger = np.roll(scan.probe, SIZE // 2, -1)
    solver = load_solver()
    with_own, with_better, with_stranger = (
        solve(scan, Network(solver, None, probe, ""), LearnedOptions(sweeps=1, update_probe=False))
        for probe in (None, better, stranger)
    )
    assert not np.allclose(with_better.probe, with_own.probe, atol=1e-3 * abs(with_own.probe).max())
    assert np.allclose(with_stranger.probe, with_own.probe)
    nothing = solve(
        replace(scan, probe=None),
        Network(solver, None, better, ""),
        LearnedOptions(sweeps=1, update_probe=False),
    )
    assert np.allclose(nothing.probe, with_better.probe)


def test_the_learned_image_alone_is_an_image() -> None:
    scan = scan_of(8.0)
    image = reconstruct(scan, refine=0)
    assert image.solver == "learned"
    assert likeness(image, scan) > 0.9
    # Without one factor for all, which pretraining leaves open, it was 0.15.
    assert image.residual is not None
    assert image.residual < 0.02


def test_overlap_decides_what_sweeps_start_from() -> None:
    assert starts_flat(scan_of(2.0))
    assert not starts_flat(scan_of(5.0))


def test_frames_kept_back_are_never_seen() -> None:
    """What is in them changes the residual on them, and no pixel of the image."""
    scan = scan_of(5.0)
    hidden = kept_back(scan, 0.02)
    assert 2 <= hidden.sum() <= 0.05 * scan.n_frames
    frames = np.array(scan.frames[np.arange(scan.n_frames)])
    frames[hidden] = frames[hidden].mean((1, 2), keepdims=True)
    image, other = reconstruct(scan, refine=3), reconstruct(replace(scan, frames=frames), refine=3)
    assert image.residual_withheld is not None
    assert other.residual_withheld is not None
    assert other.residual_withheld > 5 * image.residual_withheld
    # The mean power is that of the frames that are used.
    assert np.allclose(other.object, image.object, atol=1e-4 * np.abs(image.object).max())
    assert len(image.positions) == scan.n_frames


def test_overfitting_is_said(caplog: pytest.LogCaptureFixture) -> None:
    scan = scan_of(5.0, 96)
    hidden = np.arange(scan.n_frames) % 10 == 5
    options = RefineOptions(sweeps=10)
    rec = SOLVERS.get("epie")("cpu").solve(scan.select(~hidden), None, options)
    fair = judged(rec, scan, hidden)
    assert fair.overfits is False
    assert "by chance" not in caplog.text
    # Frames of elsewhere in the withheld ones' places: what the image does not know of, it cannot explain.
    others = np.where(hidden[:, None, None], np.roll(scan.frames[:], 7, 0), scan.frames[:])
    worse = judged(rec, replace(scan, frames=others), hidden)
    assert worse.overfits is True
    assert "explains its frames by chance" in caplog.text


def test_a_small_or_sparse_scan_keeps_all_its_frames() -> None:
    assert not kept_back(scan_of(14.0), 0.02).any()
    assert not kept_back(scan_of(5.0).select(np.arange(50)), 0.02).any()
    assert not kept_back(scan_of(5.0), 0.0).any()


def test_exposure_is_a_gauge_of_the_image() -> None:
    scan = scan_of(14.0)
    # By a power of two, which rounds nothing: where no field is expected, rounding decides its phase.
    bright = replace(
        scan, frames=np.array(scan.frames[np.arange(scan.n_frames)]) * np.float32(4), counts_known=False
    )
    dim = replace(scan, counts_known=False)
    one, four = reconstruct(dim, refine=0), reconstruct(bright, refine=0)
    assert np.allclose(four.object, one.object, atol=1e-3 * np.abs(one.object).max())
    assert np.allclose(four.probe, 4 * one.probe, atol=1e-3 * np.abs(four.probe).max())


def test_the_older_programs_globals_are_left_alone() -> None:
    before = dict(parameters.cfg)
    reconstruct(scan_of(14.0), refine=0)
    assert dict(parameters.cfg) == before


def test_a_scan_without_a_probe_starts_from_a_disk(caplog: pytest.LogCaptureFixture) -> None:
    image = reconstruct(replace(scan_of(5.0), probe=None), refine=2)
    assert "no probe guess" in caplog.text
    assert np.isfinite(image.object).all()


def wrong(rec: Reconstruction, scan: Scan) -> float:
    assert scan.object_guess is not None
    return relative_error(rec, scan.object_guess)


@pytest.mark.parametrize(
    ("step", "photons", "part"), [(5.0, 300.0, 0.97), (5.0, 4000.0, 1), (10.0, 300.0, 0.97)]
)
def test_few_photons_get_sweeps_that_do_not_fit_their_noise(step: float, photons: float, part: float) -> None:
    scan = scan_of(step, edge=80, photons=photons)
    start = None if starts_flat(scan) else reconstruct(scan, refine=0, withhold=0)
    many = SOLVERS.get("epie")("cpu").solve(scan, start, polishing())
    assert wrong(reconstruct(scan, withhold=0), scan) < part * wrong(many, scan)


def test_photons_choose_the_sweeps() -> None:
    assert [polishing(1.0, photons).momentum for photons in (0.5, 5, 50)] == [0.0, 0.0, 0.9]
    assert [polishing(1.0, photons).sweeps for photons in (0.5, 5, 50)] == [10, 30, 30]
    assert polishing(0.5, 0.5).sweeps == 5
    assert polishing().sweeps == 30
    scan = scan_of(14.0, photons=SIZE**2 * 7.0)
    assert scan.photons_per_pixel == pytest.approx(7, rel=0.01)
    assert replace(scan, counts_known=False).photons_per_pixel == float("inf")


def test_only_few_photons_leave_only_noise() -> None:
    dim, bright = scan_of(10.0, edge=80, photons=300), scan_of(10.0, edge=80, photons=1e6)
    learned = {scan.mean_power: reconstruct(scan, refine=0, withhold=0) for scan in (dim, bright)}
    assert only_noise_is_left(learned[dim.mean_power], dim)
    assert not only_noise_is_left(learned[bright.mean_power], bright)
    # What is wrong by far leaves more than noise, however few the photons.
    found = learned[dim.mean_power]
    assert not only_noise_is_left(replace(found, object=3 * found.object), dim)


def test_few_photons_add_up_where_frames_overlap() -> None:
    """The network's image explains such frames up to their noise, and yet sweeps find more in them."""
    scan = scan_of(5.0, edge=80, photons=1000)
    learned = reconstruct(scan, refine=0, withhold=0)
    assert wrong(reconstruct(scan, withhold=0), scan) < 0.85 * wrong(learned, scan)


def test_error_bars_come_with_the_image() -> None:
    scan = scan_of(10.0, edge=64)
    plain, barred = reconstruct(scan), reconstruct(scan, uncertainty=True)
    assert plain.sigma_phase is None
    assert np.array_equal(barred.object, plain.object)
    assert barred.residual == plain.residual
    assert np.array_equal(np.isfinite(barred.sigma_phase), barred.measured())


def test_a_missing_bundle_is_an_error() -> None:
    with pytest.raises(BundleNotFoundError):
        reconstruct(scan_of(14.0), "nowhere.zip")


@pytest.mark.parametrize(
    "options",
    [RefineOptions(update_probe=False), RefineOptions(probe_after=5), LearnedOptions(update_probe=False)],
)
def test_a_guess_that_is_to_be_held_is_left_alone(options: SolverOptions) -> None:
    wrong = with_small_probe(scan_of(5.0))
    network = Network(load_solver(), None, None, "shipped")
    assert with_guess(wrong, network, options)[0] is wrong
    nearer, facts = with_guess(wrong, network, replace(options, update_probe=True, **free_at_once(options)))
    assert facts["probe_guess_size"] > 1.1
    assert not np.array_equal(nearer.probe, wrong.probe)


def test_a_guess_is_left_alone_where_a_network_knows_the_beam() -> None:
    scan = scan_of(5.0)
    wrong = with_small_probe(scan)
    assert with_guess(wrong, Network(load_solver(), None, scan.probe, "trained"))[0] is wrong
    assert with_guess(wrong, Network(None, None, None, "of another kind"))[0] is wrong


def with_small_probe(scan: Scan) -> Scan:
    assert scan.probe is not None
    return replace(scan, probe=magnified(scan.probe, 0.8).astype(np.complex64))


def free_at_once(options: SolverOptions) -> dict[str, Any]:
    return {"probe_after": None} if isinstance(options, RefineOptions) else {}
