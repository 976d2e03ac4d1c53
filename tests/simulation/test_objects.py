from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.io import imsave

from ptycho_torch.errors import DataError, ScanError, ScanNotFoundError
from ptycho_torch.simulation.objects import (
    OBJECT_NAMES,
    grf,
    lines,
    load_object,
    make_object,
    siemens,
    transmission,
)


@pytest.mark.parametrize("name", OBJECT_NAMES)
@pytest.mark.parametrize("size", [17, 64])
def test_named_objects(name: str, size: int) -> None:
    obj = make_object(name, size, seed=3)
    assert obj.shape == (size, size)
    assert obj.dtype == np.complex128
    assert np.isfinite(obj).all()
    assert np.abs(obj).std() > 0.01 or size < 32
    np.testing.assert_array_equal(obj, make_object(name, size, seed=3))
    if name != "siemens":
        assert (obj != make_object(name, size, seed=4)).any()


def test_lines_are_the_benchmarks(shared: Path) -> None:
    with np.load(shared / "data" / "lines_check.npz") as check:
        rng = np.random.RandomState(2)
        for wanted in check["test_objects"]:
            obj = lines(392, rng)
            np.testing.assert_allclose(obj.real, wanted, atol=1e-6)
            assert not obj.imag.any()


def test_grf_has_the_moments_it_states() -> None:
    obj = grf(256, np.random.default_rng(0), length=4)
    np.testing.assert_allclose(np.log(np.abs(obj)).std(), 0.15, rtol=1e-6)
    phase = np.unwrap(np.unwrap(np.angle(obj), axis=0), axis=1)
    np.testing.assert_allclose(phase.std(), 0.5, rtol=1e-3)
    longer = grf(256, np.random.default_rng(0), length=16)
    assert np.abs(np.diff(longer)).mean() < 0.5 * np.abs(np.diff(obj)).mean()


def test_siemens_is_one_material_with_soft_edges_and_its_symmetry() -> None:
    obj = siemens(128, spokes=24)
    thickness = -np.log(np.abs(obj)) / 0.3
    np.testing.assert_allclose(obj, transmission(thickness), atol=1e-12)
    assert thickness.min() == 0
    np.testing.assert_allclose(thickness.max(), 1)
    np.testing.assert_allclose(obj, np.rot90(obj), atol=1e-9)
    assert 0.2 < (thickness > 0.5).mean() < 0.4


def test_objects_out_of_files(tmp_path: Path) -> None:
    obj = make_object("grf", 20)
    np.save(tmp_path / "a.npy", obj)
    np.savez(tmp_path / "guess.npz", objectGuess=obj[None], probeGuess=np.ones((4, 4)))
    np.savez(tmp_path / "rec.npz", object=obj)
    for name in ("a.npy", "guess.npz", "rec.npz"):
        np.testing.assert_array_equal(load_object(tmp_path / name), obj)
    grey = (np.arange(24 * 30) % 200).reshape(24, 30).astype(np.uint8)
    for name in ("a.png", "a.tif"):
        imsave(tmp_path / name, grey, check_contrast=False)
        np.testing.assert_allclose(make_object(str(tmp_path / name)), transmission(grey / 199), atol=1e-12)
    imsave(tmp_path / "colour.png", np.repeat(grey[..., None], 3, -1), check_contrast=False)
    np.testing.assert_allclose(load_object(tmp_path / "colour.png"), transmission(grey / 199), atol=1e-12)


def test_files_without_an_object_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ScanNotFoundError, match="object: expected one of lines, siemens, grf or a file, found 'starr'"
    ):
        make_object("starr")
    with pytest.raises(ScanNotFoundError, match="not found, or not a regular file"):
        load_object(tmp_path / "none.npy")
    np.savez(tmp_path / "x.npz", x=np.ones(3))
    with pytest.raises(ScanError, match="objectGuess or object: expected one of them"):
        load_object(tmp_path / "x.npz")
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(ScanError, match=r"object: expected finite numbers \(H, W\)"):
        load_object(tmp_path / "x.npy")
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ScanError, match="pickled Python objects"):
        load_object(tmp_path / "pickle.npy")
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(ScanError, match="picture"):
        load_object(tmp_path / "x.png")
    imsave(tmp_path / "flat.png", np.zeros((8, 8), np.uint8), check_contrast=False)
    with pytest.raises(ScanError, match="contrast"):
        load_object(tmp_path / "flat.png")
    with pytest.raises(DataError, match="size"):
        make_object("lines", 3)
