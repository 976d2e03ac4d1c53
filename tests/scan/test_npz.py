from __future__ import annotations

import dataclasses
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ptycho_torch.errors import ConfigError, OutputError, PtychoError, ScanError, ScanNotFoundError
from ptycho_torch.files import archive as npy_archive
from ptycho_torch.scan import FORMATS, Scan, format_names, open_scan, read_probe, write_scan
from ptycho_torch.scan.intake import file_sha256
from ptycho_torch.scan.runs import runs_of
from strategies import scans

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
OPTIONAL = ("object_guess", "positions_start", "scan_index", "good_pixels")


def parts(count: int = 5, size: int = 8) -> dict[str, Any]:
    """Arrays of a good file."""
    rng = np.random.default_rng(3)
    return {
        "diff3d": np.sqrt(rng.poisson(40, (count, size, size))).astype(np.float32),
        "xcoords": rng.uniform(0, 50, count),
        "ycoords": rng.uniform(0, 50, count),
        "probeGuess": (rng.normal(size=(size, size)) + 1j).astype(np.complex64),
    }


def saved(path: Path, **changes: Any) -> Path:
    arrays = {**parts(), **changes}
    np.savez(path / "scan.npz", **{k: v for k, v in arrays.items() if v is not None})
    return path / "scan.npz"


def same(a: Scan, b: Scan) -> None:
    np.testing.assert_array_equal(a.frames, b.frames)
    np.testing.assert_array_equal(a.positions, b.positions)
    np.testing.assert_array_equal(a.probe, b.probe)
    assert a.frames.dtype == np.float32
    assert a.positions.dtype == np.float64
    assert a.counts_known == b.counts_known
    for name in OPTIONAL:
        first, second = getattr(a, name), getattr(b, name)
        assert (first is None) == (second is None), name
        if first is not None:
            np.testing.assert_array_equal(first, second)
            assert first.dtype == second.dtype


@quick
@given(scan=scans(), as_counts=st.booleans())
def test_what_is_written_is_read_back(scan: Scan, as_counts: bool, tmp_path: Path) -> None:
    measurement = "counts" if as_counts and scan.counts_known else "amplitude"
    write_scan(scan, tmp_path / "scan.npz", measurement=measurement)
    back = open_scan(tmp_path / "scan.npz")
    if not runs_of(scan.scan_index, None)[1]:
        scan = dataclasses.replace(scan, scan_index=None)  # numbers of frames are no runs
    if scan.good_pixels is not None and scan.good_pixels.all():
        scan = dataclasses.replace(scan, good_pixels=None)
    same(back, scan)
    assert back.source is not None
    assert back.source.measurement == measurement
    assert back.source.sha256 == file_sha256(tmp_path / "scan.npz")
    assert back.source.measurement_why.startswith("the file says")
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npz"]


@quick
@given(
    scan=scans(counted=True),
    last=st.booleans(),
    fortran=st.booleans(),
    dtype=st.sampled_from(["amplitude", "f4", "f8", ">f8", "u2", ">i4", "i8", "u4"]),
    key=st.sampled_from(["diff3d", "diffraction"]),
    layout=st.sampled_from(["first", "last", "opr"]),
    compress=st.booleans(),
)
def test_every_variant_of_the_layout_is_the_same_scan(
    scan: Scan, last: bool, fortran: bool, dtype: str, key: str, layout: str, compress: bool, tmp_path: Path
) -> None:
    assume(not last or scan.n_frames != scan.N)  # a cube is taken as frames first
    counts = np.rint(scan.frames.astype(float) ** 2)
    frames = scan.frames if dtype == "amplitude" else counts.astype(dtype)
    if last:
        frames = np.moveaxis(frames, 0, -1)
    assert scan.probe is not None
    probe = {
        "first": scan.probe,
        "last": np.moveaxis(scan.probe, 0, -1),
        "opr": np.stack([scan.probe, -scan.probe]),
    }
    arrays: dict[str, Any] = {
        key: np.asfortranarray(frames) if fortran else np.ascontiguousarray(frames),
        "xcoords": scan.positions[:, 0],
        "ycoords": scan.positions[:, 1, None],
        "probeGuess": probe[layout].astype(np.complex128),
    }
    (np.savez_compressed if compress else np.savez)(tmp_path / "v.npz", **arrays)
    back = open_scan(tmp_path / "v.npz")
    np.testing.assert_array_equal(back.frames, scan.frames)
    np.testing.assert_array_equal(back.probe, scan.probe)
    np.testing.assert_array_equal(back.positions, scan.positions)
    assert back.counts_known
    assert np.asarray(back.frames).flags.c_contiguous
    assert back.source is not None
    assert back.source.measurement == ("amplitude" if dtype == "amplitude" else "counts")


@pytest.mark.parametrize(
    ("frames", "asked", "kind", "known", "why"),
    [
        (np.full((5, 8, 8), 3, np.uint16), "auto", "counts", True, "integer type uint16"),
        (np.full((5, 8, 8), 3, np.float32), "auto", "counts", True, "every value is whole"),
        (np.full((5, 8, 8), 0.3, np.float32), "auto", "amplitude", False, "not whole"),
        (np.full((5, 8, 8), 3, np.float32), "amplitude", "amplitude", True, "caller said"),
        (np.full((5, 8, 8), 2.5, np.float32), "counts", "counts", False, "caller said"),
    ],
)
def test_measurement_is_decided_and_said(
    frames: np.ndarray,
    asked: str,
    kind: str,
    known: bool,
    why: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        scan = open_scan(saved(tmp_path, diff3d=frames), measurement=asked)
    assert scan.source is not None
    assert scan.source.measurement == kind
    assert why in scan.source.measurement_why
    assert scan.source.measurement_why in caplog.text
    assert scan.counts_known is known
    expected = np.sqrt(frames.astype(np.float32)) if kind == "counts" else frames
    np.testing.assert_array_equal(scan.frames, expected)


def test_bad_pixels_may_hold_anything_and_do_not_decide(tmp_path: Path) -> None:
    frames = np.full((5, 8, 8), 4.0)
    bad = np.zeros((8, 8), np.uint8)
    bad[2, 3], frames[:, 2, 3] = 1, np.nan
    bad[0, 0], frames[:, 0, 0] = 1, -1.5
    scan = open_scan(saved(tmp_path, diff3d=frames, bad_pixels=bad))
    assert scan.source is not None
    assert scan.source.measurement == "counts"
    np.testing.assert_array_equal(scan.good_pixels, bad == 0)
    assert (scan.frames[:, bad == 1] == 0).all()
    assert (scan.frames[:, bad == 0] == 2).all()


def bad_value(value: float) -> np.ndarray:
    frames = parts()["diff3d"]
    frames[3, 1, 2] = value
    return frames


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"diff3d": None}, ["diff3d or diffraction", "xcoords"]),
        ({"xcoords": None}, ["xcoords: expected to be in the file"]),
        ({"probeGuess": None, "ycoords": None}, ["ycoords, probeGuess"]),
        ({"diff3d": bad_value(np.nan)}, ["diff3d", "nan in frame 3"]),
        ({"diff3d": bad_value(np.inf)}, ["diff3d", "inf in frame 3"]),
        ({"diff3d": bad_value(-2)}, ["diff3d", "at least 0", "-2.0 in frame 3"]),
        ({"diff3d": bad_value(0) * 0}, ["diff3d", "frames are zero everywhere"]),
        ({"diff3d": np.ones((5, 8, 6))}, ["diff3d", "square", "(5, 8, 6)"]),
        ({"diff3d": np.ones((8, 8))}, ["diff3d", "three axes", "(8, 8)"]),
        ({"diff3d": np.ones((5, 8, 8), complex)}, ["diff3d", "real", "complex128"]),
        ({"diff3d": np.ones((7, 8, 8))}, ["xcoords", "7 frames", "found 5"]),
        ({"ycoords": np.ones(4)}, ["ycoords", "5 values", "found 4"]),
        ({"xcoords": np.ones((5, 2))}, ["xcoords", "vector", "(5, 2)"]),
        ({"xcoords": np.array([0, 1, np.nan, 3, 4])}, ["xcoords", "nan at frame 2"]),
        (
            {"xcoords_start": np.ones(3), "ycoords_start": np.ones(3)},
            ["xcoords_start", "5 values", "found 3"],
        ),
        ({"probeGuess": np.ones((6, 6))}, ["probeGuess", "8x8", "(6, 6)"]),
        ({"probeGuess": np.zeros((8, 8))}, ["probeGuess", "power"]),
        ({"probeGuess": np.full((8, 8), np.nan)}, ["probeGuess", "finite"]),
        ({"probeGuess": np.ones(8)}, ["probeGuess", "axes", "(8,)"]),
        ({"probeGuess": np.array(["x"])}, ["probeGuess", "complex numbers"]),
        ({"objectGuess": np.ones(4)}, ["objectGuess", "(4,)"]),
        ({"objectGuess": np.full((9, 9), np.nan)}, ["objectGuess", "finite"]),
        ({"scan_index": np.ones(5) / 2}, ["scan_index", "whole"]),
        ({"bad_pixels": np.zeros((4, 4))}, ["bad_pixels", "(8, 8)", "(4, 4)"]),
        ({"bad_pixels": np.ones((8, 8))}, ["bad_pixels", "good pixel"]),
        ({"diff3d": np.array([{}], dtype=object)}, ["diff3d", "pickled", "never"]),
        ({"xcoords": np.array([1, None], dtype=object)}, ["xcoords", "pickled"]),
        ({"probeGuess": np.array([None], dtype=object)}, ["probeGuess", "pickled"]),
    ],
)
def test_bad_input_is_one_line_with_file_key_and_finding(
    changes: dict[str, Any], says: list[str], tmp_path: Path
) -> None:
    path = saved(tmp_path, **changes)
    with pytest.raises(ScanError) as caught:
        open_scan(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for words in says:
        assert words in message


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not really", b"\x89HDF\r\n\x1a\n"])
def test_a_file_that_is_no_npz_is_refused(content: bytes, tmp_path: Path) -> None:
    for name in ("scan.npz", "scan.dat"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            ScanError, match=rf"{name}: (expected .* found|not a scan file of a known format)"
        ) as caught:
            open_scan(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_what_is_not_there_or_is_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError, match="no such scan file") as caught:
        open_scan(tmp_path / "none.npz")
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(ScanError, match="directory"):
        open_scan(tmp_path)
    with pytest.raises(ScanError, match=r"format: expected one of .*npz, .*found 'tiff'"):
        open_scan(saved(tmp_path), format="tiff")
    with pytest.raises(ScanError, match="measurement: expected one of auto"):
        open_scan(saved(tmp_path), measurement="photons")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(saved(tmp_path).read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "scan.npz").write_bytes(bytes(content))
    try:
        open_scan(tmp_path / "scan.npz")
    except PtychoError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **{**parts(), "diff3d": np.zeros((5, 512, 512), np.uint8)})
    monkeypatch.setattr(npy_archive, "_LARGE", 1 << 20)
    with pytest.raises(ScanError, match="diff3d: expected an array compressed less than 500 times"):
        open_scan(path)


def test_a_claim_beyond_the_data_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    lie = members["diff3d.npy"].replace(b"(5, 8, 8)", b"(5, 8, 9)")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, "diff3d.npy": lie}.items():
            archive.writestr(name, content)
    with pytest.raises(ScanError, match=r"diff3d: expected 1440 bytes of data .*found 1280"):
        open_scan(path)


def test_another_version_of_zip_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = bytearray(path.read_bytes())
    data[data.find(b"PK\1\2") + 6] = 99  # the version that reading it takes
    path.write_bytes(data)
    with pytest.raises(ScanError, match=r"expected an NPZ archive, found .* \(zip file version 9\.9\)"):
        open_scan(path)


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("xcoords.npy", b"")
    with pytest.raises(ScanError, match="xcoords: expected one array of that name, found two"):
        open_scan(path)


def test_a_probe_of_ones_own(tmp_path: Path) -> None:
    mine = np.stack([np.eye(8), np.ones((8, 8))]).astype(np.complex64)
    path = saved(tmp_path, probeGuess=None)
    assert open_scan(path, require_probe=False).probe is None
    np.testing.assert_array_equal(open_scan(path, probe=mine).probe, mine)
    np.testing.assert_array_equal(open_scan(path, probe=mine[0]).probe, mine[:1])
    np.save(tmp_path / "probe.npy", mine)
    np.testing.assert_array_equal(open_scan(path, probe=str(tmp_path / "probe.npy")).probe, mine)
    np.savez(tmp_path / "probe.npz", probeGuess=mine)
    np.testing.assert_array_equal(open_scan(path, probe=tmp_path / "probe.npz").probe, mine)
    with pytest.raises(ScanError, match="8x8"):
        open_scan(path, probe=np.ones((4, 4)))


def test_read_probe_refuses_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError, match="probe"):
        read_probe(tmp_path / "none.npy")
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(ScanError, match="NPY"):
        read_probe(tmp_path / "text.npy")
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    with pytest.raises(ScanError, match=r"probeGuess or probe: expected one of them, found keys x"):
        read_probe(tmp_path / "other.npz")
    np.save(tmp_path / "last.npy", np.ones((8, 8, 3)))
    assert read_probe(tmp_path / "last.npy").shape == (3, 8, 8)


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    scan = open_scan(saved(tmp_path))
    with pytest.raises(OutputError, match="cannot be written"):
        write_scan(scan, tmp_path / "no" / "scan.npz")
    amplitudes = open_scan(saved(tmp_path, diff3d=parts()["diff3d"] * 0.7))
    before = (tmp_path / "scan.npz").read_bytes()
    with pytest.raises(ScanError, match="counts are not known"):
        write_scan(amplitudes, tmp_path / "scan.npz", measurement="counts")
    with pytest.raises(ScanError, match="amplitude or counts"):
        write_scan(amplitudes, tmp_path / "scan.npz", measurement="auto")
    assert (tmp_path / "scan.npz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npz"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.chmod(0)
    with pytest.raises(ScanError, match="cannot be read"):
        open_scan(path)


def test_formats_have_one_owner_and_are_listed() -> None:
    assert "npz" in format_names()
    with pytest.raises(ConfigError, match=r"scan format 'npz': expected a name that is free"):
        FORMATS.register("npz")(type(FORMATS.get("npz")))


def test_a_cube_is_taken_as_frames_first_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = np.random.default_rng(0).uniform(0.1, 1, (5, 5, 5)).astype(np.float32)
    scan = open_scan(saved(tmp_path, diff3d=frames, probeGuess=np.ones((5, 5))))
    np.testing.assert_array_equal(scan.frames, frames)
    assert "first axis was taken" in caplog.text


def test_the_real_star(shared: Path) -> None:
    scan = open_scan(shared / "data" / "siemens_star_aps.npz")
    assert scan.frames.shape == (516, 128, 128)
    assert scan.n_modes == 1
    assert scan.counts_known
    assert scan.source is not None
    assert scan.source.measurement == "amplitude"
    assert scan.positions_start is not None
    assert scan.scan_index is not None
