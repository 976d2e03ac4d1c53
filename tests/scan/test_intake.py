"""One place where files are interpreted: the same answer for every format."""

from __future__ import annotations

import dataclasses
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError
from ptycho_torch.scan import FORMATS, ScanFormat, check_content, format_names, open_scan
from ptycho_torch.scan.facts import Cut
from ptycho_torch.scan.frames import ArrayFrames, FrameSource
from ptycho_torch.scan.intake import Found, Request, scan_of
from ptycho_torch.scan.optics import cut_probe
from ptycho_torch.scan.scan import Scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.simulation.simulate import diffract

RNG = np.random.default_rng(5)
PLACES = RNG.uniform(0, 40, (9, 2))
FORMS = ["npz", "cxi", "ptyd", "ptychodus-training"]


def written(path: Path, form: str, frames: NDArray[Any]) -> Path:
    """The same measurement as each format lays it out."""
    path = path / "scan"
    if form == "npz":
        np.savez(path.with_suffix(".npz"), diff3d=frames, xcoords=PLACES[:, 0], ycoords=PLACES[:, 1])
        return path.with_suffix(".npz")
    with h5py.File(path, "w") as file:
        if form == "ptychodus-training":
            file["patterns"] = frames
            file["probe_position_x_px"], file["probe_position_y_px"] = PLACES.T
        elif form == "ptyd":
            file["chunks/0/data"], file["chunks/0/positions"] = frames, 1e-6 * PLACES
            file["meta/energy"], file["meta/distance"], file["meta/psize"] = 8.0, 1.0, 75e-6
        else:
            detector = file.create_group("entry_1/instrument_1/detector_1")
            detector["data"], detector["distance"] = frames, 1.0
            detector["x_pixel_size"] = detector["y_pixel_size"] = 75e-6
            file["entry_1/instrument_1/source_1/energy"] = 1.3e-15
            file["entry_1/data_1/translation"] = 1e-6 * PLACES
    return path


CASES = [
    (np.full((9, 8, 8), 3, np.uint16), "auto", "counts", True),
    (np.full((9, 8, 8), 3, np.float32), "auto", "counts", True),
    (np.full((9, 8, 8), 0.3, np.float32), "auto", "amplitude", False),
    (np.full((9, 8, 8), 3, np.uint8), "amplitude", "amplitude", True),
    (np.full((9, 8, 8), 2.5, np.float64), "counts", "counts", False),
]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("frames", "asked", "kind", "known"), CASES)
def test_every_format_decides_alike(
    tmp_path: Path,
    form: str,
    frames: NDArray[Any],
    asked: str,
    kind: str,
    known: bool,
    lazy: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if lazy:
        monkeypatch.setattr("ptycho_torch.scan.intake.memory_limit", lambda: 0)
    if form == "ptyd" and asked == "auto" and kind == "amplitude":
        kind = "counts"  # the format says so, whatever the values look like
    scan = open_scan(written(tmp_path, form, frames), measurement=asked, require_probe=False)
    assert scan.source.format == form
    assert scan.source.measurement == kind
    assert scan.counts_known == known
    expected = np.sqrt(frames.astype(np.float32)) if kind == "counts" else frames
    np.testing.assert_array_equal(scan.frames[:], expected)
    if frames.dtype.kind == "u":
        assert scan.frames.stored_dtype == frames.dtype
    with pytest.raises(ScanError, match="probe"):
        open_scan(written(tmp_path, form, frames))


@pytest.mark.parametrize("lazy", [False, True])
def test_opening_and_measuring_is_one_pass(
    tmp_path: Path, lazy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptycho_torch.scan.h5frames import H5Frames

    read = []
    before = H5Frames.stored

    def stored(self: H5Frames, which: Any) -> NDArray[Any]:
        read.extend(np.atleast_1d(self.which[which]).tolist())
        return before(self, which)

    monkeypatch.setattr(H5Frames, "stored", stored)
    if lazy:
        monkeypatch.setattr("ptycho_torch.scan.intake.memory_limit", lambda: 0)
    scan = open_scan(written(tmp_path, "ptychodus-training", CASES[0][0]), require_probe=False)
    assert scan.counts_known
    assert scan.select([1, 2]).normalisation == pytest.approx(scan.normalisation)
    assert sorted(read) == list(range(9))


# ---------------------------------------------------------------- one clear line


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"frames": np.full((9, 8, 8), 1e-40, np.float32)},
         r"frames: expected amplitudes .* found at most 1e-40; multiply"),
        ({"frames": np.full((9, 8, 8), 1e30, np.float32)},
         r"frames: expected amplitudes .* found at most 1e\+30; multiply"),
        ({"positions": np.full((9, 2), 7.0)}, r"positions: expected positions that differ, found 9 times \(7, 7\)"),
        ({"positions": 1e-6 * np.mgrid[:3, :3].reshape(2, -1).T},
         r"look like metres; .* 1\.0e-06 m would make steps of 1 pixel"),
        ({"positions": 1e12 * PLACES}, r"positions: expected object pixels, found positions over \d"),
    ],
)  # fmt: skip
def test_what_makes_an_empty_picture_is_said(changes: dict[str, Any], says: str) -> None:
    parts = {"frames": np.ones((9, 8, 8), np.float32), "positions": PLACES}
    with pytest.raises(ScanError, match=says) as caught:
        check_content(Scan(**{**parts, **changes}))
    assert "\n" not in str(caught.value)


def test_one_frame_needs_no_spread() -> None:
    check_content(Scan(np.ones((1, 8, 8), np.float32), np.zeros((1, 2))))


# ---------------------------------------------------------------- crop and bin

SCAN = simulate_scan(
    make_object("grf", 96, 0), make_probe("zoneplate", 32), make_positions("grid", (96, 96), 32, step=8.0, seed=1),
    photons=1e5,
)  # fmt: skip


def opened(folder: Path, **options: Any) -> Scan:
    arrays = {
        "diff3d": np.rint(np.square(SCAN.frames, dtype=float)).astype(np.uint32),
        "xcoords": SCAN.positions[:, 0],
        "ycoords": SCAN.positions[:, 1],
        "probeGuess": SCAN.probe,
        "objectGuess": SCAN.object_guess,
    }
    np.savez(folder / "scan.npz", **arrays)
    return open_scan(folder / "scan.npz", **options)


def test_crop_and_bin_take_everything_along(tmp_path: Path) -> None:
    whole, counts = opened(tmp_path), np.square(SCAN.frames, dtype=float)
    cropped, binned, both = (
        opened(tmp_path, **o) for o in ({"crop": 24}, {"bin": 2}, {"crop": 24, "bin": 2})
    )
    np.testing.assert_allclose(cropped.frames**2, counts[:, 4:28, 4:28], rtol=1e-5)
    sums = counts.reshape(-1, 16, 2, 16, 2).sum((2, 4))
    np.testing.assert_allclose(binned.frames**2, sums, rtol=1e-5)
    np.testing.assert_allclose(both.frames**2, sums[:, 2:14, 2:14], rtol=1e-5)
    assert all(scan.counts_known for scan in (whole, cropped, binned, both))
    assert [scan.probe.shape[-1] for scan in (cropped, binned, both)] == [24, 16, 12]
    np.testing.assert_allclose(cropped.positions, whole.positions * 24 / 32)
    np.testing.assert_allclose(both.positions, whole.positions * 24 / 32)
    np.testing.assert_allclose(binned.positions, whole.positions)
    np.testing.assert_array_equal(binned.object_guess, whole.object_guess)
    assert cropped.object_guess is None


def test_places_in_metres_stay_where_they_are(tmp_path: Path) -> None:
    path = written(tmp_path, "ptyd", RNG.poisson(9, (9, 24, 24)))
    whole, part = (
        open_scan(path, require_probe=False, **options) for options in ({}, {"crop": 16, "bin": 2})
    )
    assert np.ptp(part.geometry.metres(part.positions) - 1e-6 * PLACES[:, ::-1], axis=0) == pytest.approx(
        0, abs=1e-12
    )
    assert part.geometry.pixel_m[0] == pytest.approx(whole.geometry.pixel_m[0] * 24 / 16)


def test_a_cut_probe_predicts_the_cut_counts() -> None:
    """Through an empty object: cutting the spectrum is exact; binning is where the probe fits the smaller field."""
    probe = make_probe("zoneplate", 32).astype(np.complex64)
    probe = probe[None] if probe.ndim == 2 else probe
    counts = diffract(np.ones((1, 32, 32)), probe)[0]
    middle = slice(4, 28)
    cropped = cut_probe(probe, Cut(middle, middle))
    np.testing.assert_allclose(
        diffract(np.ones((1, 24, 24)), cropped)[0], counts[middle, middle], atol=1e-4 * counts.max()
    )
    y, x = np.mgrid[:32, :32] - 16
    narrow = np.exp(-(x**2 + y**2) / 8).astype(np.complex64)[None]
    halved = cut_probe(narrow, Cut(slice(0, 32), slice(0, 32), 2))
    predicted = diffract(np.ones((1, 16, 16)), halved)[0]
    assert predicted.sum() == pytest.approx(diffract(np.ones((1, 32, 32)), narrow)[0].sum(), rel=1e-5)


def test_a_probe_of_the_cuts_own_size_is_taken_as_it_is(tmp_path: Path) -> None:
    mine = np.ones((24, 24), np.complex64)
    np.testing.assert_array_equal(opened(tmp_path, crop=24, probe=mine).probe[0], mine)
    with pytest.raises(ScanError, match="24x24"):
        opened(tmp_path, crop=24, probe=np.ones((20, 20)))


def test_masks_are_cut_and_a_bin_is_as_good_as_its_worst_pixel() -> None:
    bad = np.zeros((12, 12), np.uint8)
    bad[3, 6] = bad[0, 0] = 1
    found = Found(np.ones((2, 12, 12)), PLACES[:2], bad_pixels=bad)
    scan = scan_of(found, "x", "x", Request(require_probe=False, crop=8, bin=2, measurement="counts"))
    # Rows 2 to 9 are left: pixel (3, 6) is (1, 4) of them, in the bin (0, 2); pixel (0, 0) is gone.
    assert np.argwhere(~scan.good_pixels).tolist() == [[0, 2]]
    assert scan.frames[0, 0, 2] == 0
    assert scan.frames[0, 0, 1] == 2


@pytest.mark.parametrize("options", [{"crop": 34}, {"bin": 3}, {"crop": 24, "bin": 5}])
def test_cuts_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ScanError, match=r"scan\.npz: (crop|bin): expected"):
        opened(tmp_path, **options)


def test_odd_and_oblong_frames_can_be_cropped(tmp_path: Path) -> None:
    path = written(tmp_path, "npz", RNG.poisson(9, (9, 11, 13)))
    with pytest.raises(ScanError, match=r"square .*--crop"):
        open_scan(path, require_probe=False)
    scan = open_scan(path, require_probe=False, crop=10)
    assert scan.frames.shape == (9, 10, 10)


# ---------------------------------------------------------------- formats of others


def test_a_format_of_another_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that an entry point names; nothing of ours is edited."""
    (tmp_path / "lines_format.py").write_text(
        "import numpy as np\n"
        "from ptycho_torch.scan import FORMATS, ScanFormat\n"
        "from ptycho_torch.scan.intake import Found\n"
        "@FORMATS.register('lines')\n"
        "class Lines(ScanFormat):\n"
        "    suffixes = ('.lines',)\n"
        "    def recognises(self, path, head):\n"
        "        return head.startswith(b'LINES')\n"
        "    def read(self, path, request):\n"
        "        return Found(np.full((4, 8, 8), 9), np.arange(8.0).reshape(4, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("lines", "lines_format", FORMATS.group)
    monkeypatch.setitem(FORMATS.__dict__, "_others", {"lines": [point]})
    (tmp_path / "a.dat").write_bytes(b"LINES and so on")
    try:
        scan = open_scan(tmp_path / "a.dat", require_probe=False)
    finally:
        FORMATS._items.pop("lines", None)
    assert scan.source.format == "lines"
    assert scan.source.measurement == "counts"
    assert (scan.frames[:] == 3).all()
    assert len(scan.source.sha256) == 64


def test_the_packages_formats_are_what_their_names_say() -> None:
    assert format_names() == ["cxi", "cxi-turned", "eiger", "npz", "ptychodus", "ptychodus-training", "ptyd"]
    assert all(issubclass(made, ScanFormat) for _, made in FORMATS.items())
    assert [name for name, made in FORMATS.items() if made().writes] == ["cxi", "npz"]


def test_nothing_is_lost_between_reader_and_scan() -> None:
    frames: FrameSource = ArrayFrames(np.full((4, 8, 8), 4.0, np.float32))
    found = Found(
        frames, PLACES[:4], probe=np.ones((8, 8)), object_guess=np.ones((20, 20)), positions_start=PLACES[4:8],
        scan_index=np.full(4, 2), says=("amplitude", "The label says so."),
    )  # fmt: skip
    scan = scan_of(found, "x", "x", Request())
    empty = [f.name for f in dataclasses.fields(scan) if getattr(scan, f.name) is None]
    assert empty == ["good_pixels", "geometry"]
    assert scan.source.measurement_why == "The label says so."
    assert scan.counts_known
