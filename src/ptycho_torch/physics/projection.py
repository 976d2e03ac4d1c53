"""The modulus constraint: exit waves moved to those that explain the measured amplitudes.

    Delta_m = F^-1( A_m F psi_m / |F psi_m| ) - psi_m,     |F psi| = sqrt( sum_modes |F psi_p|^2 )

One home for the step that generators and solvers share.

References
----------
.. [1] J. R. Fienup, "Phase retrieval algorithms: a comparison", Applied Optics 21, 2758 (1982).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["intensity", "project"]


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
    field = torch.fft.fft2(wave)
    # Scaling the real modulus is cheaper than an orthonormal transform, which scales the complex field twice.
    scale = 1 / (wave.shape[-2] * wave.shape[-1])
    modulus = (intensity(field).unsqueeze(-3) * scale).add(1e-12).sqrt()
    misfit = modulus - measured
    if good is not None:
        misfit = misfit * good
    return torch.fft.ifft2(field * (misfit / modulus).neg()), misfit
