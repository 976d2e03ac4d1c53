"""The real ptychodus application with this package in the place of the TensorFlow program."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from skimage.registration import phase_cross_correlation
from small import correlation

from ptycho_torch.physics.units import amplitude_normalisation, normalise_probe
from ptycho_torch.scan import open_scan
from ptycho_torch.scan.product import HALF_PIXEL, Product, read_product, write_product
from ptycho_torch.solvers import RefineOptions
from ptycho_torch.solvers.epie import refine

pytestmark = [
    pytest.mark.ptychodus,
    pytest.mark.skipif(
        importlib.util.find_spec("ptychodus") is None,
        reason="ptychodus is not installed: pip install '.[ptychodus]'",
    ),
]
ENERGY, DISTANCE, DETECTOR_PIXEL = 8.8e3, 1.92, 75e-6
PIXEL = (1.2398e-6 / ENERGY * DISTANCE / (64 * DETECTOR_PIXEL),) * 2
"""wavelength x distance / (N x detector pixel), metres: what ptychodus expects of an object."""


def drive(action: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("drive_ptychodus.py")), action, str(folder)],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


@pytest.fixture(scope="module")
def folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The middle of the star, as ptychodus stores a measurement, with an empty object."""
    where = tmp_path_factory.mktemp("ptychodus")
    scan = open_scan(shared / "data" / "siemens_star_aps.npz", crop=64)  # a quarter of the work
    middle = np.argsort(np.sum((scan.positions - np.median(scan.positions, 0)) ** 2, 1))[:64]
    scan = scan.select(np.sort(middle))
    edge = int(np.ceil(np.ptp(scan.positions, axis=0).max())) + scan.N + 2
    centre = np.array([4e-6, -3e-6])
    middle_px = (scan.positions.min(0) + scan.positions.max(0)) / 2
    product = Product(
        positions_m=(scan.positions - middle_px) * PIXEL + centre,
        indexes=np.arange(scan.n_frames),
        probe=scan.probe[None],
        object=np.ones((1, edge, edge), np.complex64),
        pixel_m=PIXEL,
        centre_m=tuple(centre),
        numbers={
            "detector_object_distance_m": DISTANCE,
            "photon_energy_eV": ENERGY,
            "probe_photon_count": 1e6,
        },
    )
    write_product(product, where / "product.h5")
    with h5py.File(where / "diffraction.h5", "w") as file:
        patterns = file.create_dataset(
            "patterns", data=np.rint(scan.frames**2).astype(np.int32), compression="lzf"
        )
        patterns.attrs["detector_pixel_width_m"] = patterns.attrs["detector_pixel_height_m"] = DETECTOR_PIXEL
        file["indexes"] = np.arange(scan.n_frames)
        file["bad_pixels"] = np.zeros((scan.N, scan.N), bool)
    return where


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_trains_saves_reopens_and_reconstructs(folder: Path) -> None:
    assert importlib.metadata.version("ptychodus").startswith("1.7")
    drive("train", folder)
    assert {"wts.h5.zip", "reconstructed_amplitude.png", "reconstructed_phase.png"} <= {
        p.name for p in (folder / "trained").iterdir()
    }
    drive("reconstruct", folder)

    before, after = read_product(folder / "product.h5"), read_product(folder / "out.000000.h5")
    assert after.object.shape == before.object.shape
    assert np.allclose(after.centre_m, before.centre_m, atol=1e-12)
    assert np.allclose(after.positions_px, before.positions_px, atol=1e-6)
    assert np.array_equal(read_product(folder / "again.h5").object, after.object)

    # The same frames by an iterative solver: the same star, in the same place.
    scan = open_scan(folder / "diffraction.h5")
    frames = scan.frames[:] * np.float32(amplitude_normalisation(scan.frames))
    direct = refine(frames, scan.positions, normalise_probe(scan.probe), RefineOptions(sweeps=30))
    x, y = direct.origin_xy.astype(int)
    near = slice(scan.N // 2, -scan.N // 2)
    star = direct.object[near, near]
    left, top = x + scan.N // 2, y + scan.N // 2
    found = after.object[0, top : top + star.shape[0], left : left + star.shape[1]]
    here = correlation(found, star)
    assert here > 0.95
    shift = phase_cross_correlation(star, found, upsample_factor=50)[0]
    assert np.abs(shift).max() < 0.25


def test_ptychodus_reads_what_we_write_in_the_same_place(folder: Path) -> None:
    from ptychodus.api.interpolate import BarycentricArrayInterpolator
    from ptychodus.api.io import load_product, save_product
    from ptychodus.api.object import ObjectPosition

    ours = read_product(folder / "product.h5")
    theirs = load_product(folder / "product.h5")
    geometry = theirs.object_.get_geometry()
    for axis, convert in enumerate(
        (geometry.map_probe_positions_to_object_x_px, geometry.map_probe_positions_to_object_y_px)
    ):
        # They count from the middle of a patch, we from its pixel N/2.
        assert np.allclose(convert(theirs.probe_positions) + 0.5, ours.positions_px[:, axis], atol=1e-6)
    save_product(folder / "theirs.h5", theirs)
    back = read_product(folder / "theirs.h5")
    assert np.array_equal(back.object, ours.object)
    assert np.array_equal(back.probe, ours.probe)
    assert np.allclose(back.positions_m, ours.positions_m)
    # Another object, on another canvas: a mark stays at its position to a tenth of a pixel.
    marked = np.ones((90, 110), np.complex64)
    marked[40, 60] = 5
    origin = np.array([-7.0, 12.0])
    canvas = Product.of(marked, origin, ours.positions_px, ours.probe[0], ours.geometry)
    write_product(canvas, folder / "moved.h5")
    moved = load_product(folder / "moved.h5")
    height, width = moved.object_.get_layer(0).shape
    place, before = moved.object_.get_geometry(), theirs.object_.get_geometry()
    mark = place.map_coordinates_object_to_probe(ObjectPosition(0, 60.0, 40.0))
    there = before.map_coordinates_probe_to_object(mark)
    assert np.abs(np.array([there.x_px, there.y_px]) - (origin + np.array([60, 40]))).max() < 0.1
    assert (height, width) == (90, 110)
    # And what they cut out at a position is what we say lies there.
    theirs_cut = BarycentricArrayInterpolator(moved.object_.get_layer(0))
    patch = theirs_cut.get_patch(60 - HALF_PIXEL, 40 - HALF_PIXEL, 8, 8)
    assert abs(patch[4, 4] - 5) < 1e-5
