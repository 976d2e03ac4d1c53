"""Moving between a group's common region and its patches, with sub-pixel offsets.

    crop:      o_c = Y_c R X_c^T         assemble:   R = sum_c Y_c^T p_c X_c

``Y_c`` and ``X_c`` are (N, R) sampling matrices: row i interpolates the region at pixel
``R//2 + i - N//2 + r_c``. Interpolation is Keys' cubic convolution (a = -1/2), which is exact at
whole pixels and for quadratics. ``assemble`` is the exact adjoint of ``crop`` because it uses the
transposed matrices. Pixel [N//2, N//2] of a patch lies at its position; pixel [R//2, R//2] of the
region lies at the group's mean position.

Source of the kernel: R. G. Keys, IEEE Trans. ASSP 29, 1153 (1981).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ptycho_torch.errors import DataError

__all__ = [
    "Sampler",
    "assemble",
    "crop",
    "cubic_kernel",
    "merge",
    "merged_under",
    "region_size",
    "sampling_matrices",
]


def cubic_kernel(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -1/2 at ``distance`` pixels; 0 beyond 2."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def region_size(offsets: Tensor, size: int, multiple: int = 8) -> int:
    """Smallest R, a multiple of ``multiple``, that holds every patch with its interpolation margin.

    ``offsets``: (..., 2) pixels, ``size``: N. Reads the offsets' maximum, so call it once per scan.
    """
    reach = float(offsets.abs().max()) if offsets.numel() else 0.0
    margin = 0 if reach == 0 else math.ceil(reach) + 2
    return math.ceil((size + 2 * margin) / multiple) * multiple


def sampling_matrices(offsets: Tensor, size: int, region: int) -> tuple[Tensor, Tensor]:
    """The pair ``(Y, X)`` of (..., N, R) matrices for offsets (..., 2) = (x, y).

    Source pixels outside the region count as zero.
    """
    device, dtype = offsets.device, offsets.dtype
    target = torch.arange(size, device=device, dtype=dtype) - size // 2 + region // 2
    source = torch.arange(region, device=device, dtype=dtype)
    x, y = offsets[..., 0], offsets[..., 1]
    grid = target[:, None] - source[None, :]
    return cubic_kernel(grid + y[..., None, None]), cubic_kernel(grid + x[..., None, None])


def _sandwich(left: Tensor, image: Tensor, right: Tensor) -> Tensor:
    """``left @ image @ right`` for real matrices and a real or complex image."""
    if not image.is_complex():
        return left @ image @ right
    return torch.complex(left @ image.real @ right, left @ image.imag @ right)


class Sampler:
    """:func:`crop` and :func:`assemble` of one set of offsets, for loops: the matrices are made once."""

    def __init__(self, offsets: Tensor, size: int, region: int) -> None:
        _check(offsets)
        self.y, self.x = sampling_matrices(offsets, size, region)

    def crop(self, region: Tensor) -> Tensor:
        """(B, R, R) -> (B, C, N, N)."""
        return _sandwich(self.y, region.unsqueeze(-3), self.x.mT)

    def assemble(self, patches: Tensor) -> Tensor:
        """(B, C, N, N) -> (B, R, R)."""
        return _sandwich(self.y.mT, patches, self.x).sum(-3)


def crop(region: Tensor, offsets: Tensor, size: int) -> Tensor:
    """Patches of a region: (B, R, R), offsets (B, C, 2) in pixels -> (B, C, N, N)."""
    return Sampler(offsets, size, region.shape[-1]).crop(region)


def assemble(patches: Tensor, offsets: Tensor, region: int) -> Tensor:
    """Adjoint of :func:`crop`, the sum of patches put back: (B, C, N, N) -> (B, R, R)."""
    return Sampler(offsets, patches.shape[-1], region).assemble(patches)


def merge(patches: Tensor, weight: Tensor, offsets: Tensor, region: int, eps: float = 1e-3) -> Tensor:
    """Weighted mean of a group's patches, ``sum_k T(w o_k) / (sum_k T(w) + eps max w)``.

    ``patches``: (B, C, N, N); ``weight``: (N, N), not negative, usually |P|^2. Returns (B, R, R);
    about zero where no patch reaches. ``eps`` is relative to the largest weight.
    """
    _check(offsets)
    y, x = sampling_matrices(offsets, patches.shape[-1], region)
    total = _sandwich(y.mT, patches * weight, x).sum(-3)
    # Weights are translated by the same cubic kernel, whose lobes may dip below zero at an edge.
    norm = (y.mT @ weight @ x).sum(-3).clamp_min(0)
    return total / (norm + eps * weight.max())


def merged_under(
    patches: Tensor, weight: Tensor, offsets: Tensor, region: int, own: float = 1.0, eps: float = 1e-3
) -> Tensor:
    """What the group's :func:`merge` puts under each member, with the member's own share scaled by ``own``.

        m_c = R_c( sum_k T(w o_k) - (1 - own) T(w o_c) ) / ( R_c( sum_k T(w) - (1 - own) T(w) ) + eps max w )

    Arguments as in :func:`merge`; ``own`` = 1 is its crop, 0 leaves each member to its neighbours.
    Returns (B, C, N, N).
    """
    sampler = Sampler(offsets, patches.shape[-1], region)
    lit = (patches * weight, weight.expand(patches.shape))
    top, bottom = (sampler.crop(sampler.assemble(part)) for part in lit)
    if own != 1:
        down, across = sampler.y @ sampler.y.mT, sampler.x @ sampler.x.mT
        top = top - (1 - own) * _sandwich(down, lit[0], across)
        bottom = bottom - (1 - own) * _sandwich(down, lit[1], across)
    return top / (bottom.clamp_min(0) + eps * weight.max())


def _check(offsets: Tensor) -> None:
    if offsets.ndim != 3 or offsets.shape[-1] != 2:
        raise DataError(f"offsets: expected shape (B, C, 2), found {tuple(offsets.shape)}")
