"""Pictures for notebooks: read back by an independent reader, and safe with texts out of files."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ptycho_torch.picture import gray, html_card, png, wheel
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan, ScanSource


def pictures(text: str) -> list[np.ndarray]:
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (7, 5, 3)])
def test_png_is_what_others_read(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), image)


def test_colours_turn_with_the_phase() -> None:
    colours = wheel(np.exp(1j * np.array([[0.0, 2 * np.pi / 3, 4 * np.pi / 3]])))
    assert np.argmax(colours[0], axis=-1).tolist() == [0, 1, 2]


def test_what_is_not_finite_is_black() -> None:
    assert gray(np.array([[np.nan, 1.0, 2.0]])).tolist() == [[0, 0, 255]]


def test_texts_out_of_files_are_no_markup() -> None:
    card = html_card("<b>", {"<script>": "<img src=x>'"}, {})
    assert "<script>" not in card
    assert "<img" not in card


def test_a_scan_shows_itself() -> None:
    frames = np.random.default_rng(0).uniform(1, 2, (4, 8, 8)).astype(np.float32)
    source = ScanSource("<i>evil</i>.npz", "npz", "", "amplitude", "why")
    scan = Scan(frames, np.arange(8.0).reshape(4, 2), np.ones((1, 8, 8), np.complex64), source=source)
    text = scan._repr_html_()
    assert "4 of 8 x 8" in text
    assert "<i>" not in text
    assert [p.shape for p in pictures(text)] == [(8, 8), (8, 8, 3)]
    assert len(pictures(replace(scan, probe=None)._repr_html_())) == 1


def test_a_reconstruction_shows_what_was_measured() -> None:
    weight = np.zeros((20, 30), np.float32)
    weight[4:14, 5:25] = 1
    rec = Reconstruction(weight + 0j, weight, np.zeros(2), np.zeros((3, 2)), np.ones((1, 8, 8)))
    assert [p.shape[:2] for p in pictures(rec._repr_html_())] == [(10, 20), (10, 20), (8, 8)]
    dark = replace(rec, weight=np.zeros_like(weight))
    assert len(pictures(dark._repr_html_())) == 1
