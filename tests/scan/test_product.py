"""ptychodus' HDF5 files: what is written comes back, in the same place; frames stay in the file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho_torch.errors import DataError, ScanError, ScanNotFoundError
from ptycho_torch.scan import open_scan
from ptycho_torch.scan.h5frames import H5Frames
from ptycho_torch.scan.product import HALF_PIXEL, Product, read_product, write_product
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan

OBJECT = make_object("grf", 72, 0)
SCAN = simulate_scan(
    OBJECT, make_probe("zoneplate", 32), make_positions("grid", (72, 72), 32, step=8.0, seed=1), photons=1e4
)
PIXEL = (12e-9, 10e-9)


@pytest.fixture(autouse=True, params=["in memory", "in the file"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small scans are read at once, large ones stay in the file: everything holds for both."""
    if request.param == "in the file":
        monkeypatch.setattr("ptycho_torch.scan.intake.memory_limit", lambda: 0)
    return str(request.param)


def product(**changes: object) -> Product:
    """The simulated scan as a product with a centre away from zero and pixels that are not square."""
    centre = np.array([3e-6, -2e-6])
    values: dict = {
        "positions_m": (SCAN.positions - 36.0) * PIXEL + centre, "indexes": np.arange(SCAN.n_frames),
        "probe": SCAN.probe[None], "object": OBJECT[None].astype(np.complex64),
        "pixel_m": PIXEL, "centre_m": tuple(centre),
        "losses": np.array([[0, 0.5], [1, 0.25]]), "name": "a name", "comments": "and more",
        "numbers": {"detector_object_distance_m": 2.0, "photon_energy_eV": 8e3, "probe_photon_count": 1e4},
    }  # fmt: skip
    return Product(**{**values, **changes})


def folder(path: Path, **changes: object) -> Path:
    """diffraction.h5 and product.h5 as ptychodus lays them out."""
    write_product(product(), path / "product.h5")
    counts = np.rint(SCAN.frames**2).astype(np.uint16)
    content = {
        "patterns": counts,
        "indexes": np.arange(SCAN.n_frames),
        "bad_pixels": np.zeros((32, 32), bool),
    }
    with h5py.File(path / "diffraction.h5", "w") as file:
        for key, value in {**content, **changes}.items():
            if value is not None:
                file.create_dataset(key, data=value, compression="lzf")
    return path / "diffraction.h5"


def test_a_product_comes_back(tmp_path: Path) -> None:
    before = product(
        opr_weights=np.ones((SCAN.n_frames, 1)), photon_counts=np.arange(SCAN.n_frames, dtype=float),
        polarization="left", far_field=False,
        sigma_amplitude=np.full(OBJECT.shape, 0.5, np.float32), sigma_phase=np.zeros(OBJECT.shape, np.float32),
    )  # fmt: skip
    write_product(before, tmp_path / "p.h5")
    after = read_product(tmp_path / "p.h5")
    for item in dataclasses.fields(Product):
        a, b = getattr(before, item.name), getattr(after, item.name)
        if item.name == "numbers":
            assert all(b[k] == v for k, v in a.items())
        elif item.name != "probe_pixel_m":
            assert np.array_equal(a, b), item.name
    assert after.probe_pixel_m == PIXEL


def test_error_bars_have_the_shape_of_the_object() -> None:
    with pytest.raises(DataError, match=r"sigma_phase: expected \(72, 72\), found \(3, 3\)"):
        product(sigma_phase=np.zeros((3, 3)))


def test_positions_are_where_the_object_is() -> None:
    assert np.allclose(product().positions_px, SCAN.positions, atol=1e-9)


@given(
    st.tuples(st.integers(-40, 40), st.integers(-40, 40)),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
@settings(deadline=None)
def test_another_canvas_lies_in_the_same_place(origin: tuple[int, int], shape: tuple[int, int]) -> None:
    geometry = product().geometry
    moved = Product.of(np.ones(shape, np.complex64), origin, SCAN.positions, SCAN.probe, geometry)
    # A position is the same place: its pixel on the new canvas is the old one less the origin.
    assert np.allclose(moved.positions_px, SCAN.positions - origin, atol=1e-6)
    assert np.allclose(moved.positions_m, product().positions_m, atol=1e-15)


def test_older_files_are_read(tmp_path: Path) -> None:
    write_product(product(), tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        file.attrs["probe_energy_eV"] = file.attrs["photon_energy_eV"]
        del file.attrs["photon_energy_eV"], file["object_layer_spacing_m"], file["loss_epochs"]
        for key in ("object", "probe"):
            attributes, array = dict(file[key].attrs), file[key][()]
            del file[key]
            file[key] = array.reshape(array.shape[-2:])
            file[key].attrs.update(attributes)
    found = read_product(tmp_path / "p.h5")
    assert found.numbers["photon_energy_eV"] == 8e3
    assert found.object.shape == (1, 72, 72)
    assert found.probe.shape == (1, 1, 32, 32)
    assert found.losses.shape == (0, 2)


@pytest.mark.parametrize(
    "key", ["object", "probe", "probe_position_x_m", "probe_position_indexes", "attr:photon_energy_eV"]
)
def test_what_is_missing_is_named(tmp_path: Path, key: str) -> None:
    write_product(product(), tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        if key.startswith("attr:"):
            del file.attrs[key[5:]]
        else:
            del file[key]
    with pytest.raises(ScanError, match=key.removeprefix("attr:")) as caught:
        read_product(tmp_path / "p.h5")
    assert "p.h5" in str(caught.value)


def test_files_that_are_no_product(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError):
        read_product(tmp_path / "missing.h5")
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n and nothing")
    with pytest.raises(ScanError, match=r"x\.h5"):
        read_product(tmp_path / "x.h5")


# ---------------------------------------------------------------- as scans


def test_diffraction_and_product_are_a_scan(tmp_path: Path, where: str) -> None:
    scan = open_scan(folder(tmp_path))
    assert scan.source.format == "ptychodus"
    assert scan.source.measurement == "counts"
    assert scan.counts_known
    assert isinstance(scan.frames, H5Frames) == (where == "in the file")
    assert np.allclose(scan.frames[:], SCAN.frames, atol=1e-3)
    assert np.allclose(scan.positions, SCAN.positions)
    assert np.allclose(scan.probe, SCAN.probe)
    assert np.allclose(scan.object_guess, OBJECT)


def test_frames_and_positions_are_matched_by_index(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(SCAN.n_frames)
    counts = np.rint(SCAN.frames**2).astype(np.uint16)[order]
    scan = open_scan(folder(tmp_path, patterns=counts[3:], indexes=order[3:]))
    assert scan.n_frames == SCAN.n_frames - 3
    kept = np.sort(order[3:])
    assert np.allclose(scan.frames[:], SCAN.frames[kept], atol=1e-3)
    assert np.allclose(scan.positions, SCAN.positions[kept])


def test_training_files_are_scans(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["patterns"] = np.rint(SCAN.frames**2).astype(np.uint16)
        file["probe_position_x_px"], file["probe_position_y_px"] = SCAN.positions.T - HALF_PIXEL
        file["probe"], file["object"] = SCAN.probe, OBJECT
        file["bad_pixels"] = np.zeros((32, 32), bool)
    scan = open_scan(tmp_path / "t.h5")
    assert scan.source.format == "ptychodus-training"
    assert np.allclose(scan.positions, SCAN.positions)
    assert np.allclose(scan.frames[5], SCAN.frames[5], atol=1e-3)


@given(st.lists(st.integers(0, SCAN.n_frames - 1), max_size=12))
@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
def test_frames_in_a_file_are_indexed_like_an_array(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int]
) -> None:
    path = tmp_path_factory.mktemp("h5") / "f.h5"
    data = np.random.default_rng(0).random((SCAN.n_frames, 4, 4)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["patterns"] = data
    frames = H5Frames(path, "patterns", np.arange(SCAN.n_frames))
    index = np.array(rows, dtype=np.int64)
    assert np.array_equal(frames[index], data[index])
    assert np.array_equal(frames[2:5], data[2:5])
    assert np.array_equal(frames[3], data[3])
    assert np.array_equal(frames.select(slice(1, None, 2))[:], data[1::2])
    assert frames.shape == data.shape
    assert len(frames) == len(data)


def test_bad_pixels_are_left_out(tmp_path: Path) -> None:
    bad = np.zeros((32, 32), bool)
    bad[3, 4] = True
    scan = open_scan(folder(tmp_path, bad_pixels=bad))
    assert not scan.good_pixels[3, 4]
    assert (scan.frames[:][:, 3, 4] == 0).all()


def test_selections_stay_in_the_file(tmp_path: Path, where: str) -> None:
    scan = open_scan(folder(tmp_path)).select(slice(0, 5))
    assert isinstance(scan.frames.base, H5Frames) == (where == "in the file")
    assert scan.frames.shape[0] == 5


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"patterns": np.ones((4, 8, 9))}, "patterns"),
        ({"patterns": np.ones((4, 32, 32)), "indexes": np.arange(3)}, "indexes"),
        ({"patterns": np.ones((2, 32, 32)), "indexes": np.array([900, 901])}, "positions for none of them"),
        ({"bad_pixels": np.zeros((3, 3), bool)}, "bad_pixels"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict, text: str) -> None:
    with pytest.raises(ScanError, match=text):
        open_scan(folder(tmp_path, **changes))


def test_a_missing_product_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (tmp_path / "product.h5").unlink()
    with pytest.raises(ScanError, match=r"product\.h5"):
        open_scan(path)


def test_a_filter_that_is_not_there_says_what_to_install(tmp_path: Path) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    path = folder(tmp_path)
    with h5py.File(path, "r+") as file:
        data = file["patterns"][()]
        del file["patterns"]
        file.create_dataset("patterns", data=data, **hdf5plugin.Bitshuffle())
    assert np.allclose(open_scan(path).frames[:], SCAN.frames, atol=1e-3)
