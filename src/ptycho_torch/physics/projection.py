"""The modulus constraint: exit waves moved to those that explain the measured amplitudes.

    Delta_m = F^-1( A_m F psi_m / |F psi_m| ) - psi_m,     |F psi| = sqrt( sum_modes |F psi_p|^2 )

One home for the step that generators and solvers share.

References
----------
.. [1] J. R. Fienup, "Phase retrieval algorithms: a comparison", Applied Optics 21, 2758 (1982).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["change_of", "intensity", "project"]

_TINY = 1e-12


def intensity(waves: Tensor) -> Tensor:
    """Return ``sum_modes |psi_p|^2``, (..., N, N), of waves (..., modes, N, N).

    Examples
    --------
    >>> intensity(torch.tensor([[[3 + 4j]], [[1j]]])).tolist()
    [[26.0]]
    """
    parts = torch.view_as_real(waves).square()
    each = parts[..., 0] + parts[..., 1]
    return each.squeeze(-3) if each.shape[-3] == 1 else each.sum(-3)


def project(wave: Tensor, measured: Tensor, good: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the change of exit waves towards the measured moduli, and the misfit of the moduli.

    Parameters
    ----------
    wave : (..., modes, N, N) complex tensor
        Exit waves.
    measured : (..., 1, N, N) real tensor
        Measured amplitudes, zero frequency at pixel [0, 0] (``ifftshift``\\ ed).
    good : (N, N) bool tensor, optional
        Pixels that can be trusted, in the same order; the others are left as they are.

    Returns
    -------
    change : (..., modes, N, N) complex tensor
        Delta above.
    misfit : (..., 1, N, N) real tensor
        ``|F psi| - A``, zero at pixels that cannot be trusted.
    """
    field, modulus = _field(wave)
    misfit = modulus - measured
    if good is not None:
        misfit = misfit * good
    return torch.fft.ifft2(field * (misfit / modulus).neg()), misfit


def change_of(wave: Tensor, measured: Tensor, good: Tensor | None = None) -> Tensor:
    """Return the change alone, with a backward pass of its own: half the time and memory of the automatic one.

    Parameters are those of :func:`project`.

    Notes
    -----
    With ``Psi = F psi`` and ``m = |Psi|``, the gradient G of a loss by Delta becomes, by psi,

        F^-1( (A/m - 1) F G - A/m^3 Psi sum_modes Re(conj(Psi) F G) ),

    since the derivative of ``Psi (A/m - 1)`` is symmetric; by A it becomes ``sum_modes Re(conj(Psi) F G) / m``.
    """
    if not torch.is_grad_enabled() or not wave.requires_grad:
        return project(wave, measured, good)[0]
    return _Change.apply(wave, measured, good)  # type: ignore[no-untyped-call, no-any-return]


def _field(wave: Tensor) -> tuple[Tensor, Tensor]:
    """``F psi``, not normalised, and the modulus of the orthonormal one."""
    field = torch.fft.fft2(wave)
    # Scaling the real modulus is cheaper than an orthonormal transform, which scales the complex field twice.
    scale = 1 / (wave.shape[-2] * wave.shape[-1])
    return field, (intensity(field).unsqueeze(-3) * scale).add(_TINY).sqrt()


class _Change(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wave: Tensor, measured: Tensor, good: Tensor | None) -> Tensor:
        field, modulus = _field(wave)
        misfit = modulus - measured
        if good is not None:
            misfit = misfit * good
        ratio = (misfit / modulus).neg_()
        ctx.good = good
        ctx.save_for_backward(field, modulus, measured, ratio)
        return torch.fft.ifft2(field * ratio)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        field, modulus, measured, ratio = ctx.saved_tensors
        pull = torch.fft.fft2(gradient)
        along = (field.real * pull.real + field.imag * pull.imag).sum(-3, keepdim=True)
        # The field is N times the orthonormal one, and stands here twice.
        along = along / (gradient.shape[-2] * gradient.shape[-1])
        if ctx.good is not None:
            along = along * ctx.good
        by_measured = along / modulus if ctx.needs_input_grad[1] else None
        along = along * measured / modulus.pow(3)
        return torch.fft.ifft2(pull * ratio - field * along), by_measured, None
