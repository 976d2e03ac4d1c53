"""Hostile and damaged ``model.keras`` files: refused before anything outside them is touched, by name."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_archives import Program, keras_file, weights_file
from ptycho_torch.bundle.keras.graph import read_network
from ptycho_torch.bundle.keras.weights import read_keras
from ptycho_torch.errors import BundleError

PROGRAM = Program()
DESCRIPTION = PROGRAM.description("diffraction_to_obj")
PLAIN = weights_file(PROGRAM)


def fail(reason: str) -> BundleError:
    return BundleError(f"model.keras: {reason}")


def read(weights: bytes, description: Any = DESCRIPTION) -> Any:
    return read_keras(keras_file(description, weights), fail)


def changed(change: Callable[[h5py.File], None]) -> bytes:
    """The plain weights after ``change``."""
    memory = io.BytesIO(PLAIN)
    with h5py.File(memory, "r+") as file:
        change(file)
    return memory.getvalue()


def made(write: Callable[[h5py.Group], None]) -> bytes:
    """A file with one layer whose ``vars`` group is filled by ``write``."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.attrs["name"] = "conv2d"
        write(group)
    return memory.getvalue()


def test_plain_weights_come_back_bit_for_bit() -> None:
    found = read(PLAIN)
    assert set(found.arrays) == set(PROGRAM.kernels)
    for name, arrays in PROGRAM.kernels.items():
        assert all(np.array_equal(a, np.float32(b)) for a, b in zip(found.arrays[name], arrays, strict=True))
    assert found.keras_version == "3.15.1"


def test_layers_without_a_name_are_counted() -> None:
    found = read(weights_file(PROGRAM, attribute=False))
    assert set(found.arrays) == set(PROGRAM.kernels)


def test_state_of_the_optimiser_is_counted_and_not_read() -> None:
    assert read(weights_file(PROGRAM, optimizer=7)).optimizer_arrays == 7


SECRET = np.arange(4, dtype=np.float32)


def _external(group: h5py.Group, folder: Path) -> None:
    (folder / "secret.raw").write_bytes(SECRET.tobytes())
    group.create_dataset("0", (4,), "<f4", external=[(str(folder / "secret.raw"), 0, 16)])


def _virtual(group: h5py.Group, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = SECRET
    layout = h5py.VirtualLayout((4,), "<f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (4,))
    group.create_virtual_dataset("0", layout)


def _external_link(group: h5py.Group, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = SECRET
    group["0"] = h5py.ExternalLink(str(folder / "secret.h5"), "x")


OUTSIDE = {
    "external storage": (_external, "external storage"),
    "virtual dataset": (_virtual, "virtual"),
    "external link": (_external_link, "external link"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_the_file_is_read(tmp_path: Path, name: str) -> None:
    write, text = OUTSIDE[name]
    weights = made(lambda group: write(group, tmp_path))
    with pytest.raises(BundleError, match=text) as caught:
        read(weights)
    assert "layers/conv2d/vars/0" in str(caught.value)


def _loop(group: h5py.Group) -> None:
    group["again"] = group.parent


def _alias(group: h5py.Group) -> None:
    group["0"] = SECRET
    group["1"] = group["0"]


def _deep(group: h5py.Group) -> None:
    for _ in range(40):
        group = group.create_group("x")


def _wrong_name(group: h5py.Group) -> None:
    group["0"] = SECRET
    group.attrs["name"] = np.arange(3)


def _no_name(group: h5py.Group) -> None:
    group["0"] = SECRET
    del group.attrs["name"]
    group.parent.parent.move("conv2d", "conv2d_77")


INSIDE: dict[str, tuple[Callable[[h5py.Group], Any], str]] = {
    "soft link": (lambda g: g.__setitem__("0", h5py.SoftLink("/layers")), "soft link"),
    "loop": (_loop, "second name"),
    "two names": (_alias, "second name"),
    "deep": (_deep, "deeper"),
    "gzip": (lambda g: g.create_dataset("0", data=SECRET, compression="gzip"), "filter"),
    "shuffle": (lambda g: g.create_dataset("0", data=SECRET, chunks=(2,), shuffle=True), "filter"),
    "fletcher": (lambda g: g.create_dataset("0", data=SECRET, chunks=(2,), fletcher32=True), "filter"),
    "chunks": (lambda g: g.create_dataset("0", data=SECRET, chunks=(2,)), "one piece"),
    "grows": (lambda g: g.create_dataset("0", data=SECRET, maxshape=(None,)), "one piece"),
    "shape bomb": (lambda g: g.create_dataset("0", (1 << 40,), "<f4"), "bytes"),
    "empty": (lambda g: g.create_dataset("0", (0,), "<f4"), "bytes"),
    "null space": (lambda g: g.create_dataset("0", dtype="<f4", data=h5py.Empty("<f4")), "plain array|bytes"),
    "rank": (lambda g: g.create_dataset("0", data=SECRET.reshape(1, 1, 1, 2, 2)), "4 axes"),
    "float64": (lambda g: g.create_dataset("0", data=np.arange(4.0)), "float32"),
    "big endian": (lambda g: g.create_dataset("0", data=SECRET.astype(">f4")), "float32"),
    "integers": (lambda g: g.create_dataset("0", data=np.arange(4)), "float32"),
    "text": (lambda g: g.create_dataset("0", data="exec"), "float32"),
    "objects": (lambda g: g.create_dataset("0", (2,), h5py.ref_dtype), "float32"),
    "variable length": (lambda g: g.create_dataset("0", (2,), h5py.vlen_dtype("f4")), "float32"),
    "not finite": (lambda g: g.create_dataset("0", data=np.float32([1, np.inf])), "finite"),
    "NaN": (lambda g: g.create_dataset("0", data=np.float32([np.nan])), "finite"),
    "a type": (lambda g: g.__setitem__("0", np.dtype("f4")), "neither a group nor an array"),
    "gap": (lambda g: g.create_dataset("1", data=SECRET), "0 to 0"),
    "other name": (lambda g: g.create_dataset("kernel", data=SECRET), "number"),
    "elsewhere": (lambda g: g.file.create_dataset("hidden", data=SECRET), "outside"),
    "attribute": (_wrong_name, "not a text"),
    "no attribute": (_no_name, "cannot be known"),
}


@pytest.mark.parametrize("name", INSIDE)
def test_what_keras_does_not_write_is_refused(name: str) -> None:
    write, text = INSIDE[name]
    with pytest.raises(BundleError, match=text) as caught:
        read(made(write))
    assert len(str(caught.value)) < 400


def test_a_huge_claim_costs_no_memory() -> None:
    weights = made(lambda g: g.create_dataset("0", (1 << 30,), "<f4"))
    tracemalloc.start()
    with pytest.raises(BundleError):
        read(weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_files_that_are_not_hdf5() -> None:
    for data in (b"", b"\x80\x04N.", b"\x89HDF\r\n\x1a\n", PLAIN[:200], b"\0" * 512 + PLAIN):
        with pytest.raises(BundleError):
            read(data)
    memory = io.BytesIO()
    with h5py.File(memory, "w", userblock_size=512) as file:
        file["x"] = SECRET
    with pytest.raises(BundleError, match=r"user block|not an HDF5"):
        read(memory.getvalue())


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.99])
def test_files_cut_off(part: float) -> None:
    with pytest.raises(BundleError):
        read(PLAIN[: int(part * len(PLAIN))])


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_structure_is_refused_or_harmless(data: st.DataObject) -> None:
    """Any bytes of the HDF5 structure may change: it reads as before in shape, or is refused."""
    small = made(lambda g: g.create_dataset("0", data=SECRET))
    spoiled = bytearray(small)
    for _ in range(data.draw(st.integers(1, 6))):
        spoiled[data.draw(st.integers(0, len(small) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(spoiled))
    except BundleError:
        return
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for part in found.arrays.values() for a in part)


# ---------------------------------------------------------------- around the weights


def _repacked(change: Callable[[dict[str, bytes]], Any]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(keras_file(DESCRIPTION, PLAIN))) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    change(content)
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return memory.getvalue()


@pytest.mark.parametrize("name", ["config.json", "metadata.json", "model.weights.h5"])
def test_missing_members_are_named(name: str) -> None:
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        read_keras(_repacked(lambda content: content.pop(name)), fail)


@pytest.mark.parametrize(
    "text",
    [b"[" * 100_000, b"nonsense", b"[]", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff\xfe", b"null", b""],
    ids=["nested", "nonsense", "list", "NaN", "twice", "not utf-8", "null", "empty"],
)
def test_descriptions_that_are_no_json_object(text: bytes) -> None:
    with pytest.raises(BundleError, match=r"config\.json"):
        read_keras(_repacked(lambda content: content.update({"config.json": text})), fail)


# ---------------------------------------------------------------- the description


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [path, *(p for k, v in value.items() for p in _paths(v, (*path, k)))]
    if isinstance(value, list):
        return [path, *(p for i, v in enumerate(value) for p in _paths(v, (*path, i)))]
    return [path]


AUTOENCODER = json.loads(json.dumps(PROGRAM.description("autoencoder")))
PLACES = [p for p in _paths(AUTOENCODER) if p]


def test_both_descriptions_are_known() -> None:
    assert read_network(AUTOENCODER, fail).with_physics
    assert not read_network(json.loads(json.dumps(DESCRIPTION)), fail).with_physics


@given(
    st.sampled_from(PLACES),
    st.sampled_from(
        [None, -1, 0, 3, 1e300, "", "Lambda", "relu", [], {}, [["x", 0, 0]], True, "__import__('os')"]
    ),
)
@settings(max_examples=400, deadline=None)
def test_a_changed_description_is_refused_or_means_the_same_network(
    place: tuple[Any, ...], value: Any
) -> None:
    spoiled = json.loads(json.dumps(AUTOENCODER))
    inner = spoiled
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    refused: BundleError | None = None
    try:
        found = read_network(spoiled, fail)
    except BundleError as error:
        refused = error
    if refused is not None:
        assert len(str(refused)) < 600
        return
    # Still a complete network of known parts: names and options that change no number may differ.
    assert len(found.encoder) == len(read_network(AUTOENCODER, fail).encoder)


@pytest.mark.parametrize("index", range(len(AUTOENCODER["config"]["layers"])))
def test_every_layer_counts(index: int) -> None:
    spoiled = json.loads(json.dumps(AUTOENCODER))
    del spoiled["config"]["layers"][index]
    with pytest.raises(BundleError):
        read_network(spoiled, fail)


@pytest.mark.parametrize("index", range(len(AUTOENCODER["config"]["layers"])))
def test_no_layer_may_run_code(index: int) -> None:
    spoiled = json.loads(json.dumps(AUTOENCODER))
    spoiled["config"]["layers"][index]["class_name"] = "Lambda"
    with pytest.raises(BundleError, match="Lambda"):
        read_network(spoiled, fail)
