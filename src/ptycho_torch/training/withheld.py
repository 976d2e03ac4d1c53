"""Losses of adaptation, none of which needs a label.

A withheld frame is predicted from the others. Its noise is in nobody's input, so a network cannot learn it:

    R_w^2 = sum_m w_m sum ( |F(P crop_m o)| - A_m )^2 / sum_m w_m sum A_m^2,      m: frames that o, P were not made from

with w_m the part of a frame's light that falls where the given frames lie. Frames without overlap say nothing of
each other; for them there is :func:`equivariance`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.generators.region_frames import RegionFrames, Solution
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.physics.regions import crop_patches, shifted_probes

__all__ = ["equivariance", "predicted_error"]

_LIT = 0.1
"""Coverage at which a pixel counts half."""


def predicted_error(solution: Solution, hidden: RegionFrames) -> Tensor:
    """R_w of each region, (B,): how far frames that the solver was not given are from what it predicts of them.

    One factor on each region's object is free, as it is in use, where it is fitted to the frames.
    """
    obj, owner, size = solution.objects[-1], hidden.owner, hidden.amplitudes.shape[-1]
    waves = shifted_probes(solution.probe[owner], hidden.fractions)
    under = crop_patches(obj, hidden.corners, size, owner).unsqueeze(1)
    field = torch.fft.fft2(under * waves, norm="ortho")
    power = (field.real.square() + field.imag.square()).sum(1)
    modulus = torch.fft.fftshift(power + 1e-12, dim=(-2, -1)).sqrt()
    measured = hidden.amplitudes
    if hidden.good is not None:
        modulus, measured = modulus * hidden.good, measured * hidden.good
    with torch.no_grad():
        light = (waves.real.square() + waves.imag.square()).sum(1)
        cover = crop_patches(solution.coverage, hidden.corners, size, owner)
        seen = (light * cover / (cover + _LIT)).sum((1, 2)) / light.sum((1, 2)).clamp_min(1e-12)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(len(solution.probe)).index_add(0, owner, seen * values.sum((1, 2)))

    norm = total(measured.square()).clamp_min(1e-12)
    with torch.no_grad():
        factor = total(modulus * measured) / total(modulus.square()).clamp_min(1e-12)
    error = total((factor[owner][:, None, None] * modulus - measured).square()) / norm
    return (error + 1e-9).sqrt()


def equivariance(solver: RegionSolver, given: RegionFrames, rng: np.random.Generator) -> Tensor:
    """How well single frames are explained, and how differently a moved copy of what is found in each is found.

        | |F(P o)| - A | / |A|  +  | f( |F(P T o)| ) - T o |_1,       o = f(A)

    T: a shift by up to N/8 and one of the square's eight symmetries. For frames without overlap: what one frame
    leaves open where the probe is faint is not left open when the same object lies elsewhere in it.

    References
    ----------
    .. [1] D. Chen, J. Tachella and M. E. Davies, "Equivariant imaging", ICCV 2021.
    """
    size = given.amplitudes.shape[-1]
    waves = shifted_probes(given.probe[given.owner], given.fractions)
    power = (waves.real.square() + waves.imag.square()).sum(1)
    found = solver(given, update_probe=False, keep=True)
    own = predicted_error(found, given).mean()
    obj = found.objects[-1]
    moved = torch.rot90(obj, int(rng.integers(4)), (-2, -1))
    moved = moved.flip(-1) if rng.random() < 0.5 else moved
    shift = rng.integers(-(size // 8), size // 8 + 1, 2)
    moved = moved.roll((int(shift[0]), int(shift[1])), (-2, -1))
    field = torch.fft.fft2(moved.unsqueeze(1) * waves, norm="ortho")
    frames = torch.fft.fftshift(
        (field.real.square() + field.imag.square()).sum(1) + 1e-12, dim=(-2, -1)
    ).sqrt()
    again = solver(replace(given, amplitudes=frames), update_probe=False, keep=True).objects[-1]
    with torch.no_grad():
        overlap = (power * moved * again.conj()).sum((-2, -1), keepdim=True)
        turn = overlap / overlap.abs().clamp_min(1e-12)
    apart = (power * (again * turn - moved).abs()).sum((-2, -1)) / (power * moved.abs().detach()).sum(
        (-2, -1)
    )
    return own + apart.mean()
