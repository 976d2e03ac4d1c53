"""Windows are exact, adjoint, and as cheap on a large canvas as on a small one."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from test_epie import FRAMES, PROBE, SCAN, refined

from ptycho_torch.physics.regions import crop_patches, put_patches
from ptycho_torch.solvers.measured import Measured
from ptycho_torch.solvers.windows import Windows

CORNERS = np.array([[0, 0], [3, 5], [3, 6], [20, 40]])
SIZES = [16, 64]  # a list of pixels, and slices


@pytest.mark.parametrize("size", SIZES)
def test_windows_read_add_and_clear(size: int) -> None:
    shape = (size + 20, size + 40)
    windows = Windows(CORNERS, size, shape[1], torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    canvas = torch.randn(shape, generator=generator, dtype=torch.complex64)
    patches = torch.randn(4, size, size, generator=generator, dtype=torch.complex64)
    corners = torch.from_numpy(CORNERS)
    torch.testing.assert_close(windows.crop(canvas), crop_patches(canvas, corners, size))
    after = canvas.clone()
    windows.add(after, patches)
    torch.testing.assert_close(after, canvas + put_patches(patches, corners, shape))
    windows.clear(after)
    lit = put_patches(torch.ones(4, size, size), corners, shape) > 0
    assert not after[lit].any()
    torch.testing.assert_close(after[~lit], canvas[~lit], rtol=0, atol=0)


def test_a_frame_far_away_does_not_cost_more() -> None:
    """A sweep's time is that of its frames: on 50 times as many pixels, not even four times as long."""

    def seconds(positions: np.ndarray) -> float:
        marks: list[float] = []
        refined(FRAMES, positions, PROBE, sweeps=7, progress=lambda *_: marks.append(time.process_time()))
        return float(np.min(np.diff(marks)))

    far = SCAN.positions.copy()
    far[-1] += 1800
    assert seconds(far) < 4 * seconds(SCAN.positions)


def test_frames_are_read_once_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    class Counted:
        shape = FRAMES.shape

        def __getitem__(self, index: np.ndarray) -> np.ndarray:
            read.extend(index.tolist())
            return FRAMES[index]

    def twice() -> torch.Tensor:
        measured = Measured(Counted(), 2.0)
        measured.batch(np.array([1, 4]))
        return measured.batch(np.array([1, 4, 5]))

    kept = twice()
    assert read == [1, 4, 5]
    expected = np.fft.ifftshift(2 * FRAMES[[1, 4, 5]], axes=(-2, -1))
    np.testing.assert_allclose(kept[:, 0].numpy(), expected, rtol=1e-6)
    read.clear()
    monkeypatch.setattr("ptycho_torch.solvers.measured.memory_limit", lambda: 0)
    torch.testing.assert_close(twice(), kept)
    assert read == [1, 4, 1, 4, 5]
