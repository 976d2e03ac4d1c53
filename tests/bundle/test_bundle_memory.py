"""Small files that describe gigabytes: refused in one line, and before the memory is taken."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import dill
import numpy as np
import pytest

from peak import MIB, peak
from ptycho_torch.config import TrainingConfig
from ptycho_torch.model_manager import save_torch_bundle

_SETUP = "from ptycho_torch.bundle.contents import read_bundle; from ptycho_torch.errors import BundleError"
_READ = "result = read_bundle(args[0]).models"


def _members(folder: Path) -> dict[str, bytes]:
    models = {n: {"_sentinel": n} for n in ("autoencoder", "diffraction_to_obj")}
    save_torch_bundle(models, folder / "sound", TrainingConfig(), 1.5)
    with zipfile.ZipFile(folder / "sound.zip") as z:
        return {n: z.read(n) for n in z.namelist() if n != "bundle.json"}


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _block(size: int) -> bytes:
    """A block of bytes, memoised as number 1."""
    return b"B" + struct.pack("<I", size) + bytes(size) + b"q\1"


_DTYPE = b"cnumpy\ndtype\nX\2\0\0\0u1\x89\x88\x87RK\3X\1\0\0\0|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"


def _copies(call: bytes, count: int, size: int = 4 * MIB) -> bytes:
    """The params of a sound bundle with ``count`` values made by ``call`` from one block."""
    start = (
        b"\x80\x02}(" + _text("N") + b"K\x40" + _text("gridsize") + b"K\x01" + _text("block") + _block(size)
    )
    items = b"".join(_text(f"x{i}") + call for i in range(count))
    return start + items + b"u."


_CALLS: dict[str, bytes] = {
    "bytearray": b"cbuiltins\nbytearray\nh\1\x85R",
    "array": b"cnumpy.core.numeric\n_frombuffer\n(h\1" + _DTYPE.replace(b"K\3X", b"(K\3X")
    + b"J\0\0\x40\0\x85X\1\0\0\0CtR",
    "scalar": b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x08\0\0\0S4194304\x89\x88\x87R"
    b"(K\3X\1\0\0\0|NNNJ\0\0\x40\0K\1K\0tbh\1\x86R",
}  # fmt: skip


@pytest.mark.parametrize("call", list(_CALLS))
def test_a_block_is_counted_for_every_copy(tmp_path: Path, call: str) -> None:
    content = _members(tmp_path) | {"autoencoder/params.dill": _copies(_CALLS[call], 500)}
    found = _read_of(tmp_path, content)
    assert found.error == "BundleError"
    assert "would take" in found.text


def test_few_copies_of_a_small_block_are_read(tmp_path: Path) -> None:
    content = _members(tmp_path)
    for model in ("autoencoder", "diffraction_to_obj"):
        params = dill.loads(content[f"{model}/params.dill"])
        params |= {f"x{i}": np.ones(1000) for i in range(20)}
        content[f"{model}/params.dill"] = dill.dumps(params)
    assert _read_of(tmp_path, content).error == ""


def _read_of(folder: Path, content: dict[str, bytes]):
    path = folder / "hostile.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in content.items():
            z.writestr(name, data)
    found = peak(_SETUP, _READ, path)
    assert found.within(path.stat().st_size), f"{found.grown / MIB:.0f} MiB: {found.text}"
    assert found.seconds < 20
    assert len(found.text) < 1000
    return found


def _objects(opcode: bytes) -> bytes:
    return b"\x80\x02(" + opcode * 480_000 + b"t."


@pytest.mark.parametrize("opcode", [b"}", b"]", b"(t", b"]q\1"])
def test_instructions_are_counted(tmp_path: Path, opcode: bytes) -> None:
    content = _members(tmp_path) | {"autoencoder/params.dill": _objects(opcode)}
    assert _read_of(tmp_path, content).error == "BundleError"


def test_one_wide_character_is_counted(tmp_path: Path) -> None:
    text = "a" * (12 * MIB) + "\U0001f600"
    data = b"\x80\x02X" + struct.pack("<I", len(text.encode())) + text.encode() + b"."
    assert _read_of(tmp_path, _members(tmp_path) | {"autoencoder/params.dill": data}).error == "BundleError"


_TEXTS: dict[str, Callable[[], bytes]] = {
    "brackets": lambda: b"[" * (64 << 10),
    "closed": lambda: b"[" * 900 + b"]" * 900,
    "many": lambda: b'{"format":[' + b"[]," * (8 * MIB) + b"[]]}",
    "objects": lambda: b"[" + b'{"a":1},' * (2 * MIB) + b"1]",
    "unclosed text": lambda: b'"' + b"\\" * (8 * MIB),
    "wide": lambda: b'"' + b"a" * (30 * MIB) + "\U0001f600".encode() + b'"',
    "unicode": lambda: b'["' + b"a" * (30 * MIB) + b'\\ud83d\\ude00"]',
    "numbers": lambda: b"[" + b"1.5," * (8 * MIB) + b"1]",
}


@pytest.mark.parametrize("name", list(_TEXTS))
def test_json_is_counted_before_it_is_parsed(tmp_path: Path, name: str) -> None:
    found = _read_of(tmp_path, _members(tmp_path) | {"bundle.json": _TEXTS[name]()})
    assert found.error == "BundleError"
    assert "bundle.json" in found.text or "would take" in found.text


def test_distinct_params_add_up(tmp_path: Path) -> None:
    """Each within its own limit; sixty-four of them are not."""
    content = {k: v for k, v in _members(tmp_path).items() if k == "manifest.dill"}
    names = [f"m{i}" for i in range(64)]
    content["manifest.dill"] = dill.dumps({"models": names, "version": "2.0-pytorch"})
    for i, name in enumerate(names):
        content[f"{name}/params.dill"] = dill.dumps({"N": 64, "gridsize": 1, "i": i, "x": bytes(3 * MIB)})
        content[f"{name}/model.pth"] = b""
    assert _read_of(tmp_path, content).error == "BundleError"


def _zipped(content: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in content.items():
            z.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_a_zip_inside_a_zip(tmp_path: Path, member: str) -> None:
    inner = {"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"}
    inner[member] = inner[member] + b" " * (15 * MIB if member == "config.json" else 300 * MIB)
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("x/model.keras", _zipped(inner))
    action = (
        "from ptycho_torch.bundle.container.archive import open_archive as o;"
        "from ptycho_torch.bundle.keras.weights import read_keras as r;"
        "a = o(args[0]); d = a.read('x/model.keras');"
        "r(d, lambda reason: BundleError(reason), a.budget)"
    )
    found = peak("import h5py;" + _SETUP, action, path)
    assert found.error == "BundleError"
    assert found.within(path.stat().st_size), f"{found.grown / MIB:.0f} MiB: {found.text}"
