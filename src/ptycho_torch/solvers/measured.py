"""Frames as solvers read them: scaled, with zero frequency at pixel [0, 0], from the file once if they fit."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.files.memory import memory_limit

__all__ = ["Measured"]

_SHARE: Final = 8
"""Frames up to this part of the memory are kept once read."""


class Measured:
    """Amplitudes of a scan, a mini-batch at a time.

    Parameters
    ----------
    frames : (M, N, N) array-like
        Amplitudes with their zero frequency in the middle; anything with ``shape`` and indexing.
    factor : float
        What they are multiplied by.
    good_pixels : (N, N) bool array, optional
        Pixels that can be trusted; the others read 0.
    device : torch.device
        Where batches are wanted.
    keep : bool
        Whether frames that were read once may stay in memory, where they fit.
    """

    def __init__(
        self,
        frames: Any,
        factor: float = 1.0,
        good_pixels: NDArray[np.bool_] | None = None,
        device: torch.device | str = "cpu",
        keep: bool = True,
    ) -> None:
        self._frames, self._device = frames, torch.device(device)
        self.count, self.size = int(frames.shape[0]), int(frames.shape[-1])
        scale = np.full((self.size, self.size), factor, dtype=np.float32)
        self.good: Tensor | None = None
        if good_pixels is not None:
            scale *= good_pixels
            self.good = torch.from_numpy(np.fft.ifftshift(good_pixels)).to(self._device)
        self._scale = torch.from_numpy(scale)
        self._kept: Tensor | None = None
        self._known = np.zeros(self.count, dtype=bool)
        if keep and 4 * self.count * self.size**2 <= self._free() // _SHARE:
            self._kept = torch.empty(self.count, self.size, self.size, device=self._device)

    def batch(self, index: NDArray[np.int64]) -> Tensor:
        """Return frames (B, 1, N, N), zero frequency at [0, 0]; ``index`` in rising order."""
        if self._kept is None:
            return self._read(index).to(self._device).unsqueeze(1)
        missing = index[~self._known[index]]
        if len(missing):
            self._kept[torch.from_numpy(missing).to(self._device)] = self._read(missing).to(self._device)
            self._known[missing] = True
        return self._kept[torch.from_numpy(index).to(self._device)].unsqueeze(1)

    def _free(self) -> int:
        """Bytes that are free where frames would be kept."""
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0])
        return memory_limit()

    def _read(self, index: NDArray[np.int64]) -> Tensor:
        read = torch.from_numpy(np.array(self._frames[index], dtype=np.float32))
        return torch.fft.ifftshift(read * self._scale, dim=(-2, -1))
