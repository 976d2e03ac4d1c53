"""reconstruct in pieces: the files of a small scan, a canvas that stays on the disk, going on, refusals."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from small import QUIET, correlation, small_scan

from ptycho_torch.config import InferenceConfig
from ptycho_torch.errors import ConfigError, DataError, OutputError
from ptycho_torch.files.memory import memory_used
from ptycho_torch.physics.probes import magnified
from ptycho_torch.processes import Group
from ptycho_torch.result import load_reconstruction
from ptycho_torch.scan import Geometry, Scan
from ptycho_torch.scan.product import read_product
from ptycho_torch.solvers import RefineOptions
from ptycho_torch.tiles.store import Store
from ptycho_torch.workflows import tiled
from ptycho_torch.workflows.inference import Pieces, Refinement, reconstruct_to
from ptycho_torch.workflows.tiled import CANVAS_NAME, STATE_NAME, Solved, fits

LITTLE = 600 << 20


@pytest.fixture(scope="module")
def scan() -> Scan:
    return small_scan(32, step=5.0, edge=96)  # 169 frames, so that some are kept back


@pytest.fixture(autouse=True)
def never_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptycho_torch.workflows.inference.fits", lambda *_: False)


def solved(folder: Path, scan: Scan, sweeps: int = 4, resume: bool = False, **more: Any) -> dict[str, Path]:
    flat = InferenceConfig(start="flat")
    refinement = Refinement("epie", RefineOptions(sweeps=sweeps, step=1.0))
    pieces = Pieces(memory_used() + LITTLE, resume=resume)
    done = reconstruct_to(folder, scan, None, flat, QUIET, refinement=refinement, pieces=pieces, **more)
    return done.files


def test_a_scan_in_pieces_has_the_files_of_any(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = solved(tmp_path, scan)
    assert {path.name for path in tmp_path.iterdir()} == {
        "reconstruction.npz", "metrics.json", "reconstruction.png", "report.html",
    }  # fmt: skip
    found = load_reconstruction(files["reconstruction"])
    monkeypatch.setattr("ptycho_torch.workflows.inference.fits", lambda *_: True)
    at_once = load_reconstruction(solved(tmp_path / "once", scan)["reconstruction"])
    assert found.object.shape == at_once.object.shape
    assert (found.origin_xy == at_once.origin_xy).all()
    assert found.intensity_scale == pytest.approx(at_once.intensity_scale)
    lit = at_once.weight > 0.1 * at_once.weight.max()
    assert correlation(found.object[lit], at_once.object[lit]) > 0.999
    # At once the weight is that of the first guess of the probe, here that of the probe that was found.
    assert np.corrcoef(found.weight[lit], at_once.weight[lit])[0, 1] > 0.98
    assert ((found.object == 0) == (found.weight == 0)).all()
    assert found.residual_withheld is not None
    assert found.residual_withheld < 1.5 * (at_once.residual_withheld or 0)
    assert found.residual == pytest.approx(at_once.residual, rel=0.3)
    metrics = json.loads(files["metrics"].read_text())
    assert metrics["sweeps"] == 4
    assert len(metrics["residuals"]) == 4


def test_a_canvas_larger_than_memory_stays_on_the_disk(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = Geometry(8000.0, 1.0, (1e-8, 2e-8))
    small = solved(tmp_path / "small", scan, product=geometry)
    monkeypatch.setattr(Solved, "small", False)
    monkeypatch.setattr("ptycho_torch.tiles.finish._CHUNK", 16)
    large = solved(tmp_path / "large", scan, product=geometry)
    assert large["reconstruction"].name == CANVAS_NAME
    assert not (tmp_path / "large" / "reconstruction.npz").exists()
    one, other = (load_reconstruction(files["reconstruction"]) for files in (small, large))
    assert np.array_equal(one.object, other.object)
    assert np.array_equal(one.weight, other.weight)
    assert np.array_equal(one.probe, other.probe)
    assert (one.residual, one.residuals, one.solver) == (other.residual, other.residuals, other.solver)
    with h5py.File(large["reconstruction"]) as file:
        assert file["object"].chunks == (16, 16)
    first, second = (read_product(files["product"]) for files in (small, large))
    assert np.array_equal(first.object, second.object)
    assert first.centre_m == second.centre_m


def test_a_run_goes_on_where_it_was_and_only_as_it_was(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = load_reconstruction(solved(tmp_path / "straight", scan)["reconstruction"])
    folder, put, count = tmp_path / "broken", Store.put, 0

    def dies(self: Store, *args: object, **arrays: object) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        put(self, *args, **arrays)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", dies)
        with pytest.raises(KeyboardInterrupt):
            solved(folder, scan)
    with pytest.raises(OutputError, match="--resume"):
        solved(folder, scan)
    with pytest.raises(DataError, match="options: expected"):
        solved(folder, scan, sweeps=5, resume=True)
    with pytest.raises(DataError, match="scan: expected"):
        solved(folder, scan.select(slice(0, 150)), resume=True)
    found = load_reconstruction(solved(folder, scan, resume=True)["reconstruction"])
    assert np.array_equal(found.object, wanted.object)
    assert not (folder / STATE_NAME).exists()


def test_a_folder_of_someone_else_is_left_alone(scan: Scan, tmp_path: Path) -> None:
    (tmp_path / STATE_NAME).mkdir()
    (tmp_path / STATE_NAME / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is no state of a reconstruction"):
        solved(tmp_path, scan)
    assert (tmp_path / STATE_NAME / "notes.txt").read_text() == "mine"


def test_too_little_memory_is_said_before_anything_is_written(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"memory: expected at least .*; raise --memory"):
        reconstruct_to(tmp_path, scan, None, InferenceConfig(start="flat"), QUIET, pieces=Pieces(100 << 20))
    assert list(tmp_path.iterdir()) == []


def test_memory_is_that_of_all_processes_and_of_the_one_that_started_them() -> None:
    held, limit = memory_used(os.getppid()), 2 << 30
    assert 0 < held < limit
    several = Pieces(limit, Group(1, 4, 2))
    assert several.share is not None
    assert 2 * several.share + held == pytest.approx(limit, abs=16 << 20)
    assert Pieces(limit).share == limit


def test_the_learned_solver_begins_where_frames_are_sparse(tmp_path: Path) -> None:
    sparse = small_scan(32, step=12.0, edge=80)
    done = reconstruct_to(
        tmp_path, sparse, None, InferenceConfig(polish=False, effort="quick"), QUIET, pieces=Pieces()
    )
    assert done.metrics["solver"] == "learned"
    assert done.whole().residual is not None
    assert done.whole().residual < 0.05


def test_where_tiles_do_not_fit_it_begins_flat_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptycho_torch.workflows.tiled._LARGEST", 9 * 32**2)
    scan = small_scan(32, step=5.0, edge=80)
    settings, refinement = InferenceConfig(), Refinement("epie", RefineOptions(sweeps=2))
    done = reconstruct_to(tmp_path, scan, None, settings, QUIET, refinement=refinement, pieces=Pieces())
    assert done.whole().residuals[0] > 0.005  # of a flat object
    settings.start = "learned"
    with pytest.raises(DataError, match="--start flat"):
        reconstruct_to(tmp_path / "other", scan, None, settings, QUIET, pieces=Pieces())


def test_a_model_that_predicts_frame_by_frame_takes_one_process(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiled.Network(None, object(), None, "cnn")
    monkeypatch.setattr("ptycho_torch.workflows.inference.network_of", lambda *_: network)
    with pytest.raises(ConfigError, match="expected one process"):
        reconstruct_to(tmp_path, scan, "bundle", None, QUIET, pieces=Pieces(group=Group(0, 2, 2)))


@pytest.mark.parametrize("learned", [False, True])
def test_what_fits_grows_with_memory(scan: Scan, learned: bool) -> None:
    need = 4 * scan.n_frames * scan.N**2
    assert not fits(scan, learned, need)
    assert fits(scan, learned, 40 * need)


def test_a_guess_of_the_probe_is_mended_in_pieces_as_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = small_scan(32, step=5.0, edge=96, photons=1e6)
    assert scan.probe is not None
    wrong = replace(scan, probe=magnified(scan.probe, 0.75).astype(np.complex64))
    found = []
    for name, fitting in (("pieces", False), ("once", True)):
        monkeypatch.setattr("ptycho_torch.workflows.inference.fits", lambda *_, fitting=fitting: fitting)
        files = solved(tmp_path / name, wrong)
        found.append(json.loads(files["metrics"].read_text())["probe_guess_size"])
    assert found[0] == found[1] == pytest.approx(1 / 0.75, abs=0.1)
