"""Pictures are read one at a time, whole, and within a budget."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from ptycho_torch.errors import ScanError, ScanNotFoundError
from ptycho_torch.files.images import read_image

GREY = (np.arange(24 * 30) % 200).reshape(24, 30).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_pixels_come_as_they_are(tmp_path: Path, name: str) -> None:
    Image.fromarray(GREY).save(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name), GREY)


def test_deep_pixels_and_colours(tmp_path: Path) -> None:
    for dtype in (np.uint16, np.float32):
        tifffile.imwrite(tmp_path / "deep.tif", GREY.astype(dtype) * 7)
        found = read_image(tmp_path / "deep.tif")
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, GREY.astype(dtype) * 7)
    Image.fromarray(GREY.astype(np.uint16) * 300).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), GREY.astype(np.uint16) * 300)
    colours = np.stack([GREY, GREY // 2, 255 - GREY], axis=-1)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    np.testing.assert_array_equal(read_image(tmp_path / "colours.png"), colours)


def test_palettes_and_bits_are_what_they_show(tmp_path: Path) -> None:
    bits = Image.fromarray(GREY > 99)
    bits.save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png"), (GREY > 99) * np.uint8(255))
    palette = Image.fromarray(GREY % 2, mode="P")
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.save(tmp_path / "palette.png")
    shown = read_image(tmp_path / "palette.png")
    np.testing.assert_array_equal(shown[0, 0], [10, 20, 30])
    np.testing.assert_array_equal(shown[0, 1], [200, 100, 0])


@pytest.mark.parametrize("name", ["bomb.png", "bomb.tif"])
def test_a_small_file_of_many_pixels_is_refused_before_they_are_made(tmp_path: Path, name: str) -> None:
    path, edge = tmp_path / name, 11_000
    if path.suffix == ".png":
        Image.new("1", (edge, edge)).save(path)
    else:
        tifffile.imwrite(path, shape=(edge, edge), dtype=np.uint8)  # a header, and a hole behind it
        os.truncate(path, 4096)
    assert path.stat().st_size < 100_000
    with pytest.raises(ScanError, match=rf"{name}: {edge} x {edge} pixels: would take"):
        read_image(path)


def test_several_pictures_in_one_file_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "two.tif", np.stack([GREY, GREY]), photometric="minisblack")
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    for name in ("two.tif", "two.gif"):
        with pytest.raises(ScanError, match="expected one picture, found several"):
            read_image(tmp_path / name)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.tif").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("text.png", "text.tif", "pipe.png"):
        with pytest.raises(ScanError, match=f"{name}: cannot be read as a picture"):
            read_image(tmp_path / name)
    with pytest.raises(ScanNotFoundError, match="no such file"):
        read_image(tmp_path / "none.png")
