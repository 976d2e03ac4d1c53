"""Between the channels-last arrays of the TensorFlow program and this package's channels-first tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.errors import DataError

__all__ = ["from_channels_last", "to_channels_last"]


def _tensor(value: Tensor | NDArray[Any]) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))


def from_channels_last(
    frames: Tensor | NDArray[Any], positions: Tensor | NDArray[Any]
) -> tuple[Tensor, Tensor]:
    """The two inputs of a TensorFlow model as inputs of the model read from its archive.

    ``frames`` (B, N, N, C) amplitudes times the intensity scale; ``positions`` (B, 1, 2, C) pixels,
    x before y. Returns (B, C, N, N) and (B, C, 1, 2), float32. The sign of the positions is kept: that
    program gives group mean minus member, and that is what a model with its weights takes
    (``generator.offset_sign`` is -1). Raises :class:`~ptycho_torch.errors.DataError` on other shapes.
    """
    x, places = _tensor(frames), _tensor(positions)
    if x.ndim != 4 or x.shape[1] != x.shape[2]:
        raise DataError(f"frames: expected shape (B, N, N, C), found {tuple(x.shape)}")
    if places.shape != (x.shape[0], 1, 2, x.shape[3]):
        raise DataError(
            f"positions: expected shape {(x.shape[0], 1, 2, x.shape[3])}, found {tuple(places.shape)}"
        )
    return (
        x.permute(0, 3, 1, 2).to(torch.float32).contiguous(),
        places.permute(0, 3, 1, 2).to(torch.float32).contiguous(),
    )


def to_channels_last(images: Tensor | NDArray[Any]) -> Tensor:
    """(B, C, N, N) objects or amplitudes as (B, N, N, C), of the same type.

    Raises :class:`~ptycho_torch.errors.DataError` unless there are four axes.
    """
    images = _tensor(images)
    if images.ndim != 4:
        raise DataError(f"images: expected shape (B, C, N, N), found {tuple(images.shape)}")
    return images.permute(0, 2, 3, 1).contiguous()
