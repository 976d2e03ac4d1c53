"""The growing canvas: what was stitched stays where it is, with one phase."""

from __future__ import annotations

import numpy as np

from ptycho_torch.live.canvas import GrowingCanvas

RNG = np.random.default_rng(0)
TRUTH = (RNG.normal(size=(300, 300)) + 1j * RNG.normal(size=(300, 300))).astype(np.complex64)


def window(canvas: GrowingCanvas, x: int, y: int, size: int = 40, phase: float = 0.0) -> None:
    light = np.ones((size, size), np.float32)
    part = TRUTH[y + 100 : y + 100 + size, x + 100 : x + 100 + size] * np.exp(1j * phase)
    canvas.stitch(part.astype(np.complex64), light, np.array([x, y], dtype=np.float64))


def test_regions_in_any_direction_and_phase_become_one_object() -> None:
    canvas = GrowingCanvas()
    for step, (x, y) in enumerate(
        [(0, 0), (30, 5), (60, -20), (40, -50), (10, -70), (-20, -60), (-50, -80), (-80, -90)]
    ):
        window(canvas, x, y, phase=0.7 * step)
    obj, light, (x, y), version = canvas.snapshot()
    truth = TRUTH[y + 100 : y + 100 + obj.shape[0], x + 100 : x + 100 + obj.shape[1]]
    assert version == 8
    assert np.allclose(obj[light > 0], truth[light > 0], atol=1e-4)
    assert (x, y) == (-80, -90)


def test_what_is_seen_by_more_light_counts_more() -> None:
    canvas = GrowingCanvas()
    ones = np.ones((8, 8), np.complex64)
    canvas.stitch(ones, np.full((8, 8), 10, np.float32), np.zeros(2))
    canvas.stitch(3 * ones, np.full((8, 8), 0.1, np.float32), np.zeros(2))
    assert np.abs(canvas.snapshot()[0] - 1).max() < 0.01
    canvas.stitch(3 * ones, np.full((8, 8), 10, np.float32), np.zeros(2))
    assert np.abs(canvas.snapshot()[0] - 3).max() < 0.5


def test_cropping_beyond_the_canvas_gives_nothing_there() -> None:
    canvas = GrowingCanvas()
    window(canvas, 0, 0)
    got = canvas.crop(np.array([-10, 30]), np.array([5, 50]))
    assert got.shape == (20, 15)
    assert np.array_equal(got[:10, 10:], TRUTH[130:140, 100:105])
    assert not got[10:].any()
    assert not got[:, :10].any()
