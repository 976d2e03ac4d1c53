"""Far-field propagation between sample and detector.

    psi_p = P_p * o,   Psi_p = fftshift(FFT2(psi_p)) / N,   A^2 = sum_p |Psi_p|^2

The transform is orthonormal, so power is conserved and the adjoint is the inverse. DC lies at
pixel [N//2, N//2] of the detector. Source: J. W. Goodman, Introduction to Fourier Optics.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["diffract", "intensity", "propagate", "propagate_back"]

_AXES = (-2, -1)


def propagate(exit_wave: Tensor) -> Tensor:
    """Detector field of an exit wave, ``fftshift(FFT2(psi)) / N``; any leading axes, complex."""
    return torch.fft.fftshift(torch.fft.fft2(exit_wave, norm="ortho"), dim=_AXES)


def propagate_back(field: Tensor) -> Tensor:
    """Inverse, and adjoint, of :func:`propagate`."""
    return torch.fft.ifft2(torch.fft.ifftshift(field, dim=_AXES), norm="ortho")


def intensity(patches: Tensor, probe: Tensor) -> Tensor:
    """``sum_p |F(P_p o)|^2``, modes added in intensity.

    ``patches``: (B, C, N, N) complex; ``probe``: (modes, N, N) complex. Returns (B, C, N, N) real.
    """
    field = propagate(patches.unsqueeze(-3) * probe)
    return (field.real.square() + field.imag.square()).sum(-3)


def diffract(patches: Tensor, probe: Tensor, eps: float = 1e-12) -> Tensor:
    """Amplitude at the detector, ``sqrt(sum_p |F(P_p o)|^2 + eps)``.

    Shapes as :func:`intensity`; unit of the result: that of probe times patch. ``eps`` keeps the
    gradient finite where the field vanishes and shifts no amplitude by more than ``sqrt(eps)``.
    """
    return torch.sqrt(intensity(patches, probe) + eps)
