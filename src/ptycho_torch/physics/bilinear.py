"""Bilinear translation as the TensorFlow program does it, written as two matrices.

    T(image, t)[y, x] = image(x - t_x, y - t_y)

with linear interpolation between the four neighbours, each of which counts zero outside the image.
The weight of input pixel j for output coordinate s is ``max(0, 1 - |s - j|)``; rows and columns are
independent, so a translation is ``M_y @ image @ M_x^T``. The package's own sampling is cubic
(:mod:`ptycho_torch.physics.patches`); this one is for networks that were trained with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sampling_matrix", "translate"]


def sampling_matrix(
    shift: Tensor, inputs: int, outputs: int, first_input: int = 0, first_output: int = 0
) -> Tensor:
    """Matrices (..., outputs, inputs) of the shift's type that translate one axis by ``shift`` (...) pixels.

    Input j lies at coordinate ``first_input + j``, output i at ``first_output + i``, so parts of a
    canvas can be read or written without the rest. Coordinates are computed from the
    canvas's corner, as the TensorFlow program does, so that in float32 even the rounding is the same.
    """
    at = torch.arange(outputs, device=shift.device, dtype=shift.dtype) + first_output
    pixel = torch.arange(inputs, device=shift.device, dtype=shift.dtype) + first_input
    sample = at - shift.unsqueeze(-1)
    return (1 - (sample.unsqueeze(-1) - pixel).abs()).clamp_min(0)


def translate(image: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """``down @ image @ across^T`` for a complex image (..., H, W) and real matrices.

    ``down``: (..., H', H), ``across``: (..., W', W); leading axes broadcast. Real and imaginary
    parts are translated separately, so the matrices stay real.
    """
    parts = torch.stack([image.real, image.imag], -3)
    done = down.unsqueeze(-3) @ parts @ across.unsqueeze(-3).transpose(-2, -1)
    return torch.complex(done.select(-3, 0), done.select(-3, 1))
