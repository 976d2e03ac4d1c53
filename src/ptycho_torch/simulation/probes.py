"""Probes to simulate with: (modes, N, N) complex64, centred at pixel [N//2, N//2] or half beside it.

Their scale is arbitrary: :func:`ptycho_torch.simulation.simulate_scan` scales to the photons asked for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter

from ptycho_torch.errors import DataError, ScanNotFoundError
from ptycho_torch.scan import read_probe

__all__ = ["PROBE_NAMES", "disk", "gaussian", "make_probe", "zone_plate"]

Probe = NDArray[np.complex64]

PROBE_NAMES = ("disk", "gaussian", "zoneplate")


def disk(size: int = 64) -> Probe:
    """The "ideal" probe of the lines benchmark: a soft-edged disk of flat phase.

    A Gaussian window of std ``N/(0.7 pi^2)``, outer product above 0.5, filtered with sigma 1, plus 1e-9.
    """
    x = np.arange(size) - (size - 1) / 2
    window = np.exp(-0.5 * (x / (size / (0.7 * np.pi**2))) ** 2)
    hard = (np.outer(window, window) > 0.5).astype(np.float64)
    return (gaussian_filter(hard, 1) + 1e-9).astype(np.complex64)[None]


def gaussian(size: int = 64, fwhm: float = 0.3) -> Probe:
    """A Gaussian of flat phase; ``fwhm`` of the intensity as a fraction of N."""
    x = np.arange(size) - size // 2
    line = np.exp(-2 * np.log(2) * (x / (fwhm * size)) ** 2)
    return np.outer(line, line).astype(np.complex64)[None]


def zone_plate(size: int = 64, aperture: float = 0.25, reach: float = 0.22) -> Probe:
    """The defocused beam of a zone plate with central stop, a little astigmatic and comatic.

        P = F^-1( ring(k) exp(i alpha (q^2 + 0.2 (q_x^2 - q_y^2) + 0.12 q^2 q_x)) ),   q = k / (aperture N)

    with ``alpha = pi reach aperture N``, so that geometrically the beam reaches ``reach * N`` pixels far.
    Its curved, unsymmetric phase tells an object from its twin, which a flat probe does not.
    ``aperture``: radius in Fourier space as a fraction of N.
    """
    edge = aperture * size
    y, x = (fft.fftfreq(size, 1 / size) / edge)[:, None], (fft.fftfreq(size, 1 / size) / edge)[None, :]
    q2 = x**2 + y**2
    radius = np.sqrt(q2)
    ring = np.clip((1 - radius) * edge + 0.5, 0, 1) * np.clip((radius - 0.3) * edge + 0.5, 0, 1)
    phase = np.pi * reach * edge * (q2 + 0.2 * (x**2 - y**2) + 0.12 * q2 * x)
    wave = fft.fftshift(fft.ifft2(ring * np.exp(1j * phase), norm="ortho"))
    return wave.astype(np.complex64)[None]


def make_probe(name: str, size: int | None = None) -> Probe:
    """Make a probe, or read one out of a file.

    Parameters
    ----------
    name : str
        ``disk``, ``gaussian``, ``zoneplate``, or the name of a file.
    size : int, optional
        N; default: 64 for the named ones. A file's probe must have it if given.

    Returns
    -------
    (N, N) or (modes, N, N) complex array

    Raises
    ------
    DataError
        For an unusable size, and what :func:`ptycho_torch.scan.read_probe` raises.

    Examples
    --------
    >>> make_probe("zoneplate", 32).shape[-2:]
    (32, 32)
    """
    if name not in PROBE_NAMES:
        if not Path(name).is_file():
            raise ScanNotFoundError(
                f"probe: expected one of {', '.join(PROBE_NAMES)} or a file, found {name!r}"
            )
        return read_probe(Path(name), size)
    edge = 64 if size is None else size
    if edge < 16 or edge % 2:
        raise DataError(f"N: expected an even number of at least 16 pixels, found {edge}")
    if name == "zoneplate":
        return zone_plate(edge)
    return disk(edge) if name == "disk" else gaussian(edge)
