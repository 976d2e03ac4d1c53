"""Frames that are mostly zeros: an honest scan of few photons is read, a file that would fill the memory is not."""

from __future__ import annotations

import doctest
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from peak import MIB, peak
from ptycho_torch.errors import ScanError
from ptycho_torch.files import archive
from ptycho_torch.files.memory import RATIO, MemoryBudget
from ptycho_torch.scan import hdf5, intake, open_scan, sparse


@pytest.fixture
def small_floor(monkeypatch: pytest.MonkeyPatch) -> int:
    """What any file may make, made so small that a small file is enough to go past it."""
    floor = 1 << 20
    for module in (archive, hdf5):
        monkeypatch.setattr(module, "MemoryBudget", partial(MemoryBudget, floor=floor))
    monkeypatch.setattr(intake, "FLOOR", floor)
    return floor


def sparse_counts(count: int = 300, size: int = 128, photons: int = 30) -> np.ndarray:
    """So few photons that the frames compress more than a hundred times."""
    return np.random.default_rng(0).poisson(photons / size**2, (count, size, size)).astype(np.uint32)


@pytest.mark.parametrize("order", ["frames first", "frames last", "Fortran"])
def test_an_honest_scan_of_few_photons_is_read(tmp_path: Path, small_floor: int, order: str) -> None:
    counts = sparse_counts()
    rng = np.random.default_rng(1)
    stored = counts.transpose(1, 2, 0) if order == "frames last" else counts
    stored = np.asfortranarray(stored) if order == "Fortran" else np.ascontiguousarray(stored)
    path, (x, y) = tmp_path / "few.npz", rng.uniform(0, 90, (2, 300))
    np.savez_compressed(path, diff3d=stored, xcoords=x, ycoords=y, probeGuess=np.ones((128, 128)))
    assert counts.nbytes > small_floor + RATIO * path.stat().st_size
    scan = open_scan(path)
    assert scan.counts_known
    for part in (slice(0, 3), [299, 7, 7], slice(90, 100)):
        np.testing.assert_allclose(np.square(scan.frames[part]), counts[part], rtol=1e-6)
    np.testing.assert_allclose(scan.frames.power, counts.sum((1, 2)))
    assert scan.select(slice(5, 9)).mean_power == counts[5:9].sum((1, 2)).mean()
    np.testing.assert_array_equal(
        open_scan(path, crop=64).frames[3], np.sqrt(counts[3, 32:96, 32:96], dtype=np.float32)
    )


BOMBS = {
    "zeros": lambda: np.zeros((600, 256, 256), np.uint16),
    "ones": lambda: np.ones((600, 256, 256), np.uint16),
    "one photon in the first frame": lambda: np.pad([[[1]]], ((0, 599), (0, 255), (0, 255))).astype(np.uint16),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_frames_that_unpack_without_end_take_no_memory(tmp_path: Path, name: str) -> None:
    positions = np.random.default_rng(0).uniform(0, 90, (2, 600))
    path = tmp_path / "bomb.npz"
    x, y = positions
    np.savez_compressed(path, diff3d=BOMBS[name](), xcoords=x, ycoords=y, probeGuess=np.eye(256))
    found = peak(
        "from ptycho_torch.scan import open_scan; import numpy",
        "scan = open_scan(args[0]); result = scan.n_frames",
        path,
    )
    assert found.within(path.stat().st_size), f"{found.grown / MIB:.0f} MiB"
    if name == "one photon in the first frame":
        assert found.text == "600"  # there is nothing wrong with it, and it takes no room
    else:
        assert found.error == "ScanError"
        assert "\n" not in found.text


def test_examples() -> None:
    assert doctest.testmod(sparse).failed == 0


def test_few_photons_in_a_file_that_stays_a_file(tmp_path: Path, small_floor: int) -> None:
    """All frames of an HDF5 file at once are the reader's wish, not the file's claim."""
    counts = sparse_counts(photons=5)
    path = tmp_path / "few.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("patterns", data=counts, chunks=(100, 128, 128), compression="gzip")
        x, y = np.random.default_rng(1).uniform(0, 90, (2, 300))
        file["probe_position_x_px"], file["probe_position_y_px"], file["probe"] = x, y, np.ones((128, 128))
    assert counts.nbytes > small_floor + RATIO * path.stat().st_size
    scan = open_scan(path)
    np.testing.assert_allclose(np.square(np.asarray(scan.frames)), counts, rtol=1e-6)


def test_dense_frames_that_are_too_many_for_the_file_are_refused_with_advice(
    tmp_path: Path, small_floor: int
) -> None:
    frames = np.tile(np.arange(1, 129, dtype=np.uint32), (300, 128, 1))
    x, y = np.random.default_rng(1).uniform(0, 90, (2, 300))
    np.savez_compressed(tmp_path / "same.npz", diff3d=frames, xcoords=x, ycoords=y, probeGuess=np.eye(128))
    with pytest.raises(ScanError, match=r"diff3d: would take .*; if it is genuine, store it uncompressed"):
        open_scan(tmp_path / "same.npz")
