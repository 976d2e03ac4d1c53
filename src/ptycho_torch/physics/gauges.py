"""Gauges: what frames cannot tell about object, probe and positions, and how it is fixed.

Every line leaves all intensities ``|F(P_m crop_m(o))|^2`` as they are:

    phase:      o -> e^(i phi) o
    amplitude:  o -> c o,  P -> P / c
    modes:      P_p -> sum_q U_pq P_q,  U unitary
    shift:      o(r) -> o(r - s),  r_m -> r_m + s
    ramp:       o(r) -> e^(i q r) o(r),  P(r) -> e^(-i q r) P(r)

Solvers and stitching choose: phases agree with what was there before, the amplitude is that under a probe
that explains the scan's own frames, modes are orthogonal and by falling power, positions keep their mean.
The ramp stays where probe and object began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["keep_mean", "level", "object_scale", "orthogonal_modes", "unit_phase"]


def unit_phase(values: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Return ``v / |v|``, and 1 where v is 0.

    Of a product ``sum conj(a) b`` it is the global phase that turns a onto b.

    Examples
    --------
    >>> unit_phase(np.array([2j, 0])).tolist()
    [1j, (1+0j)]
    """
    size = np.abs(values)
    ones = np.ones(np.shape(values), dtype=np.complex128)
    return np.asarray(np.divide(values, size, out=ones, where=size > 0))


def level(obj: NDArray[np.complexfloating], weight: NDArray[np.floating]) -> float:
    """Return the mean amplitude of an object where it was lit: what a flat object has in the same gauge.

    Parameters
    ----------
    obj : (H, W) complex array
    weight : (H, W) real array
        Pixels below a thousandth of its maximum do not count.
    """
    return float(np.abs(obj[weight > 1e-3 * weight.max()]).mean())


def object_scale(frames: Tensor, patches: Tensor, probe: Tensor, mask: Tensor | None = None) -> float:
    """Return the factor that takes an object from its own gauge to that of frames and probe.

    Parameters
    ----------
    frames : Tensor
        (B, C, N, N) amplitudes.
    patches : Tensor
        (B, C, N, N) complex: the object under each frame.
    probe : Tensor
        (modes, N, N) complex.
    mask : Tensor, optional
        (N, N) bool of good pixels.

    Raises
    ------
    DataError
        When the object makes no light at all in these frames.

    Examples
    --------
    >>> import torch
    >>> from ptycho_torch.physics.propagation import diffract
    >>> probe, patches = torch.ones(1, 4, 4) + 0j, torch.ones(2, 1, 4, 4) + 0j
    >>> round(object_scale(3 * diffract(patches, probe), patches, probe), 6)
    3.0
    """
    from ptycho_torch.physics.propagation import diffract  # the rest of this module needs no torch

    made = diffract(patches, probe)
    if mask is not None:
        frames, made = frames * mask, made * mask
    # Powers and not amplitudes: the noise of counts adds none in the mean.
    ratio = float(frames.square().sum().double() / made.square().sum().double())
    if not (float(patches.abs().max()) > 0 and np.isfinite(ratio) and ratio > 0):
        raise DataError("objectGuess: nothing of it lies under the frames")
    return float(np.sqrt(ratio))


def orthogonal_modes(probe: NDArray[Any]) -> NDArray[Any]:
    """Return the modes that are orthogonal, by falling power, and give the same intensities.

    Parameters
    ----------
    probe : (modes, N, N) complex array
        Read as a matrix ``P = U S V``; ``S V`` is returned.

    References
    ----------
    .. [1] P. Thibault and A. Menzel, Nature 494, 68 (2013).
    """
    if len(probe) == 1:
        return probe
    _, powers, modes = np.linalg.svd(probe.reshape(len(probe), probe.size // len(probe)), full_matrices=False)
    return (powers[:, None] * modes).reshape(probe.shape)


def keep_mean(moved: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """Return moves (M, 2) of positions without their common shift, none longer than ``largest`` along an axis.

    Object and positions may shift together, so that their mean move says nothing.
    """
    return (moved - moved.mean(0)).clip(-largest, largest)
