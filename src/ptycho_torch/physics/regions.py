"""Regions: a window of the object plane, and the frames whose patches lie in it.

A patch lies at whole pixels; the fraction of its position goes into its probe, as a Fourier shift:

    psi_m = P_m crop_m(o),     P_m(r) = P(r - f_m),     position_m = whole_m + f_m

so that taking a patch out and putting it back are plain indexing, exact and adjoint to each other, and
their cost is that of the patch alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "Placement",
    "crop_patches",
    "place",
    "put_patches",
    "shift_back",
    "shift_ramps",
    "shifted_probes",
]


@dataclass(frozen=True)
class Placement:
    """Where the frames of a region lie.

    Attributes
    ----------
    corners : (M, 2) int64 tensor
        Row and column of each patch's first pixel in the region.
    fractions : (M, 2) float32 tensor
        What is left of each position, (x, y) in pixels, from -0.5 to 0.5.
    shape : tuple of int
        Height and width of the region.
    origin_xy : (2,) float64 array
        Scan coordinate of the region's pixel [0, 0].
    """

    corners: Tensor
    fractions: Tensor
    shape: tuple[int, int]
    origin_xy: NDArray[np.float64]


def place(positions: NDArray[Any], size: int, margin: int = 0) -> Placement:
    """Return where frames lie in the smallest region that holds their patches.

    Parameters
    ----------
    positions : (M, 2) array
        (x, y) of each frame in object pixels; pixel [N//2, N//2] of a patch lies at its position.
    size : int
        Edge N of a patch.
    margin : int
        Pixels that the region extends further on every side.

    Examples
    --------
    >>> placed = place(np.array([[10.0, 20.25], [14.0, 20.0]]), size=8)
    >>> placed.corners.tolist(), placed.fractions.tolist(), placed.shape
    ([[0, 0], [0, 4]], [[0.0, 0.25], [0.0, 0.0]], (8, 12))
    """
    positions = np.asarray(positions, dtype=np.float64)
    whole = np.floor(positions + 0.5)
    low = whole.min(0) - size // 2 - margin
    width, height = (whole.max(0) - whole.min(0)).astype(int) + size + 2 * margin
    corners = (whole - size // 2 - low)[:, ::-1].astype(np.int64)
    return Placement(
        torch.from_numpy(corners.copy()),
        torch.from_numpy((positions - whole).astype(np.float32)),
        (int(height), int(width)),
        low,
    )


def crop_patches(canvas: Tensor, corners: Tensor, size: int, owner: Tensor | None = None) -> Tensor:
    """Return the patches under frames, (M, N, N).

    Parameters
    ----------
    canvas : (H, W) or (B, H, W) tensor
        One region or several of one shape, real or complex.
    corners : (M, 2) int64 tensor
        Row and column of each patch's first pixel.
    size : int
        Edge N of a patch.
    owner : (M,) int64 tensor, optional
        Which of several regions each frame belongs to.
    """
    return _Crop.apply(canvas, corners, size, owner)  # type: ignore[no-untyped-call, no-any-return]


def put_patches(
    patches: Tensor, corners: Tensor, shape: tuple[int, ...], owner: Tensor | None = None
) -> Tensor:
    """Return the sum of patches put at their places: the adjoint of :func:`crop_patches`.

    Parameters
    ----------
    patches : (M, N, N) tensor
    corners : (M, 2) int64 tensor
    shape : tuple of int
        (H, W) of one region, or (B, H, W) of several; then ``owner`` says whose each frame is.
    owner : (M,) int64 tensor, optional
    """
    return _Put.apply(patches, corners, tuple(shape), owner)  # type: ignore[no-untyped-call, no-any-return]


def _crop(canvas: Tensor, corners: Tensor, size: int, owner: Tensor | None) -> Tensor:
    windows = canvas.unfold(-2, size, 1).unfold(-2, size, 1)
    if owner is None:
        return windows[corners[:, 0], corners[:, 1]]
    return windows[owner, corners[:, 0], corners[:, 1]]


def _put(patches: Tensor, corners: Tensor, shape: tuple[int, ...], owner: Tensor | None) -> Tensor:
    size, (height, width) = patches.shape[-1], shape[-2:]
    inside = torch.arange(size, device=patches.device)
    first = corners[:, 0] * width + corners[:, 1]
    if owner is not None:
        first = first + owner * (height * width)
    index = first[:, None, None] + inside[:, None] * width + inside
    flat = patches.new_zeros(int(np.prod(shape)))
    return flat.index_add_(0, index.reshape(-1), patches.reshape(-1)).view(shape)


class _Crop(torch.autograd.Function):
    """Indexing whose backward pass is :class:`_Put`; torch's own would make a tensor of all windows."""

    @staticmethod
    def forward(ctx: Any, canvas: Tensor, corners: Tensor, size: int, owner: Tensor | None) -> Tensor:
        ctx.where = corners, tuple(canvas.shape), owner
        return _crop(canvas, corners, size, owner)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        corners, shape, owner = ctx.where
        return put_patches(gradient, corners, shape, owner), None, None, None


class _Put(torch.autograd.Function):
    """Summing patches at their places, with :class:`_Crop` as its backward pass."""

    @staticmethod
    def forward(
        ctx: Any, patches: Tensor, corners: Tensor, shape: tuple[int, ...], owner: Tensor | None
    ) -> Tensor:
        ctx.where = corners, patches.shape[-1], owner
        return _put(patches, corners, shape, owner)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        corners, size, owner = ctx.where
        return crop_patches(gradient.contiguous(), corners, size, owner), None, None, None


def shift_ramps(fractions: Tensor, size: int) -> Tensor:
    """Return what shifts a spectrum by fractions of a pixel: (M, N, N) factors ``exp(-2 pi i k f)``.

    In the order of ``fft2``; the Nyquist frequency keeps its cosine.

    Parameters
    ----------
    fractions : (M, 2) tensor
        (x, y) in pixels.
    size : int
        Edge N.
    """
    k = torch.fft.fftfreq(size, dtype=fractions.dtype, device=fractions.device)
    turn = -2 * np.pi * k * fractions[..., None]
    line = torch.polar(torch.ones_like(turn), turn)
    if size % 2 == 0:
        line = torch.cat(
            [
                line[..., : size // 2],
                line[..., size // 2 :][..., :1].real.to(line.dtype),
                line[..., size // 2 + 1 :],
            ],
            -1,
        )
    return line[:, 1, :, None] * line[:, 0, None, :]


def shifted_probes(probe: Tensor, fractions: Tensor) -> Tensor:
    """Return the probe as each frame sees it, (M, modes, N, N): ``P_m(r) = P(r - f_m)``.

    Parameters
    ----------
    probe : (modes, N, N) or (M, modes, N, N) complex tensor
    fractions : (M, 2) tensor
        (x, y) in pixels.

    Notes
    -----
    A Fourier shift. It keeps the probe's power, but for the Nyquist frequency, which a shift by a part
    of a pixel turns into its cosine. :func:`shift_back` is its adjoint.
    """
    ramps = shift_ramps(fractions, probe.shape[-1]).unsqueeze(1)
    return torch.fft.ifft2(torch.fft.fft2(probe) * ramps)


def shift_back(probes: Tensor, fractions: Tensor) -> Tensor:
    """Return probes (M, modes, N, N) moved back by their fractions: the adjoint of :func:`shifted_probes`."""
    ramps = shift_ramps(fractions, probes.shape[-1]).conj().unsqueeze(1)
    return torch.fft.ifft2(torch.fft.fft2(probes) * ramps)
