"""CXI, NXcxi_ptycho and .ptyd: written by their published layouts, read as the scan they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptycho_torch.errors import ScanError
from ptycho_torch.scan import Geometry, Scan, open_scan, write_scan
from ptycho_torch.scan.optics import PLANCK_LIGHT, metres_to_pixels, object_pixel
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan

EV = 1.602176634e-19
ENERGY, DISTANCE, DETECTOR = 8e3, 2.0, (50e-6, 75e-6)
SCAN = simulate_scan(
    make_object("grf", 72, 0),
    make_probe("zoneplate", 32),
    make_positions("grid", (72, 72), 32, step=8.0, seed=1),
    photons=1e4,
)
PIXEL = object_pixel(ENERGY, DISTANCE, DETECTOR, 32)
METRES = SCAN.positions * PIXEL + np.array([1e-5, -2e-5])
COUNTS = np.rint(SCAN.frames**2).astype(np.int32)


@pytest.fixture(autouse=True, params=["in memory", "in the file"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small scans are read at once, large ones stay in the file: everything holds for both."""
    if request.param == "in the file":
        monkeypatch.setattr("ptycho_torch.scan.intake.memory_limit", lambda: 0)
    return str(request.param)


def cxi(path: Path, change: Any = None, sign: int = 1, shape: tuple[int, ...] | None = None) -> Path:
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 160
        detector = "entry_1/instrument_1/detector_1"
        file[f"{detector}/data"] = COUNTS if shape is None else COUNTS.reshape(*shape, 32, 32)
        file[f"{detector}/distance"] = DISTANCE
        file[f"{detector}/x_pixel_size"], file[f"{detector}/y_pixel_size"] = DETECTOR
        file[f"{detector}/mask"] = np.zeros((32, 32), np.uint32)
        file["entry_1/instrument_1/source_1/energy"] = ENERGY * EV
        file["entry_1/instrument_1/source_1/illumination"] = SCAN.probe
        moves = np.zeros((SCAN.n_frames, 3))
        moves[:, :2] = sign * METRES
        file["entry_1/sample_1/geometry_1/translation"] = moves
        file.create_group("entry_1/data_1")["data"] = h5py.SoftLink(f"/{detector}/data")
        if change is not None:
            change(file)
    return path


def ptyd(path: Path, change: Any = None) -> Path:
    with h5py.File(path, "w") as file:
        half = SCAN.n_frames // 2
        for number, part in enumerate((slice(0, half), slice(half, None))):
            group = file.create_group(f"chunks/{number}")
            group["data"], group["positions"] = COUNTS[part], METRES[part, ::-1]
            group["indices"] = np.arange(SCAN.n_frames)[part]
            group["weights"] = np.zeros(0)
        file["meta/energy"], file["meta/distance"] = ENERGY / 1e3, DISTANCE
        file["meta/psize"] = DETECTOR[::-1]
        if change is not None:
            change(file)
    return path


def same(scan: Scan, name: str) -> None:
    assert scan.source.format == name
    assert scan.source.measurement == "counts"
    assert np.allclose(scan.frames[:], SCAN.frames, atol=1e-3)
    moved = scan.positions - SCAN.positions
    assert np.ptp(moved, axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert scan.positions.min(0) == pytest.approx([16, 16])
    assert scan.geometry.metres(scan.positions) == pytest.approx(METRES, abs=1e-12)
    assert scan.geometry.energy_ev == pytest.approx(ENERGY)


def test_cxi(tmp_path: Path) -> None:
    scan = open_scan(cxi(tmp_path / "scan.cxi"))
    same(scan, "cxi")
    assert np.allclose(scan.probe, SCAN.probe)
    assert scan.good_pixels is None


def test_rasters_of_nexus(tmp_path: Path) -> None:
    edge = round(SCAN.n_frames**0.5)
    assert edge**2 == SCAN.n_frames
    scan = open_scan(cxi(tmp_path / "scan.nxs", shape=(edge, edge)))
    same(scan, "cxi")
    some = np.array([7, 3, 20, 3])
    assert np.allclose(scan.frames[some], SCAN.frames[some], atol=1e-3)


def test_translations_of_the_opposite_sign(tmp_path: Path) -> None:
    path = cxi(tmp_path / "scan.cxi", sign=-1)
    same(open_scan(path, format="cxi-turned"), "cxi-turned")
    mirrored = open_scan(path).positions
    assert np.allclose(mirrored + SCAN.positions, (mirrored + SCAN.positions)[0])


@pytest.mark.parametrize(("columns", "rows"), [((-1, 0), (0, -1)), ((1, 0), (0, -1)), ((0, 1), (1, 0))])
def test_the_detector_says_where_its_axes_point(
    tmp_path: Path, columns: tuple[int, int], rows: tuple[int, int]
) -> None:
    """Sample translations in the laboratory are minus those of the illumination."""
    lab = METRES[:, :1] * np.array(columns) + METRES[:, 1:] * np.array(rows)

    def change(file: Any) -> None:
        basis = np.zeros((3, 2))
        basis[:2, 0], basis[:2, 1] = np.array(rows) * DETECTOR[1], np.array(columns) * DETECTOR[0]
        file["entry_1/instrument_1/detector_1/basis_vectors"] = basis
        file["entry_1/sample_1/geometry_1/translation"][:, :2] = -lab

    same(open_scan(cxi(tmp_path / "scan.cxi", change)), "cxi")


def test_cdtools_own_file(tmp_path: Path) -> None:
    """A file that the real program writes, and the pixels that it computes, where it is installed."""
    pytest.importorskip("cdtools")
    import torch
    from cdtools.datasets import Ptycho2DDataset
    from cdtools.tools.initializers import exit_wave_geometry
    from cdtools.tools.interactions import translations_to_pixel

    edge = DETECTOR[0]
    basis = np.array([[0, -edge], [-edge, 0], [0, 0]])
    moves = np.concatenate([METRES, np.zeros((len(METRES), 1))], 1)
    wavelength = PLANCK_LIGHT / ENERGY
    dataset = Ptycho2DDataset(
        moves, COUNTS.astype(np.float32), wavelength=wavelength,
        detector_geometry={"distance": DISTANCE, "basis": basis, "corner": np.array([16 * edge, 16 * edge, DISTANCE])},
        mask=np.ones((32, 32), bool),
    )  # fmt: skip
    dataset.to_cxi(str(tmp_path / "cdtools.cxi"))
    scan = open_scan(tmp_path / "cdtools.cxi", require_probe=False)
    assert np.allclose(scan.frames[:], SCAN.frames, atol=1e-3)
    assert scan.good_pixels is None
    object_basis = exit_wave_geometry(torch.tensor(basis), (32, 32), wavelength, DISTANCE)
    object_basis = object_basis[0] if isinstance(object_basis, tuple) else object_basis
    theirs = translations_to_pixel(object_basis.double(), torch.tensor(moves)).numpy()[:, ::-1]
    assert np.allclose(scan.positions - scan.positions[0], theirs - theirs[0], atol=1e-3)


def test_masks(tmp_path: Path) -> None:
    def change(file: Any) -> None:
        file["entry_1/instrument_1/detector_1/mask"][4, 5] = 1

    scan = open_scan(cxi(tmp_path / "scan.cxi", change))
    assert not scan.good_pixels[4, 5]
    assert scan.good_pixels.sum() == 32 * 32 - 1


@pytest.mark.parametrize("measurement", ["amplitude", "counts"])
def test_cxi_round_trip(tmp_path: Path, measurement: str) -> None:
    geometry = Geometry(ENERGY, DISTANCE, tuple(PIXEL), (1e-5, -2e-5))
    before = dataclasses.replace(SCAN, geometry=geometry)
    write_scan(before, tmp_path / "out.cxi", measurement=measurement)
    after = open_scan(tmp_path / "out.cxi", measurement=measurement)
    assert np.allclose(after.frames[:], before.frames, atol=1e-3)
    assert np.allclose(after.geometry.metres(after.positions), geometry.metres(before.positions), atol=1e-12)
    assert np.allclose(after.probe, before.probe)
    assert after.geometry.pixel_m == pytest.approx(geometry.pixel_m)


def test_cxi_needs_metres(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"metres.*geometry"):
        write_scan(SCAN, tmp_path / "out.cxi")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "key",
    [
        "entry_1/sample_1/geometry_1/translation",
        "entry_1/instrument_1/detector_1/distance",
        "entry_1/instrument_1/source_1/energy",
    ],
)
def test_what_cxi_lacks_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ScanError, match=key.rsplit("/", 1)[-1]):
        open_scan(cxi(tmp_path / "x.cxi", lambda file: file.__delitem__(key)))


def test_ptyd(tmp_path: Path) -> None:
    path = ptyd(tmp_path / "scan.ptyd")
    scan = open_scan(path, probe=SCAN.probe)
    same(scan, "ptyd")
    index = np.array([SCAN.n_frames - 1, 0, SCAN.n_frames // 2])
    assert np.allclose(scan.frames[index], SCAN.frames[index], atol=1e-3)
    with pytest.raises(ScanError, match="probe"):
        open_scan(path)
    assert open_scan(path, require_probe=False).probe is None


def test_weights_of_ptyd(tmp_path: Path) -> None:
    def weights(file: Any) -> None:
        file["meta/weight2d"] = np.pad(np.ones((31, 32)), ((1, 0), (0, 0)))

    scan = open_scan(ptyd(tmp_path / "a.ptyd", weights), require_probe=False)
    assert not scan.good_pixels[0].any()
    assert scan.good_pixels[1:].all()


@pytest.mark.parametrize("key", ["meta/energy", "chunks/1/positions", "meta/psize"])
def test_what_ptyd_lacks_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ScanError, match=key):
        open_scan(ptyd(tmp_path / "x.ptyd", lambda file: file.__delitem__(key)), require_probe=False)


def test_pixels_and_metres() -> None:
    assert PIXEL[0] == pytest.approx(PLANCK_LIGHT / ENERGY * DISTANCE / (32 * DETECTOR[0]))
    pixels, geometry = metres_to_pixels(METRES, ENERGY, DISTANCE, DETECTOR, 32)
    assert np.allclose(geometry.metres(pixels), METRES, atol=1e-15)


def test_ptychodus_own_cxi(tmp_path: Path) -> None:
    """A file that the real program writes, where it is installed."""
    pytest.importorskip("ptychodus")
    from ptychodus.api.io import load_product
    from ptychodus.plugins.cxi_file import CXIProductFileIO

    from ptycho_torch.scan.product import Product, write_product

    geometry = Geometry(ENERGY, DISTANCE, tuple(PIXEL), (1e-5, -2e-5))
    product = Product.of(SCAN.object_guess, (0, 0), SCAN.positions, SCAN.probe, geometry)
    write_product(product, tmp_path / "product.h5")
    CXIProductFileIO().write(tmp_path / "product.cxi", load_product(tmp_path / "product.h5"))
    with h5py.File(tmp_path / "product.cxi", "r+") as file:  # its other half: frames and detector
        file["entry_1/instrument_1/detector_1/data"] = COUNTS
        file["entry_1/instrument_1/detector_1/x_pixel_size"] = DETECTOR[0]
        file["entry_1/instrument_1/detector_1/y_pixel_size"] = DETECTOR[1]
    same(open_scan(tmp_path / "product.cxi"), "cxi")


def test_a_file_of_no_format_is_told_where_to_go(tmp_path: Path) -> None:
    """Several formats have this suffix; none of them claims to know what is wrong with the content."""
    with h5py.File(tmp_path / "mystery.h5", "w") as file:
        file["exp/frames"] = np.ones((3, 8, 8), np.uint16)
    with pytest.raises(ScanError, match=r"not a scan file of a known format .*A file that no format fits"):
        open_scan(tmp_path / "mystery.h5")


def test_frames_of_ptychodus_without_their_product(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "diffraction.h5", "w") as file:
        file["patterns"], file["indexes"] = np.ones((3, 8, 8), np.uint16), np.arange(3)
    with pytest.raises(ScanError, match=r"product\.h5: no such file, .* --positions-file"):
        open_scan(tmp_path / "diffraction.h5")
