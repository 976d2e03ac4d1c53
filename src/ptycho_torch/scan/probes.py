"""A probe guess in any of the layouts that files have it in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, ScanNotFoundError
from ptycho_torch.files.archive import Archive
from ptycho_torch.files.npy import read_npy

__all__ = ["probe_modes", "read_probe"]

logger = logging.getLogger(__name__)

_KEYS: Final = ("probeGuess", "probe")


def probe_modes(path: str, key: str, probe: NDArray[Any], size: int | None) -> NDArray[np.complex64]:
    """Return any of the probe layouts as (modes, N, N) complex64.

    Parameters
    ----------
    path, key
        Where it comes from, for the message.
    probe
        (N, N), (modes, N, N), (N, N, modes) or (variations, modes, N, N); of several variations (orthogonal probe
        relaxation) the first, the mean probe, is taken.
    size
        The N it must have; None accepts any square.

    Raises
    ------
    ScanError
        For another shape, values that are not finite, or no power.
    """

    def refuse(expected: str, found: str) -> ScanError:
        return ScanError(f"{path}: {key}: expected {expected}, found {found}")

    if probe.dtype.kind not in "cfiu" or probe.size == 0:
        raise refuse("complex numbers", f"{probe.dtype} of shape {probe.shape}")
    found = probe.shape
    if probe.ndim == 4:
        if found[0] > 1:
            logger.info("%s: %s: took the first of %d probe variations", path, key, found[0])
        probe = probe[0]
    if probe.ndim == 2:
        probe = probe[None]
    if probe.ndim != 3:
        raise refuse("two to four axes", f"shape {found}")
    wanted = probe.shape[1] if size is None else size  # an edge whether modes come first or last
    if probe.shape[1:] != (wanted, wanted) and len(found) == 3 and probe.shape[:2] == (wanted, wanted):
        probe = np.moveaxis(probe, -1, 0)
    if probe.shape[1:] != (wanted, wanted):
        raise refuse(
            f"{wanted}x{wanted} pixels as in the frames" if size else "a square probe", f"shape {found}"
        )
    if not np.isfinite(probe).all():
        raise refuse("finite values", f"{int((~np.isfinite(probe)).sum())} pixels of NaN or infinity")
    if not probe.any():
        raise refuse("a probe with power", "zeros only")
    return np.ascontiguousarray(probe, dtype=np.complex64)


def read_probe(path: str | Path, size: int | None = None) -> NDArray[np.complex64]:
    """Read a probe (modes, N, N) complex64 out of an NPZ file (``probeGuess`` or ``probe``) or an NPY file.

    Parameters
    ----------
    path : str or Path
        A regular file.
    size : int, optional
        The N it must have; default: any.

    Returns
    -------
    (modes, N, N) complex64 array

    Raises
    ------
    ScanNotFoundError
        When there is not found, or not a regular file.
    ScanError
        When it holds no probe.

    Examples
    --------
    >>> np.save("probe.npy", np.ones((8, 8)))
    >>> read_probe("probe.npy").shape
    (1, 8, 8)
    """
    path = Path(path)
    if not path.is_file():
        raise ScanNotFoundError(f"{path}: not found, or not a regular file")
    if path.suffix.lower() == ".npy":
        return probe_modes(str(path), "probe", read_npy(path), size)
    with Archive(path) as archive:
        key = next((key for key in _KEYS if key in archive), None)
        if key is None:
            raise archive.error(" or ".join(_KEYS), "one of them", archive.listing)
        return probe_modes(str(path), key, archive.read(key), size)
