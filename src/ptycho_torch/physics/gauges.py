"""The gauge of amplitudes: what goes with frames, with objects, and with counts. One place for all.

A model works in normalised amplitudes ``x`` and a probe of its own power, so

    x = f A,        f = (N/2) / sqrt(mean frame power of A)        (units.amplitude_normalisation)
    x = |F P o|,    c = sqrt( sum x^2 / sum |F P o'|^2 )           o = c o' from an object o' in any gauge
    sqrt(counts) = s x

where ``s = 1/f`` for a scan that is in counts. A scan of another exposure has another f, and hence another s,
under the same object.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ptycho_torch.errors import DataError
from ptycho_torch.physics.propagation import diffract

__all__ = ["counts_scale", "object_scale"]


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
    >>> probe, patches = torch.ones(1, 4, 4) + 0j, torch.ones(2, 1, 4, 4) + 0j
    >>> round(object_scale(3 * diffract(patches, probe), patches, probe), 6)
    3.0
    """
    made = diffract(patches, probe)
    if mask is not None:
        frames, made = frames * mask, made * mask
    # Powers and not amplitudes: the noise of counts adds none in the mean.
    ratio = float(frames.square().sum().double() / made.square().sum().double())
    if not (float(patches.abs().max()) > 0 and np.isfinite(ratio) and ratio > 0):
        raise DataError("objectGuess: expected an object that lights the frames, found none under them")
    return float(np.sqrt(ratio))


def counts_scale(
    normalisation: float, counts_known: bool, trained_scale: float, trained_normalisation: Any = None
) -> float:
    """Return s from normalised amplitude to sqrt(counts), for the scan whose frames are at hand.

    Parameters
    ----------
    normalisation : float
        f of this scan.
    counts_known : bool
        Whether its squared frames are counts.
    trained_scale : float
        s of the scan that a model was trained on.
    trained_normalisation : float, optional
        f of that scan, where it is known; the two together say what a unit of its frames was worth.

    Examples
    --------
    >>> counts_scale(0.5, True, 40.0), counts_scale(0.5, False, 40.0, 0.05), counts_scale(0.5, False, 40.0)
    (2.0, 4.0, 40.0)
    """
    if counts_known:
        return 1 / normalisation
    if trained_normalisation is None:
        return trained_scale
    return trained_scale * float(trained_normalisation) / normalisation
