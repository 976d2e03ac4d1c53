"""Compressed frames: what goes in comes out, and nothing else does harm."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.errors import DataError
from ptycho_torch.live.sources.codecs import as_frame, compress_bslz4, compress_lz4, decompress, plane

pytest.importorskip("bitshuffle")
pytest.importorskip("lz4")
MAKERS = {"bslz4": compress_bslz4, "lz4": compress_lz4}


def frame(dtype: str, shape: tuple[int, int] = (37, 41)) -> np.ndarray:
    return np.random.default_rng(0).poisson(3, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
@pytest.mark.parametrize("codec", ["bslz4", "lz4", "bslz4-bare", "lz4-bare"])
@pytest.mark.parametrize("shape", [(37, 41), (64, 64), (3, 5), (200, 190)])
def test_frames_come_back(dtype: str, codec: str, shape: tuple[int, int]) -> None:
    given_frame = frame(dtype, shape)
    packed = MAKERS[codec.partition("-")[0]](given_frame, not codec.endswith("bare"))
    assert np.array_equal(decompress(packed, codec, shape, given_frame.dtype), given_frame)


def test_the_layout_is_that_of_the_hdf5_filter() -> None:
    # The filter of another library reads what is sent, out of a chunk that is written as it is.
    h5py, hdf5plugin = pytest.importorskip("h5py"), pytest.importorskip("hdf5plugin")
    given_frame = frame("uint16", (64, 80))
    with h5py.File("x", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset(
            "a", (64, 80), "u2", chunks=(64, 80), **hdf5plugin.Bitshuffle(nelems=0, cname="lz4")
        )
        data.id.write_direct_chunk((0, 0), compress_bslz4(given_frame))
        assert np.array_equal(data[:], given_frame)


@pytest.mark.parametrize("codec", ["bslz4", "lz4", "bslz4-bare", "lz4-bare"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_and_no_crash(codec: str, data: Any) -> None:
    given_frame = frame("uint16")
    packed = bytearray(MAKERS[codec.partition("-")[0]](given_frame, not codec.endswith("bare")))
    for _ in range(data.draw(st.integers(1, 6))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    packed = packed[: data.draw(st.integers(0, len(packed)))]
    try:
        got = decompress(bytes(packed), codec, given_frame.shape, given_frame.dtype)
    except DataError:
        return
    assert got.shape == given_frame.shape


@pytest.mark.parametrize("size", [1 << 62, 0, 37 * 41 * 2 + 1])
def test_a_header_that_claims_another_size_is_refused(size: int) -> None:
    packed = compress_bslz4(frame("uint16"))
    with pytest.raises(DataError, match="expected 3034 bytes"):
        decompress(struct.pack(">q", size) + packed[8:], "bslz4", (37, 41), np.dtype("uint16"))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ([1 << 40, 1 << 40], "uint16"), ([1 << 14, 1 << 14], "uint32"),
        ([0, 4], "uint8"), ([4], "uint8"), ([4, 4, 4], "uint8"),
        ("4x4", "uint8"), ([4.0, 4], "uint8"), ([True, 4], "uint8"),
        ([4, 4], "object"), ([4, 4], None), (None, "uint8"),
    ],
)  # fmt: skip
def test_shapes_and_types_are_judged_before_memory_is_taken(shape: Any, dtype: Any) -> None:
    with pytest.raises(DataError):
        plane(shape, dtype, 1 << 24)


def test_plain_bytes_must_fill_the_frame() -> None:
    with pytest.raises(DataError, match="expected 32 bytes"):
        as_frame(b"abc", (4, 4), np.dtype("uint16"))
