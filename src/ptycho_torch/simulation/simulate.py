"""The forward model in numpy float64, and simulated scans.

Written apart from ``ptycho_torch.physics``, which is checked against it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ptycho_torch.errors import DataError
from ptycho_torch.scan import Scan, ScanSource

__all__ = ["crop_patches", "diffract", "simulate_scan"]

_CHUNK = 64


def _taps(fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (..., 4) of the pixels at -1, 0, 1, 2 for a point ``fraction`` beyond pixel 0.

    Keys' cubic convolution with a = -1/2, written out for the four pixels.
    """
    t = fraction[..., None]
    t2, t3 = t**2, t**3
    return 0.5 * np.concatenate(
        [-t + 2 * t2 - t3, 2 - 5 * t2 + 3 * t3, t + 4 * t2 - 3 * t3, t3 - t2], axis=-1
    )


def crop_patches(
    obj: NDArray[np.complexfloating], positions: NDArray[np.floating], size: int
) -> NDArray[np.complex128]:
    """Cut patches out of an object, to a fraction of a pixel.

    Parameters
    ----------
    obj : (H, W) complex array
    positions : (M, 2) array
        (x, y), pixels: where a patch's pixel [N//2, N//2] lies.
    size : int
        N.

    Returns
    -------
    (M, N, N) complex128 array
        By cubic convolution, exact at whole pixels.

    Raises
    ------
    DataError
        When a patch would leave the object.

    Examples
    --------
    >>> obj = np.arange(36.0).reshape(6, 6) + 0j
    >>> crop_patches(obj, np.array([[2.0, 3.0]]), 2)[0].real.tolist()
    [[13.0, 14.0], [19.0, 20.0]]
    """
    obj = np.asarray(obj, dtype=np.complex128)
    corner = np.asarray(positions, dtype=np.float64)[:, ::-1] - size // 2  # (row, column)
    room = np.array(obj.shape) - size
    outside = (~((corner >= 0) & (corner <= room))).any(axis=1)  # NaN is outside, too
    if outside.any():
        first = int(np.argmax(outside))
        raise DataError(
            f"positions: expected x in [{size // 2}, {room[1] + size // 2}] and y in [{size // 2},"
            f" {room[0] + size // 2}] for an object {obj.shape} and N = {size}, found {positions[first]} at {first}"
        )
    padded = np.pad(obj, ((1, 2), (1, 2)))  # the outer taps of patches at the rim; their weight is 0 there
    whole = np.floor(corner).astype(np.int64)
    rows, columns = np.moveaxis(_taps(corner - whole), 1, 0)  # (M, 4) each
    reach = np.arange(size + 3)
    block = padded[(whole[:, :1] + reach)[:, :, None], (whole[:, 1:] + reach)[:, None, :]]
    tall = sum(rows[:, k, None, None] * block[:, k : k + size, :] for k in range(4))
    return np.asarray(sum(columns[:, k, None, None] * tall[:, :, k : k + size] for k in range(4)))


def diffract(patches: NDArray[Any], probe: NDArray[Any]) -> NDArray[np.float64]:
    """Return intensities ``sum_p |fftshift FFT2(P_p o) / N|^2``.

    Parameters
    ----------
    patches : (M, N, N) array
    probe : (modes, N, N) array

    Returns
    -------
    (M, N, N) float64 array
        DC at pixel [N//2, N//2]. The transform is orthonormal: an intensity sums to its exit waves' power.

    Examples
    --------
    >>> float(diffract(np.ones((1, 4, 4)), np.ones((1, 4, 4)))[0, 2, 2])
    16.0
    """
    total = np.zeros(patches.shape)
    for mode in np.asarray(probe, dtype=np.complex128):
        wave = fft.fft2(mode * patches, norm="ortho")
        total += wave.real**2 + wave.imag**2
    return fft.fftshift(total, axes=(-2, -1))


def simulate_scan(
    obj: NDArray[Any],
    probe: NDArray[Any],
    positions: NDArray[np.floating],
    *,
    photons: float = 1e6,
    seed: int = 0,
    noise: bool = True,
) -> Scan:
    """Simulate a scan of a known object: frames ``sqrt(Poisson(|F(P o)|^2))`` as float32.

    Parameters
    ----------
    obj : (H, W) array
        Complex or real; pixel [0, 0] lies at (0, 0).
    probe : (N, N) or (modes, N, N) array
        In any scale.
    positions : (M, 2) array
        (x, y), pixels.
    photons : float
        Mean photons in a frame.
    seed : int
        The same seed gives the same frames.
    noise : bool
        False gives the expected amplitudes.

    Returns
    -------
    Scan
        Its probe is scaled so that it and ``object_guess``, the truth, predict the counts.

    Raises
    ------
    DataError
        For shapes that do not fit, patches outside the object, photons not in (0, 1e15], or an exit wave without
        power.

    Examples
    --------
    >>> from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
    >>> obj = make_object("grf", 96, 0)
    >>> scan = simulate_scan(obj, make_probe("disk", 32), make_positions("grid", obj.shape, 32, step=8), photons=1e4)
    >>> scan.frames.shape, round(scan.mean_power / 1e4, 1)
    ((81, 32, 32), 1.0)
    """
    modes = np.asarray(probe, dtype=np.complex128)
    modes = modes[None] if modes.ndim == 2 else modes
    obj, places = np.asarray(obj), np.array(positions, dtype=np.float64)
    if modes.ndim != 3 or modes.shape[1] != modes.shape[2]:
        raise DataError(f"probe: expected shape (N, N) or (modes, N, N), found {np.shape(probe)}")
    if obj.ndim != 2 or not np.isfinite(obj).all():
        raise DataError(f"object: expected finite values of shape (H, W), found shape {obj.shape}")
    if places.ndim != 2 or places.shape[1] != 2 or len(places) == 0:
        raise DataError(f"positions: expected shape (M, 2), found {places.shape}")
    if not 0 < photons <= 1e15:
        raise DataError(f"photons: expected a mean per frame between 0 and 1e15, found {photons}")
    size = modes.shape[-1]
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(places), _CHUNK)]
    illumination = np.sum(np.abs(modes) ** 2, axis=0)
    power = sum(
        float(np.sum(np.abs(crop_patches(obj, places[chunk], size)) ** 2 * illumination)) for chunk in chunks
    ) / len(places)
    if not (np.isfinite(power) and power > 0):
        raise DataError(f"probe and object: expected exit waves with finite power, found a mean of {power}")
    modes = modes * np.sqrt(photons / power)
    rng = np.random.default_rng(seed)
    frames = np.empty((len(places), size, size), np.float32)
    for chunk in chunks:
        rate = diffract(crop_patches(obj, places[chunk], size), modes)
        frames[chunk] = np.sqrt(rng.poisson(rate) if noise else rate)
    kind = "with photon noise" if noise else "without noise"
    why = f"Simulated {kind} at {photons:g} photons per frame, seed {seed}; stored as sqrt(counts)."
    return Scan(
        frames=frames,
        positions=places,
        probe=modes.astype(np.complex64),
        object_guess=obj.astype(np.complex64),
        source=ScanSource("simulation", "simulation", "", "counts", why),
        counts_known=noise,
    )
