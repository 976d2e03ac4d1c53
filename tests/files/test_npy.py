"""NPY files and NPZ archives that ask for more than they hold, and what numpy writes."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peak import MIB, peak
from ptycho_torch.errors import ScanError, ScanNotFoundError
from ptycho_torch.files.archive import Archive
from ptycho_torch.files.npy import read_npy


def npy(header: str, data: bytes = b"", version: int = 1, claimed: int | None = None) -> bytes:
    text = header.encode("latin1")
    size = len(text) if claimed is None else claimed
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size) + text + data
    )


def described(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n"


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "?", "<c8", "<U5", "u1"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (5, 4, 3)])
def test_what_numpy_writes_is_read(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    for order in "CF":
        bits = np.random.default_rng(0).integers(0, 2, shape)
        array = np.asarray(bits, order=order).astype(dtype)  # type: ignore[call-overload]
        np.save(tmp_path / "a.npy", array)
        np.savez_compressed(tmp_path / "a.npz", a=array)
        with Archive(tmp_path / "a.npz") as archive:
            for found in (read_npy(tmp_path / "a.npy"), archive.read("a")):
                assert found.dtype == array.dtype
                assert found.flags.writeable
                np.testing.assert_array_equal(found, array)


HOSTILE = {
    "terabytes": npy(described("(1000, 2000, 2000)", "'<f4'")),
    "zero and enormous": npy(described(f"(0, {10**30})")),
    "negative": npy(described("(-2, -3)"), bytes(24)),
    "true as a size": npy(described("(True, 2)"), bytes(8)),
    "many axes": npy(described("(" + "1," * 40 + ")"), bytes(4)),
    "items without size": npy(described(f"({10**12},)", "'<U0'")),
    "objects": npy(described("(1,)", "'|O'"), b"\x80\x02N."),
    "deep": npy("(" * 5000),
    "not a header": npy("[]\n"),
    "long header": npy(" ", version=2, claimed=2**31),
    "version 3": npy(described("(1,)"), bytes(4), version=3),
    "empty": b"",
    "cut": npy(described("(9,)"), bytes(7)),
    "longer": npy(described("(1,)"), bytes(99)),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_header_that_lies(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ScanError, match=r"a\.npy: expected .*, found"):
        read_npy(path)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as z:
        z.writestr("a.npy", HOSTILE[name])
    with Archive(tmp_path / "a.npz") as archive, pytest.raises(ScanError, match=r"a\.npz: a: expected"):
        archive.read("a")


def test_an_archive_renamed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(ScanError, match=r"expected an NPY array, found .*; rename it to \.npz"):
        read_npy(tmp_path / "a.npy")


def test_no_file_and_no_regular_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for read in (read_npy, Archive):
        with pytest.raises(ScanNotFoundError):
            read(tmp_path / "none")  # type: ignore[operator]
        with pytest.raises(ScanError, match=r"cannot be read .expected a regular file, found a folder"):
            read(tmp_path / "d")  # type: ignore[operator]


def _packed(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as z:
        for name, data in entries.items():
            z.writestr(name, data)
    return path


SETUP = "from pathlib import Path; from ptycho_torch.files.archive import Archive; import numpy"
READS = {
    "read": "Archive(Path(args[0])).read('a', 1 << 40)",
    "frames": "Archive(Path(args[0])).read_as('a', (0, 1, 2), numpy.dtype('f4'))",
}


def _zeros(count: int, dtype: str) -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros((count, 512, 512), dtype))
    return out.getvalue()


@pytest.mark.parametrize("how", list(READS))
@pytest.mark.parametrize(("dtype", "count"), [("u1", 800), ("<f8", 100)])
def test_zeros_that_unpack_without_end(tmp_path: Path, how: str, dtype: str, count: int) -> None:
    path = _packed(tmp_path / "a.npz", {"a.npy": _zeros(count, dtype)})
    found = peak(SETUP, READS[how], path)
    assert found.error == "ScanError"
    assert "if it is genuine, store it uncompressed" in found.text
    assert found.within(path.stat().st_size), f"{found.grown / MIB:.0f} MiB"


def test_a_header_that_unpacks_without_end(tmp_path: Path) -> None:
    data = npy(" " * (300 * MIB), version=2)
    path = _packed(tmp_path / "a.npz", {"a.npy": data})
    found = peak(SETUP, "Archive(Path(args[0])).header('a')", path)
    assert found.error == "ScanError"
    assert found.within(path.stat().st_size), f"{found.grown / MIB:.0f} MiB"


def test_the_same_arrays_uncompressed_are_read_and_lie_in_memory_once(tmp_path: Path) -> None:
    path = _packed(tmp_path / "a.npz", {"a.npy": _zeros(200, "<f4")}, zipfile.ZIP_STORED)
    for how in READS.values():
        found = peak(SETUP, "result = " + how + ".shape", path)
        assert found.text == "(200, 512, 512)"
        assert found.grown < 1.2 * path.stat().st_size


def test_many_small_arrays_add_up(tmp_path: Path) -> None:
    entries = {f"a{i}.npy": _zeros(40, "u1") for i in range(10)}
    with Archive(_packed(tmp_path / "a.npz", entries)) as archive:

        def read_all() -> list[Any]:
            return [archive.read(key) for key in archive.keys]

        with pytest.raises(ScanError, match="would take"):
            read_all()


def test_sparse_counts_compress_well_and_are_read(tmp_path: Path) -> None:
    """Five hundred photons in a frame of 128 x 128, as a weakly scattering sample gives."""
    frames = np.random.default_rng(0).poisson(500 / 128**2, (2000, 128, 128)).astype(np.uint16)
    np.savez_compressed(tmp_path / "a.npz", a=frames)
    with Archive(tmp_path / "a.npz") as archive:
        assert np.array_equal(archive.read_as("a", (0, 1, 2), np.dtype(np.float32)), frames)


def test_zip_files_that_numpy_does_not_write(tmp_path: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.ones(100))
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        path = _packed(tmp_path / f"{method}.npz", {"a.npy": array.getvalue()}, method)
        with Archive(path) as archive, pytest.raises(ScanError, match=f"found method {method}"):
            archive.read("a")
    data = bytearray(_packed(tmp_path / "v.npz", {"a.npy": array.getvalue()}).read_bytes())
    data[data.index(b"PK\1\2") + 6] = 99  # the version needed to extract
    (tmp_path / "v.npz").write_bytes(data)
    with pytest.raises(ScanError, match=r"zip file version 9\.9"):
        Archive(tmp_path / "v.npz")
