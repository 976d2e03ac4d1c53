"""``reconstruct`` and ``evaluate`` as a user calls them: files, scores, products, refinement."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from calling import call
from small import small_scan

from ptycho_torch.cli.refining import RefiningConfig
from ptycho_torch.result import load_reconstruction
from ptycho_torch.scan import open_scan, write_scan
from ptycho_torch.solvers import RefineOptions


def test_the_reconstruction_file_is_what_it_says(folder: Path) -> None:
    with np.load(folder / "image" / "reconstruction.npz") as file:
        assert file["object"].dtype == np.complex64
        assert file["object"].ndim == 2
        assert (file["weight"].shape, file["weight"].dtype) == (file["object"].shape, np.float32)
        assert file["origin_xy"].shape == (2,)
        assert file["positions"].shape == (small_scan().n_frames, 2)
        assert file["probe"].shape == (1, 32, 32)
        # A frame's pixel [N/2, N/2] lies at its position: the frames' windows span the canvas.
        low = file["positions"].min(0) - 16
        assert np.abs(file["origin_xy"] - low).max() < 3
    for name in ("reconstruction.png", "metrics.json", "report.html"):
        assert (folder / "image" / name).stat().st_size > 200


def test_scores_and_the_alignment_are_reported(folder: Path, tmp_path: Path) -> None:
    done = call(
        "evaluate", folder / "image" / "reconstruction.npz", folder / "scan.npz", "--register", "--json", "-o", tmp_path
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    scores = json.loads(done.stdout)
    for part in ("amplitude", "phase"):
        assert {"ssim", "ms_ssim", "psnr", "correlation", "nrmse", "frc_half_bit", "frc_1_7"} <= set(
            scores[part]
        )
    assert {"ramp_xy", "shift_xy", "phase", "amplitude_scale"} <= set(scores["alignment"])
    assert scores["alignment"]["kept"] == []
    for name in ("comparison.png", "frc.png", "report.html", "metrics.json"):
        assert (tmp_path / name).stat().st_size > 200
        assert scores["files"][{"comparison.png": "figure"}.get(name, name.split(".")[0])] == str(
            tmp_path / name
        )
    perfect = call(
        "evaluate", folder / "image" / "reconstruction.npz", folder / "image" / "reconstruction.npz", "--json"
    )
    assert json.loads(perfect.stdout)["complex_correlation"] == pytest.approx(1.0)
    table = call(
        "evaluate", folder / "image" / "reconstruction.npz", folder / "scan.npz", "--keep", "phase, scale"
    )
    for words in ("complex correlation", "kept: scale", "applied: shift (px)"):
        assert words in table.stdout
    same = call("evaluate", *[folder / "image" / "reconstruction.npz"] * 2)
    assert "not crossed" in same.stdout
    assert "applied: phase (rad)" not in table.stdout
    wrong = call("evaluate", folder / "image" / "reconstruction.npz", folder / "scan.npz", "--keep", "tilt")
    assert wrong.exit_code == 2
    assert "keep: expected some of ramp, phase, scale, shift" in wrong.stderr


def test_products_are_written_where_metres_are_known(folder: Path, tmp_path: Path) -> None:
    from ptycho_torch.scan.product import read_product

    before = [
        "reconstruct",
        folder / "scan.npz",
        "--model",
        folder / "run",
        "-o",
        tmp_path / "out",
        "--product",
        "-q",
    ]
    done = call(*before)
    assert done.exit_code == 2
    assert "metres" in done.stderr
    assert not (tmp_path / "out").exists()
    assert call(*before, "--pixel-size", "1e-8").exit_code == 2
    done = call(*before, "--pixel-size", "1e-8", "--energy", 8000, "--distance", 2)
    assert done.exit_code == 0, done.output
    product = read_product(tmp_path / "out" / "product.h5")
    rec = load_reconstruction(tmp_path / "out" / "reconstruction.npz")
    assert np.allclose(product.positions_px, rec.positions - rec.origin_xy, atol=1e-6)
    assert np.array_equal(product.object[0], rec.object)


def test_positions_are_refined_on_demand(folder: Path, tmp_path: Path) -> None:
    before = ["reconstruct", folder / "scan.npz", "--model", folder / "run", "-o", tmp_path / "out", "--json"]
    done = call(*before, "--refine", 3, "--refine-positions", "--refine-minutes", 1)
    assert done.exit_code == 0, done.output
    metrics = json.loads(done.stdout)
    rec = load_reconstruction(tmp_path / "out" / "reconstruction.npz")
    scan = open_scan(folder / "scan.npz")
    moved = np.sqrt(np.mean(np.sum((rec.positions - scan.positions) ** 2, axis=1)))
    assert metrics["moved_rms_px"] == pytest.approx(moved)
    assert moved > 0
    assert metrics["residual"] < metrics["residual_before_refinement"]


def test_a_probe_that_is_held_stays_the_guess(tmp_path: Path) -> None:
    write_scan(small_scan(), tmp_path / "scan.npz")
    before = ["reconstruct", tmp_path / "scan.npz", "--refine", 3, "--refine-positions"]
    guess = open_scan(tmp_path / "scan.npz").probe
    assert guess is not None
    alike = {}
    for hold in (3, 1):
        done = call(*before, "--hold-probe", hold, "-o", tmp_path / str(hold))
        assert done.exit_code == 0, done.output
        found = load_reconstruction(tmp_path / str(hold) / "reconstruction.npz").probe
        alike[hold] = abs(np.vdot(found, guess)) / (np.linalg.norm(found) * np.linalg.norm(guess))
    assert alike[3] == pytest.approx(1, abs=1e-5)
    assert alike[1] < 1 - 1e-5


def test_positions_need_no_other_flag() -> None:
    refinement = RefiningConfig(refine_positions=True).refinement()
    assert refinement is not None
    assert refinement.options == RefineOptions(sweeps=60, update_positions=True)
    assert RefiningConfig().refinement() is None


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--refine-positions", "--refine", 0), "takes sweeps"),
        (("--refine-positions", "--engine", "epie"), "--refine"),
        (("--refine-minutes", 1), "--refine"),
        (("--hold-probe", 3), "requires --refine N or --refine-positions"),
        (("--engine", "lsqml", "--refine", 2, "--hold-probe", 1), "--hold-probe cannot be used"),
        (("--engine", "epie"), "--refine"),
        (("--engine", "magic", "--refine", 2), "expected one of"),
        (("--engine", "lsqml", "--refine", 2, "--refine-minutes", 1), "epochs"),
    ],
    ids=str,
)
def test_refinement_that_cannot_be_is_refused_first(
    folder: Path, tmp_path: Path, flags: tuple[object, ...], text: str
) -> None:
    done = call("reconstruct", folder / "scan.npz", "--model", folder / "run", "-o", tmp_path / "out", *flags)
    assert done.exit_code == 2
    assert text in done.stderr
    assert not (tmp_path / "out").exists()
