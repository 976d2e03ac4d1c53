"""Objects to simulate with: complex transmission (H, W), pixel [0, 0] at scan coordinate (0, 0)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter

from ptycho_torch.errors import DataError, ScanError, ScanNotFoundError
from ptycho_torch.files.archive import Archive
from ptycho_torch.files.images import read_image
from ptycho_torch.files.npy import read_npy

__all__ = ["OBJECT_NAMES", "grf", "lines", "load_object", "make_object", "siemens", "transmission"]

Complex = NDArray[np.complex128]

OBJECT_NAMES = ("lines", "siemens", "grf")
_KEYS = ("objectGuess", "object")


def transmission(thickness: NDArray[np.floating], absorption: float = 0.3, phase: float = 1.0) -> Complex:
    """``exp(-(absorption + i phase) thickness)``, the wave behind a thin object of one material."""
    return np.exp(-(absorption + 1j * phase) * np.asarray(thickness, dtype=np.float64))


def lines(
    size: int = 392,
    rng: np.random.Generator | np.random.RandomState | None = None,
    n_lines: int | None = None,
) -> Complex:
    """Random lines, blurred: ``G1 + 2 G5 + 5 G10`` of 0/1 lines; amplitude only, phase 0.

    Drawn on a canvas of twice the ``size``, whose centre is kept. With ``size`` 392 and a legacy
    ``RandomState`` it is the object of the "lines" benchmark (arXiv 2602.21361); ``n_lines`` is 400
    there and keeps its density for other sizes.
    """
    from skimage.draw import line

    rng = np.random.default_rng(0) if rng is None else rng
    edge = 2 * size
    image = np.zeros((edge, edge))
    for _ in range(round(400 * size / 392) if n_lines is None else n_lines):
        r0, c0, r1, c1 = (int(edge * rng.uniform()) for _ in range(4))
        image[line(r0, c0, r1, c1)] = 1
    smooth = gaussian_filter(image, 1) + 2 * gaussian_filter(image, 5) + 5 * gaussian_filter(image, 10)
    keep = slice(size // 2, size // 2 + size)
    return smooth[keep, keep].astype(np.complex128)


def siemens(size: int = 392, spokes: int = 24, rings: int = 3) -> Complex:
    """A Siemens star with gaps between its rings; amplitude and phase, edges one pixel soft.

    ``spokes`` dark sectors; the star fills 0.9 of the image and is open in the middle, where spokes would be
    finer than two pixels.
    """
    y, x = np.indices((size, size)) - (size - 1) / 2
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    outer, inner = 0.45 * size, spokes * 2 / np.pi
    # Signed distance in pixels from the edge of a spoke, along the arc.
    phase = np.mod(angle * spokes / (2 * np.pi), 1)
    arc = (0.25 - np.abs(phase - 0.5)) * 2 * np.pi * radius / spokes
    star = (
        np.clip(arc + 0.5, 0, 1) * np.clip(outer - radius + 0.5, 0, 1) * np.clip(radius - inner + 0.5, 0, 1)
    )
    for ring in range(1, rings):
        gap = inner + (outer - inner) * ring / rings
        star *= np.clip(np.abs(radius - gap) - 1.5, 0, 1)
    return transmission(star)


def _field(size: int, length: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A Gaussian random field of unit variance, power spectrum ``(1 + (2 pi k length)^2)^-2``."""
    k = fft.fftfreq(size)
    power = (1 + (2 * np.pi * length) ** 2 * (k[:, None] ** 2 + k**2)) ** -2.0
    power[0, 0] = 0
    field = fft.ifft2(np.sqrt(power) * fft.fft2(rng.standard_normal((size, size)))).real
    return field / field.std()


def grf(size: int = 392, rng: np.random.Generator | None = None, length: float = 8.0) -> Complex:
    """A complex Gaussian random field: ``exp(0.15 a + 0.5 i b)`` with two independent real fields.

    ``length``: correlation length in pixels.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    a, b = _field(size, length, rng), _field(size, length, rng)
    return np.exp(0.15 * a + 0.5j * b)


def load_object(path: str | Path) -> Complex:
    """An object out of a file: NPZ (``objectGuess`` or ``object``), NPY, or an image.

    Complex and real arrays are taken as they are; the grey value of an image, scaled to 0..1, is a
    thickness for :func:`transmission`. Raises :class:`ScanError` or :class:`ScanNotFoundError`.
    """
    path = Path(path)
    if not path.is_file():
        raise ScanNotFoundError(f"{path}: not found, or not a regular file")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        with Archive(path) as archive:
            key = next((key for key in _KEYS if key in archive), None)
            if key is None:
                raise archive.error(" or ".join(_KEYS), "one of them", f"{len(archive.keys)} other arrays")
            array = archive.read(key)
    elif suffix == ".npy":
        array = read_npy(path)
    else:
        return transmission(_grey(path))
    array = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
    if array.ndim != 2 or array.dtype.kind not in "cfiu" or not np.isfinite(array).all():
        raise ScanError(
            f"{path}: object: expected finite numbers (H, W), found {array.dtype} of {array.shape}"
        )
    return array.astype(np.complex128)


def _grey(path: Path) -> NDArray[np.float64]:
    image = read_image(path)
    if image.ndim == 3:
        image = image[..., :3].mean(axis=-1, dtype=np.float64)
    image = image.astype(np.float64, copy=False)
    if image.ndim != 2 or not np.isfinite(image).all() or np.ptp(image) == 0:
        raise ScanError(f"{path}: expected a picture with contrast, found shape {image.shape}")
    return (image - image.min()) / np.ptp(image)


def make_object(name: str, size: int = 392, seed: int = 0) -> Complex:
    """Make an object.

    Parameters
    ----------
    name : str
        ``lines``, ``siemens``, ``grf``, or the name of a file with an object.
    size : int
        Edge in pixels, for the named ones.
    seed : int
        For the random ones.

    Returns
    -------
    (H, W) complex array

    Raises
    ------
    DataError
        For a size without room, and what :func:`load_object` raises.

    Examples
    --------
    >>> make_object("siemens", 64).shape
    (64, 64)
    """
    if name not in OBJECT_NAMES:
        if not Path(name).is_file():
            raise ScanNotFoundError(
                f"object: expected one of {', '.join(OBJECT_NAMES)} or a file, found {name!r}"
            )
        return load_object(name)
    if size < 16:
        raise DataError(f"size: expected at least 16 pixels, found {size}")
    rng = np.random.default_rng(seed)
    if name == "siemens":
        return siemens(size)
    return lines(size, rng) if name == "lines" else grf(size, rng)
