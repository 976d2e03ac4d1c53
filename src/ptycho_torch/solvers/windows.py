"""Windows of a canvas: what a mini-batch lights is read, added to and cleared in place.

The cost is that of the patches, whatever the canvas measures.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.physics.regions import crop_patches

__all__ = ["Windows"]

_SLICED: Final = 48
"""Edge of a patch from which, on the CPU, one slice a frame is faster than a list of pixels."""


class Windows:
    """The windows of some frames on a canvas (H, W).

    Parameters
    ----------
    corners : (B, 2) int64 array
        Row and column of each window's first pixel.
    size : int
        Edge N of a window.
    width : int
        W of the canvas.
    device : torch.device
        Where the canvas lies.

    Examples
    --------
    >>> windows = Windows(np.array([[0, 0], [1, 1]]), 2, 4, torch.device("cpu"))
    >>> canvas = torch.zeros(3, 4)
    >>> windows.add(canvas, torch.ones(2, 2, 2))
    >>> canvas[1].tolist(), windows.crop(canvas)[1, 0].tolist()
    ([1.0, 2.0, 1.0, 0.0], [2.0, 1.0])
    """

    def __init__(self, corners: NDArray[np.int64], size: int, width: int, device: torch.device) -> None:
        self._size = size
        self._corners = torch.from_numpy(corners).to(device)
        self._slices: list[tuple[slice, slice]] | None = None
        if device.type == "cpu" and size >= _SLICED:
            self._slices = [(slice(i, i + size), slice(j, j + size)) for i, j in corners.tolist()]
        else:
            inside = torch.arange(size, device=device)
            first = self._corners[:, 0] * width + self._corners[:, 1]
            self._index = (first[:, None, None] + inside[:, None] * width + inside).reshape(-1)

    def crop(self, canvas: Tensor) -> Tensor:
        """Return what lies in the windows, (B, N, N)."""
        return crop_patches(canvas, self._corners, self._size)

    def add(self, canvas: Tensor, patches: Tensor) -> None:
        """Add patches (B, N, N) to the canvas in place, each in its window."""
        if self._slices is None:
            canvas.view(-1).index_add_(0, self._index, patches.reshape(-1))
            return
        for where, patch in zip(self._slices, patches, strict=True):
            canvas[where].add_(patch)

    def clear(self, canvas: Tensor) -> None:
        """Set the canvas to zero in the windows, in place."""
        if self._slices is None:
            canvas.view(-1).index_fill_(0, self._index, 0)
            return
        for where in self._slices:
            canvas[where] = 0
