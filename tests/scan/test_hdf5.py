"""HDF5 files that point outside themselves, rasters that are read in part, and detectors' master files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.errors import ScanError
from ptycho_torch.scan import open_scan
from ptycho_torch.scan.h5frames import H5Frames, _fill
from ptycho_torch.scan.hdf5 import opened, read_array
from ptycho_torch.scan.positions import read_positions

RNG = np.random.default_rng(4)
COUNTS = RNG.poisson(30, (12, 8, 8)).astype(np.uint16)
PLACES = RNG.uniform(0, 40, (12, 2))
PROBE = np.ones((8, 8), np.complex64)


def training_file(path: Path, change: Callable[[Any], None] = lambda file: None) -> Path:
    """A scan whose every part may be replaced."""
    with h5py.File(path, "w") as file:
        file["patterns"], file["probe"] = COUNTS, PROBE
        file["probe_position_x_px"], file["probe_position_y_px"] = PLACES.T
        change(file)
    return path


def replaced(name: str, make: Callable[[Any], Any]) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        del file[name]
        found = make(file)
        if found is not None:
            file[name] = found

    return change


def link_to(filename: str, inner: str = "/frames") -> Callable[[Any], Any]:
    return lambda file: h5py.ExternalLink(filename, inner)


def virtual(
    filename: str, name: str = "patterns", shape: tuple[int, ...] = (12, 8, 8)
) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        del file[name]
        layout = h5py.VirtualLayout(shape, COUNTS.dtype)
        layout[:] = h5py.VirtualSource(filename, "/frames", shape)
        file.create_virtual_dataset(name, layout)

    return change


def raw(filename: str) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        del file["probe"]
        file.create_dataset("probe", (8, 8), np.uint8, external=[(filename, 0, 64)])

    return change


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of the scan, with a data file in it and a secret beside it."""
    folder = tmp_path / "scan"
    folder.mkdir()
    for place in (folder / "data.h5", tmp_path / "secret.h5"):
        with h5py.File(place, "w") as file:
            file["frames"] = COUNTS
    (tmp_path / "secret.txt").write_bytes(b"a password of exactly sixty-four letters, and then some" * 4)
    (folder / "near.txt").write_bytes(bytes(256))
    return folder


OUTSIDE = {
    "link": replaced("patterns", link_to("data.h5")),
    "soft link to a link": replaced(
        "patterns",
        lambda file: [
            file.__setitem__("other", h5py.ExternalLink("data.h5", "/frames")),
            h5py.SoftLink("/other"),
        ][1],
    ),
    "link on the way": replaced(
        "patterns",
        lambda file: [
            file.__setitem__("there", h5py.ExternalLink("data.h5", "/")),
            h5py.SoftLink("there/frames"),
        ][1],
    ),
    "virtual": virtual("data.h5"),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_data_in_the_same_folder_needs_to_be_allowed(data: Path, kind: str) -> None:
    path = training_file(data / "scan.h5", OUTSIDE[kind])
    with pytest.raises(ScanError, match=r"scan\.h5: .*another file, data\.h5; .*--external-data") as caught:
        open_scan(path)
    assert "\n" not in str(caught.value)
    scan = open_scan(path, external=True)
    np.testing.assert_array_equal(scan.frames[:], np.sqrt(COUNTS.astype(np.float32)))
    # The hash is that of all data: other frames, another measurement.
    with h5py.File(data / "data.h5", "r+") as file:
        file["frames"][0, 0, 0] += 1
    assert open_scan(path, external=True).source.sha256 != scan.source.sha256


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize(
    "filename", ["../secret.h5", "{absolute}", "sub/../data.h5", "missing.h5", "link.h5"]
)
@pytest.mark.parametrize("kind", ["link", "virtual"])
def test_other_folders_are_never_read(data: Path, kind: str, filename: str, allowed: bool) -> None:
    name = filename.format(absolute=data.parent / "secret.h5")
    (data / "link.h5").symlink_to(data.parent / "secret.h5")
    (data / "sub").mkdir()
    change = virtual(name) if kind == "virtual" else replaced("patterns", link_to(name))
    path = training_file(data / "scan.h5", change)
    with pytest.raises(ScanError, match=r"scan\.h5: /patterns"):
        open_scan(path, external=allowed)


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("filename", ["../secret.txt", "near.txt"])
def test_raw_storage_in_another_file_is_never_read(
    data: Path, filename: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    path = training_file(data / "scan.h5", raw(filename))
    with pytest.raises(
        ScanError, match=r"/probe: expected data in an HDF5 file, found raw storage in another file"
    ):
        open_scan(path, external=allowed)
    # Nor by way of a file that is allowed.
    os.rename(path, data / "inner.h5")  # noqa: PTH104
    outer = training_file(data / "outer.h5", replaced("probe", link_to("inner.h5", "/probe")))
    with pytest.raises(ScanError, match="another file"):
        open_scan(outer, external=allowed)


def test_a_virtual_set_is_checked_to_the_last_file(data: Path) -> None:
    """A file beside it that points away in turn; and a circle, in which the library would get lost."""
    training_file(
        data / "middle.h5",
        lambda file: file.__setitem__("frames", h5py.ExternalLink("../secret.h5", "/frames")),
    )
    path = training_file(data / "scan.h5", virtual("middle.h5"))
    with pytest.raises(ScanError, match=r"frames: expected data files in the same folder"):
        open_scan(path, external=True)

    def turn(file: Any) -> None:
        layout = h5py.VirtualLayout((12, 8, 8), COUNTS.dtype)
        layout[:] = h5py.VirtualSource("circle.h5", "/patterns", (12, 8, 8))
        del file["patterns"]
        file.create_virtual_dataset("patterns", layout)

    circle = training_file(data / "circle.h5", turn)
    with pytest.raises(ScanError, match="contains itself"):
        open_scan(circle, external=True)


def test_links_in_a_circle_end(data: Path) -> None:
    path = training_file(data / "scan.h5", replaced("probe", lambda file: h5py.SoftLink("/probe")))
    with pytest.raises(ScanError, match="links on the way"):
        open_scan(path)


def test_links_inside_the_file_are_followed(data: Path) -> None:
    def change(file: Any) -> None:
        file.move("patterns", "entry/data/frames")
        file["entry/alias"] = h5py.SoftLink("data/./frames")
        file["patterns"] = h5py.SoftLink("/entry/alias")

    assert open_scan(training_file(data / "scan.h5", change)).n_frames == 12


def test_links_elsewhere_do_no_harm(data: Path) -> None:
    """Beamline files link to all sorts of other detectors: only what is read has to be inside."""
    path = training_file(
        data / "scan.h5", lambda file: file.__setitem__("camera", h5py.ExternalLink("/dev/zero", "/x"))
    )
    assert open_scan(path).n_frames == 12


@pytest.mark.parametrize("where", ["scan", "probe", "positions"])
def test_pipes_and_devices_are_not_opened(data: Path, where: str) -> None:
    path, pipe = training_file(data / "scan.h5"), data / "pipe.h5"
    os.mkfifo(pipe)
    with pytest.raises(
        ScanError,
        match=r"pipe\.h5: (expected a scan file, found a device or pipe|not found, or not a regular file)",
    ):
        open_scan(pipe) if where == "scan" else open_scan(path, **{where: pipe})  # type: ignore[arg-type]
    linked = training_file(data / "linked.h5", replaced("patterns", link_to("pipe.h5")))
    with pytest.raises(ScanError, match=r"data file pipe\.h5"):
        open_scan(linked, external=True)


# ---------------------------------------------------------------- what a file claims


def test_a_small_file_that_claims_gigabytes(data: Path) -> None:
    def change(file: Any) -> None:
        del file["probe_position_x_px"]
        file.create_dataset(
            "probe_position_x_px", (1 << 29,), np.float64, chunks=(1 << 16,), compression="gzip"
        )

    path = training_file(data / "scan.h5", change)
    assert path.stat().st_size < 200_000
    with pytest.raises(ScanError, match=r"probe_position_x_px: would take 4"):
        open_scan(path)


def test_frames_that_claim_gigabytes_each(data: Path) -> None:
    def change(file: Any) -> None:
        del file["patterns"], file["probe"]
        file.create_dataset(
            "patterns", (12, 1 << 15, 1 << 15), np.uint16, chunks=(1, 64, 1 << 15), compression="gzip"
        )

    path = training_file(data / "scan.h5", change)
    with pytest.raises(ScanError, match=r"patterns: would take"):
        open_scan(path, require_probe=False)


# ---------------------------------------------------------------- frames that are asked for


class Recorder:
    """A data set that says which frames were read."""

    def __init__(self, values: np.ndarray, chunks: tuple[int, ...] | None) -> None:
        self.values, self.chunks, self.ndim, self.shape = values, chunks, values.ndim, values.shape
        self.read = np.zeros(values.shape[:-2], int)

    def __getitem__(self, key: Any) -> np.ndarray:
        self.read[key[: self.ndim - 2]] += 1
        return self.values[key]


@given(
    st.lists(st.integers(0, 29), min_size=1, max_size=30, unique=True),
    st.sampled_from([(30,), (5, 6)]),
    st.sampled_from([None, 1, 4]),
)
@settings(deadline=None)
def test_only_frames_that_are_asked_for_are_read(
    places: list[int], shape: tuple[int, ...], chunk: int | None
) -> None:
    values = np.arange(30 * 16).reshape(*shape, 4, 4)
    chunks = None if chunk is None else (*(1,) * (len(shape) - 1), chunk, 4, 4)
    data, wanted = Recorder(values, chunks), np.sort(np.array(places, np.int64))
    out = np.empty((len(wanted), 2, 4), values.dtype)
    _fill(out, data, wanted, (slice(1, 3), slice(0, 4)))
    np.testing.assert_array_equal(out, values.reshape(30, 4, 4)[wanted, 1:3])
    read = np.flatnonzero(data.read.reshape(-1))
    assert data.read.max() == 1
    if chunk in (None, 1):
        np.testing.assert_array_equal(read, wanted)
    else:  # no more than the chunks that have to be unpacked anyway
        assert set(read % shape[-1] // chunk + 100 * (read // shape[-1])) <= set(
            wanted % shape[-1] // chunk + 100 * (wanted // shape[-1])
        )


def test_pieces_of_a_file_in_any_order(tmp_path: Path) -> None:
    values = RNG.random((5, 6, 4, 4)).astype(np.float32)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["a"], file["b"] = values, values[:, 0] + 1
    frames = H5Frames(tmp_path / "f.h5", ("a", "b"))
    whole = np.concatenate([values.reshape(-1, 4, 4), values[:, 0] + 1])
    index = np.array([34, 3, 3, 29, 0, 31, 17])
    np.testing.assert_array_equal(frames[index], whole[index])
    np.testing.assert_array_equal(frames.in_memory()[:], whole)
    assert frames.chunk >= 1
    np.testing.assert_allclose(frames.power, np.square(whole.astype(float)).sum((1, 2)))


# ---------------------------------------------------------------- master files

LAMBDA, DISTANCE, PIXEL = 1.24, 2.0, 75e-6


def eiger(folder: Path, layout: str) -> Path:
    """A master file as the detector writes it: 12 frames of 12 x 18 pixels in three files, a beam off the middle."""
    frames = np.zeros((12, 12, 18), np.uint32)
    frames[:, 1:9, 3:11] = COUNTS  # the beam is in row 5, column 7
    for number in range(3):
        with h5py.File(folder / f"run_data_{number + 1:06d}.h5", "w") as file:
            file.create_dataset(
                "entry/data/data", data=frames[4 * number : 4 * number + 4], chunks=(1, 12, 18)
            )
    with h5py.File(folder / "run_master.h5", "w") as file:
        names = [f"run_data_{number:06d}.h5" for number in (1, 2, 3)]
        if layout == "links":
            for number, name in enumerate(names, 1):
                file[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
        else:
            whole = h5py.VirtualLayout((12, 12, 18), np.uint32)
            for number, name in enumerate(names):
                whole[4 * number : 4 * number + 4] = h5py.VirtualSource(name, "/entry/data/data", (4, 12, 18))
            file.create_virtual_dataset("entry/data/data", whole)
        detector = file.create_group("entry/instrument/detector")
        detector["x_pixel_size"] = detector["y_pixel_size"] = PIXEL
        detector["detector_distance"], detector["beam_center_x"], detector["beam_center_y"] = (
            DISTANCE,
            7.2,
            4.9,
        )
        mask = np.zeros((12, 18), np.uint32)
        mask[3, 5] = 1
        detector["detectorSpecific/pixel_mask"] = mask
        file["entry/instrument/beam/incident_wavelength"] = LAMBDA
    np.savetxt(folder / "positions.csv", 1e-6 * PLACES, delimiter=",", header="x_m,y_m")
    return folder / "run_master.h5"


@pytest.mark.parametrize("layout", ["links", "virtual"])
def test_a_master_file_is_one_scan(tmp_path: Path, layout: str) -> None:
    path = eiger(tmp_path, layout)
    asked: Any = {"positions": tmp_path / "positions.csv", "crop": 8, "require_probe": False}
    with pytest.raises(ScanError, match="--external-data"):
        open_scan(path, **asked)
    scan = open_scan(path, external=True, **asked)
    assert scan.source.format == "eiger"
    expected = np.sqrt(COUNTS.astype(np.float32))
    expected[:, 2, 2] = 0
    np.testing.assert_array_equal(scan.frames[:], expected)
    assert not scan.good_pixels[2, 2]
    assert scan.good_pixels.sum() == 63
    np.testing.assert_allclose(scan.geometry.metres(scan.positions), 1e-6 * PLACES, atol=1e-13)
    assert scan.geometry.pixel_m[0] == pytest.approx(LAMBDA * 1e-10 * DISTANCE / (8 * PIXEL), rel=1e-5)
    with pytest.raises(ScanError, match=r"square.*--crop"):
        open_scan(path, external=True, **{**asked, "crop": None})
    with pytest.raises(ScanError, match=r"positions: .*--positions-file"):
        open_scan(path, external=True, **{**asked, "positions": None})


# ---------------------------------------------------------------- positions of their own


@pytest.mark.parametrize(
    ("name", "metres"),
    [
        ("p.npz", False),
        ("px.h5", False),
        ("m.h5", True),
        ("cxi.h5", True),
        ("p.csv", False),
        ("m.csv", True),
        ("p.txt", False),
    ],
)
def test_positions_out_of_a_second_file(tmp_path: Path, name: str, metres: bool) -> None:
    path = tmp_path / name
    if name == "p.npz":
        np.savez(path, xcoords=PLACES[:, 0], ycoords=PLACES[:, 1])
    elif name.endswith(".h5"):
        with h5py.File(path, "w") as file:
            if name == "cxi.h5":
                file["entry_1/data_1/translation"] = np.pad(PLACES, ((0, 0), (0, 1)))
            else:
                unit, shift = ("m", 0) if metres else ("px", 0.5)
                for axis, values in zip("xy", PLACES.T - shift, strict=True):
                    file[f"probe_position_{axis}_{unit}"] = values
    else:
        header = {"p.csv": "x,y", "m.csv": "x_m, y_m, time", "p.txt": ""}[name]
        np.savetxt(path, np.pad(PLACES, ((0, 0), (0, 1))), delimiter=" " if name == "p.txt" else ",",
                   header=header, comments="" if name == "m.csv" else "# ")  # fmt: skip
    found, unit_is_metres = read_positions(path)
    np.testing.assert_allclose(found, PLACES, rtol=1e-12)
    assert unit_is_metres == metres


def test_they_replace_those_of_the_scan(tmp_path: Path) -> None:
    path = training_file(tmp_path / "scan.h5", lambda file: file.__delitem__("probe_position_x_px"))
    np.savetxt(tmp_path / "p.txt", PLACES)
    found = open_scan(path, format="ptychodus-training", positions=str(tmp_path / "p.txt"))
    np.testing.assert_allclose(found.positions, PLACES)
    np.savetxt(tmp_path / "p.txt", PLACES[:5])
    with pytest.raises(ScanError, match="expected 12 positions, one for each frame, found 5"):
        open_scan(path, format="ptychodus-training", positions=tmp_path / "p.txt")
    np.savetxt(tmp_path / "m.csv", PLACES, delimiter=",", header="x_m,y_m")
    with pytest.raises(ScanError, match=r"m\.csv: expected positions in object pixels"):
        open_scan(path, format="ptychodus-training", positions=tmp_path / "m.csv")


@pytest.mark.parametrize("text", ["", "x,y\n1,2\nnonsense\n", "1\n2\n", "hello world\nand more\n"])
def test_texts_without_positions(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(ScanError, match=r"p\.txt: (.*expected two numbers|holds no positions)"):
        read_positions(tmp_path / "p.txt")


def test_arrays_are_checked_before_they_are_read(tmp_path: Path) -> None:
    with opened(training_file(tmp_path / "scan.h5")) as file:
        with pytest.raises(ScanError, match="expected numbers with 1 axes"):
            read_array(file, "patterns", 1)
        with pytest.raises(ScanError, match=r"nothing: there is no such dataset; there is: patterns"):
            read_array(file, "nothing")
