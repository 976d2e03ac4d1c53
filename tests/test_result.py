from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.errors import DataError, OutputError, ScanError, ScanNotFoundError
from ptycho_torch.result import Reconstruction, load_reconstruction, save_reconstruction

ARRAYS = ("object", "weight", "origin_xy", "positions", "probe")


def make(height: int = 5, width: int = 7, seed: int = 0, **changes: Any) -> Reconstruction:
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {
        "object": (rng.normal(size=(height, width)) + 1j * rng.normal(size=(height, width))).astype(
            np.complex64
        ),
        "weight": rng.random((height, width)).astype(np.float32),
        "origin_xy": np.array([-3.0, 12.0]),
        "positions": rng.normal(size=(4, 2)),
        "probe": rng.normal(size=(2, 4, 4)).astype(np.complex64),
        "info": {"frames": 4, "scan": {"name": "a.npz"}},
    }
    return Reconstruction(**{**fields, **changes})


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_what_is_saved_comes_back(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, seed: int
) -> None:
    rec = make(height, width, seed)
    path = tmp_path_factory.mktemp("r") / "rec.out"
    save_reconstruction(rec, path)
    back = load_reconstruction(path)
    for key in ("object", "weight", "origin_xy", "positions", "probe"):
        assert np.array_equal(getattr(back, key), getattr(rec, key))
        assert getattr(back, key).dtype == getattr(rec, key).dtype
    assert back.info == rec.info
    assert [p.name for p in path.parent.iterdir()] == ["rec.out"]


def test_error_bars_come_back_with_the_pixels_that_have_none(tmp_path: Path) -> None:
    bars = np.full((5, 7), 0.25, np.float32)
    bars[0, :2] = np.nan
    back = load_reconstruction(
        save_reconstruction(make(sigma_amplitude=bars, sigma_phase=2 * bars), tmp_path / "r")
    )
    assert np.array_equal(back.sigma_amplitude, bars, equal_nan=True)
    assert np.array_equal(back.sigma_phase, 2 * bars, equal_nan=True)
    assert load_reconstruction(save_reconstruction(make(), tmp_path / "s")).sigma_phase is None


@pytest.mark.parametrize("bad", [np.full((5, 7), -1.0), np.ones((7, 5))])
def test_error_bars_that_cannot_be(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="sigma_phase: expected values of at least 0"):
        make(sigma_phase=bad)


def test_the_file_is_plain_arrays(tmp_path: Path) -> None:
    path = save_reconstruction(make(), tmp_path / "r.npz")
    with np.load(path, allow_pickle=False) as data:
        assert set(data.files) == {
            "object", "weight", "origin_xy", "positions", "probe", "info", "intensity_scale", "residuals",
            "sweeps", "seconds", "solver", "provenance",
        }  # fmt: skip
        assert data["object"].dtype == np.complex64
        assert data["weight"].dtype == np.float32


def test_extent_and_mask() -> None:
    rec = make(weight=np.diag([1.0, 0.5, 0.001, 0, 0]).astype(np.float32)[:, [0, 1, 2, 3, 4, 4, 4]])
    assert rec.extent == (-3.5, 3.5, 16.5, 11.5)
    assert rec.measured().sum() == 2


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"object": np.zeros(3, np.complex64)}, r"object: expected two axes"),
        ({"weight": np.zeros((2, 2), np.float32)}, r"weight: expected the object's shape \(5, 7\)"),
        ({"origin_xy": np.zeros(3)}, "origin_xy: expected two numbers"),
        ({"positions": np.zeros(3)}, r"positions: expected shape \(M, 2\)"),
        ({"probe": np.zeros((4, 4), np.complex64)}, r"probe: expected shape \(modes, N, N\)"),
        ({"intensity_scale": 0.0}, "intensity_scale: expected a finite number above 0"),
    ],
)
def test_fields_that_do_not_fit(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        make(**changes)


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError, match="no such file"):
        load_reconstruction(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ScanError, match=r"text\.npz: expected an NPZ archive"):
        load_reconstruction(tmp_path / "text.npz")
    good = {k: getattr(make(), k) for k in ("object", "weight", "origin_xy", "positions", "probe")}
    path = tmp_path / "bad.npz"
    for changes, text in [
        ({"weight": None}, "weight: expected to be in a reconstruction file"),
        ({"object": np.zeros((5, 7))}, "object: expected complex numbers, found float64"),
        ({"weight": np.full((5, 7), np.nan)}, "weight: expected finite values"),
        ({"weight": np.zeros((1, 7))}, "weight: expected the object's shape"),
        ({"info": np.array("{")}, "info: expected JSON text"),
        ({"info": np.array("[]")}, "info: expected a JSON object, found list"),
        ({"info": np.zeros(3)}, "info: expected JSON text, found float64"),
        ({"info": np.array({"a": 1}, dtype=object)}, "info: .*never loaded"),
        ({"sigma_phase": np.full((5, 7), np.inf)}, "sigma_phase: expected finite values"),
        ({"intensity_scale": np.zeros(2)}, "intensity_scale: expected one number"),
        ({"residual": np.array(np.nan)}, "residual: expected finite values"),
        ({"solver": np.zeros(3)}, "solver: expected text, found float64"),
        ({"provenance": np.array("[]")}, "provenance: expected a JSON object, found list"),
    ]:
        np.savez(path, **{k: v for k, v in {**good, **changes}.items() if v is not None})
        with pytest.raises(ScanError, match=text):
            load_reconstruction(path)


def test_cut_file(tmp_path: Path) -> None:
    path = save_reconstruction(make(), tmp_path / "r.npz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ScanError, match=r"r\.npz"):
        load_reconstruction(path)


def test_info_is_optional(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", **{k: v for k, v in vars(make()).items() if k in ARRAYS})
    assert load_reconstruction(tmp_path / "r.npz").info == {}


FIELDS: dict[str, Any] = {
    "intensity_scale": 2.5,
    "residual": 0.01,
    "residual_withheld": 0.02,
    "residuals": (0.5, 0.01),
    "sweeps": 2,
    "solver": "epie",
    "seconds": 0.25,
    "provenance": {"seed": 0},
}


def test_every_field_comes_back(tmp_path: Path) -> None:
    back = load_reconstruction(save_reconstruction(make(**FIELDS), tmp_path / "r.npz"))
    assert {key: getattr(back, key) for key in FIELDS} == FIELDS
    assert type(back.sweeps) is int
    plain = load_reconstruction(save_reconstruction(make(), tmp_path / "r.npz"))
    assert (plain.residual, plain.residual_withheld, plain.residuals) == (None, None, ())


def test_facts_are_the_fields_whatever_info_says() -> None:
    facts = make(**FIELDS, info={"residual": 9.0, "groups": 4}).facts()
    assert facts["residual"] == 0.01
    assert facts["groups"] == facts["frames"] == 4
    assert "residual_withheld" not in make().facts()


def test_files_of_before_keep_their_gauge_and_residual(tmp_path: Path) -> None:
    info = {
        "intensity_scale": 2.5,
        "residual": 0.01,
        "refined_sweeps": 2,
        "refined_residuals": [0.5, 0.01],
        "refined_by": "pty-chi lsqml",
        "seconds": "soon",
    }
    np.savez(tmp_path / "r.npz", **{k: getattr(make(), k) for k in ARRAYS}, info=np.array(json.dumps(info)))
    back = load_reconstruction(tmp_path / "r.npz")
    assert (back.intensity_scale, back.residual, back.sweeps) == (2.5, 0.01, 2)
    assert (back.residuals, back.solver, back.seconds) == ((0.5, 0.01), "pty-chi lsqml", 0.0)
    assert back.info == info


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        save_reconstruction(make(), tmp_path / "none" / "r.npz")


def test_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'lightning', 'torchmetrics'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "import ptycho_torch.result, ptycho_torch.files, ptycho_torch.evaluation\n"
        "import ptycho_torch.report.figures, ptycho_torch.report.html, ptycho_torch.report.tables\n"
        "import ptycho_torch.reconstruction.phases\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def _canvas(path: Path, **changes: Any) -> Path:
    """A result as reconstruction in pieces writes it, with other data sets or attributes; None leaves one out."""
    rec = make()
    arrays = {name: getattr(rec, name) for name in ARRAYS} | {"residuals": np.array([0.5, 0.25])}
    attributes = {"residual": 0.25, "sweeps": 2, "solver": "epie", "info": '{"frames": 4}'}
    with h5py.File(path, "w") as file:
        for name, value in (arrays | {k: v for k, v in changes.items() if k not in attributes}).items():
            if value is not None:
                file[name] = value
        file.attrs.update(attributes | {k: v for k, v in changes.items() if k in attributes})
    return path


def test_a_canvas_in_hdf5_comes_back(tmp_path: Path) -> None:
    found = load_reconstruction(_canvas(tmp_path / "a.h5"))
    np.testing.assert_array_equal(found.object, make().object)
    assert (found.residual, found.sweeps, found.solver, found.residuals) == (0.25, 2, "epie", (0.5, 0.25))
    assert found.info == {"frames": 4}


def test_an_hdf5_result_gives_nothing_of_another_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["object"] = make().object
    (tmp_path / "secret.txt").write_bytes(bytes(range(96)))
    path = _canvas(tmp_path / "a.h5", object=h5py.ExternalLink("other.h5", "/object"))
    with pytest.raises(ScanError, match=r"object: is a link to another file, other\.h5"):
        load_reconstruction(path)
    for name in ("probe", "weight"):
        path = _canvas(tmp_path / "b.h5", **{name: None})
        with h5py.File(path, "a") as file:
            like = getattr(make(), name)
            outside = [(str(tmp_path / "secret.txt"), 0, like.nbytes)]
            file.create_dataset(name, like.shape, like.dtype, external=outside)
        with pytest.raises(ScanError, match=f"{name}: expected data in an HDF5 file, found raw storage"):
            load_reconstruction(path)
    path = _canvas(tmp_path / "c.h5", object=None)
    with h5py.File(path, "a") as file:
        layout = h5py.VirtualLayout((5, 7), np.complex64)
        layout[:] = h5py.VirtualSource("other.h5", "object", (5, 7))
        file.create_virtual_dataset("object", layout)
    with pytest.raises(ScanError, match="object: is a virtual data set to another file"):
        load_reconstruction(path)


def test_an_hdf5_result_of_more_than_its_size_is_refused(tmp_path: Path) -> None:
    path = _canvas(tmp_path / "a.h5", object=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("object", (40_000, 40_000), np.complex64, chunks=(1000, 1000), compression="gzip")
    with pytest.raises(ScanError, match=r"object: would take 11\.9"):
        load_reconstruction(path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"residual": "small"}, "residual: expected a number"),
        ({"residual": np.nan}, "residual: expected a number"),
        ({"sweeps": np.ones(3)}, "sweeps: expected a number"),
        ({"info": "[" * 5000}, "info: expected JSON text"),
        ({"info": "[1]"}, "info: expected a JSON object, found list"),
        ({"solver": 3}, "solver: expected text"),
        ({"object": np.ones((5, 7))}, "object: expected numbers"),
        ({"weight": None}, "weight: there is no such dataset"),
        ({"weight": np.full((5, 7), np.nan, np.float32)}, "weight: holds NaN"),
    ],
)
def test_hdf5_results_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ScanError, match=text) as refused:
        load_reconstruction(_canvas(tmp_path / "a.h5", **changes))
    assert str(refused.value).count("a.h5") == 1


@pytest.mark.parametrize(
    ("used", "withheld", "told"), [(0.1, 0.2, False), (0.1, 0.21, True), (0.1, None, None)]
)
def test_overfitting_is_told_by_the_withheld_frames(
    used: float, withheld: float | None, told: bool | None
) -> None:
    rec = make(residual=used, residual_withheld=withheld)
    assert rec.overfits is told
    assert rec.facts().get("overfits") is told
