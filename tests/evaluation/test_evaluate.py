from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_torch.errors import DataError, ScanError, ScanNotFoundError
from ptycho_torch.evaluation import Reference, evaluate, load_reference
from ptycho_torch.report.tables import json_text
from ptycho_torch.result import Reconstruction, save_reconstruction
from ptycho_torch.scan import Scan, write_scan

RINGS = {"frc_half_bit", "frc_1_7", "frc50"}
SCORES = {"ssim", "ms_ssim", "psnr", "correlation", "nrmse"} | RINGS


def thing(size: int = 72, seed: int = 0) -> NDArray[np.complex64]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(2, size, size)), (0, 2, 2))
    noise /= noise.std()
    return np.exp(0.2 * noise[0] + 0.5j * noise[1]).astype(np.complex64)


def reconstruction(values: NDArray[np.complex64], origin: tuple[float, float] = (0, 0)) -> Reconstruction:
    return Reconstruction(
        values,
        np.ones(values.shape, np.float32),
        np.array(origin, float),
        np.array([[30.0, 30.0]]),
        np.ones((1, 16, 16), np.complex64),
    )


def test_a_perfect_reconstruction_in_another_gauge() -> None:
    truth = thing()
    result = evaluate(reconstruction(truth[10:70, 5:65] * (0.25 * np.exp(2j)), (5, 10)), truth)
    assert result["complex_correlation"] == pytest.approx(1, abs=1e-6)
    for part in ("amplitude", "phase"):
        assert set(result[part]) == SCORES
        assert result[part]["ssim"] > 0.9999
        assert result[part]["psnr"] > 80
        assert result[part]["frc50"]["crossed"] is False
        assert result[part]["correlation"] == pytest.approx(1, abs=1e-6)
        assert result[part]["nrmse"] < 1e-3
    assert set(result["complex"]) == {"nrmse"} | RINGS
    assert result["complex"]["nrmse"] < 1e-4
    assert result["alignment"]["phase"] == pytest.approx(-2, abs=1e-4)
    assert result["alignment"]["amplitude_scale"] == pytest.approx(4, rel=1e-4)
    # Less four pixels at each border of what is known, of the truth's to the right and of the image's elsewhere.
    assert result["region"]["rectangle_xywh"] == [9, 14, 52, 52]
    assert result["alignment"]["ramp_detector_px"] == pytest.approx((0, 0), abs=1e-5)
    json.loads(json_text(result))


def test_small_regions_say_why_ms_ssim_is_missing() -> None:
    result = evaluate(reconstruction(thing()), thing())
    assert result["amplitude"]["ms_ssim"] is None
    assert any(n.startswith("amplitude: ms_ssim: ") for n in result["notes"])


def test_more_noise_scores_worse() -> None:
    truth = thing()
    rng = np.random.default_rng(1)
    noise = (rng.normal(size=truth.shape) + 1j * rng.normal(size=truth.shape)).astype(np.complex64)
    low, high = (evaluate(reconstruction(truth + s * noise), truth) for s in (0.02, 0.2))
    assert low["complex_correlation"] > high["complex_correlation"]
    for part in ("amplitude", "phase"):
        assert low[part]["ssim"] > high[part]["ssim"]
        assert low[part]["psnr"] > high[part]["psnr"] + 10
        assert low[part]["correlation"] > high[part]["correlation"]
        assert low[part]["nrmse"] < high[part]["nrmse"] / 3
        for key in RINGS:
            assert low[part][key]["frequency"] > high[part][key]["frequency"]


def test_a_phase_wrap_between_the_two_does_no_harm() -> None:
    truth = thing() ** 2 * np.exp(3.1j)
    result = evaluate(reconstruction(truth * np.exp(0.1j)), truth)
    assert result["phase"]["psnr"] > 80


def test_a_flat_phase_is_not_scored_but_said() -> None:
    truth = np.abs(thing()).astype(np.complex64)
    result = evaluate(reconstruction(truth), truth)
    assert result["phase"] == dict.fromkeys(SCORES)
    assert any("phase: the reference is constant" in n for n in result["notes"])
    assert result["amplitude"]["ssim"] > 0.9999


def test_the_shift_is_left_when_it_is_kept() -> None:
    truth = thing()
    moved = reconstruction(truth[:, :-2], (2, 0))  # says that it lies two pixels further right than it does
    plain, registered = (evaluate(moved, truth, keep=keep) for keep in (["shift"], []))
    assert plain["alignment"]["shift_xy"] == (0, 0)
    assert registered["alignment"]["shift_xy"] == pytest.approx((-2, 0), abs=1e-3)
    assert registered["complex_correlation"] > max(0.999, plain["complex_correlation"])
    with pytest.warns(DeprecationWarning, match="keep="):
        assert evaluate(moved, truth, register=False) == plain
    with pytest.warns(DeprecationWarning, match="keep="):
        assert evaluate(moved, truth, register=True) == registered


def test_blur_shows_where_the_complex_correlation_hides_it() -> None:
    truth = thing()
    soft = ndimage.gaussian_filter(truth.real, 1.7) + 1j * ndimage.gaussian_filter(truth.imag, 1.7)
    result = evaluate(reconstruction(soft.astype(np.complex64)), truth)
    assert result["complex_correlation"] > 0.98
    assert result["amplitude"]["correlation"] < 0.94
    assert result["amplitude"]["nrmse"] > 0.3
    assert 0.1 < result["complex"]["nrmse"] < 0.3


def test_a_region_scores_a_part() -> None:
    truth = thing()
    spoiled = truth.copy()
    spoiled[36:] = 1
    top = np.zeros(truth.shape, bool)
    top[:36] = True
    assert evaluate(reconstruction(spoiled), truth, region=top)["complex_correlation"] > 0.99999
    assert evaluate(reconstruction(spoiled), truth, region=~top)["complex_correlation"] < 0.95


def test_arrays_of_the_same_shape_lie_at_the_same_place() -> None:
    result = evaluate(reconstruction(thing(), (40, 50)), thing())
    assert result["complex_correlation"] == pytest.approx(1, abs=1e-6)
    placed = Reference(thing(), np.ones((72, 72), np.float32))
    apart = evaluate(reconstruction(thing(), (40, 50)), placed, keep=["shift"])
    assert apart["complex_correlation"] < 0.99


def test_references_that_are_none() -> None:
    for wrong in (np.zeros((3, 4, 5)), np.full((72, 72), np.nan)):
        with pytest.raises(DataError, match=r"reference: (expected|holds NaN)"):
            evaluate(reconstruction(thing()), wrong)


def test_loading_each_kind(tmp_path: Path) -> None:
    truth = thing()
    save_reconstruction(reconstruction(truth, (3, 4)), tmp_path / "rec.npz")
    np.save(tmp_path / "a.npy", truth)
    np.savez(tmp_path / "one.npz", anything=truth)
    np.savez(tmp_path / "named.npz", other=np.zeros(3), object=truth[None])
    scan = Scan(
        np.ones((2, 16, 16), np.float32),
        np.array([[0.0, 0.0], [4.0, 0.0]]),
        np.ones((1, 16, 16), np.complex64),
        truth,
    )
    write_scan(scan, tmp_path / "scan.npz")
    for name in ("rec.npz", "a.npy", "one.npz", "named.npz", "scan.npz"):
        found = load_reference(tmp_path / name)
        assert np.array_equal(found.object, truth)
        assert found.origin_xy == ((3, 4) if name == "rec.npz" else (0, 0))
        assert found.placed is (name in ("rec.npz", "scan.npz"))
        assert found.frame_size == (16 if found.placed else None)
        assert found.source == str(tmp_path / name)


def test_files_that_hold_no_reference(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError, match="no such file"):
        load_reference(tmp_path / "none.npy")
    (tmp_path / "t.npy").write_text("hello")
    (tmp_path / "t.npz").write_text("hello")
    np.save(tmp_path / "v.npy", np.zeros(3))
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    huge = {"descr": "<c16", "fortran_order": False, "shape": (1_000_000, 1_000_000)}  # 14.6 TiB
    with (tmp_path / "huge.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, huge)
    for name in ("t.npy", "t.npz", "v.npy", "o.npy", "huge.npy"):
        with pytest.raises(ScanError, match=name):
            load_reference(tmp_path / name)
    scan = Scan(
        np.ones((2, 16, 16), np.float32),
        np.array([[0.0, 0.0], [4.0, 0.0]]),
        np.ones((1, 16, 16), np.complex64),
    )
    write_scan(scan, tmp_path / "scan.npz")
    with pytest.raises(ScanError, match="objectGuess: missing; a scan serves as reference only with one"):
        load_reference(tmp_path / "scan.npz")


def test_reference_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Reference(thing(), np.ones((72, 72), np.float32)).source = "x"  # type: ignore[misc]
