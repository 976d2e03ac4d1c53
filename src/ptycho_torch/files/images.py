"""Reading pictures: their size first, then their pixels, and nothing but the one file. Needs no torch."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, ScanNotFoundError, printable
from ptycho_torch.files.memory import FLOOR, MemoryBudget
from ptycho_torch.files.regular import require_regular

__all__ = ["read_image"]

_FLOOR: Final = 4 * FLOOR
"""Drawings of few colours are compressed more than measurements: 5000 x 5000 pixels may be a small file."""
_PLAIN: Final = {"1": "L", "LA": "L", "La": "L", "P": "RGB", "PA": "RGB"} | dict.fromkeys(
    ("CMYK", "YCbCr", "LAB", "HSV"), "RGB"
)
"""What images that hold no brightness or colours as they are get converted to, by Pillow's mode."""


def read_image(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read a picture: PNG, JPEG, TIFF and what else Pillow reads.

    Parameters
    ----------
    path
        The file. What it says about other files is not followed.

    Returns
    -------
    numpy.ndarray
        (H, W), or (H, W, 3 or 4) where it has colours, of the type in the file.

    Raises
    ------
    ScanNotFoundError
        When there is no such file.
    ScanError
        When it is no picture, holds several, or would take too much memory for its size.

    Examples
    --------
    >>> from PIL import Image
    >>> Image.new("L", (4, 3)).save("grey.png")
    >>> read_image("grey.png").shape
    (3, 4)
    """
    shown, path = printable(path, 1000), Path(path)
    try:
        budget = MemoryBudget(
            require_regular(path), lambda reason: ScanError(f"{shown}: {reason}"), floor=_FLOOR
        )
        with _quiet():
            return (_tiff if path.suffix.lower() in (".tif", ".tiff") else _other)(path, budget)
    except FileNotFoundError as error:
        raise ScanNotFoundError(f"{shown}: expected a picture; no such file is there") from error
    except ScanError:
        raise
    except Exception as error:  # readers of pictures raise whatever they run into
        raise ScanError(
            f"{shown}: cannot be read as a picture, NPZ or NPY file ({printable(error, 160)})"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warning of large pictures, since the budget judges them."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _other(path: Path, budget: MemoryBudget) -> NDArray[Any]:
    from PIL import Image

    with Image.open(path) as image:
        if getattr(image, "is_animated", False):
            raise ScanError(f"{printable(path, 1000)}: expected one picture, found several")
        _take(budget, image.size, len(image.getbands()), 4)
        plain = _PLAIN.get(image.mode)
        return np.array(image if plain is None else image.convert(plain))


def _tiff(path: Path, budget: MemoryBudget) -> NDArray[Any]:
    from tifffile import TiffFile

    with TiffFile(path) as file:
        page = file.pages.first
        with contextlib.suppress(IndexError):
            file.pages[1]
            raise ScanError(f"{printable(path, 1000)}: expected one picture, found several")
        _take(budget, page.shape, 1, page.dtype.itemsize if page.dtype is not None else 1)
        return np.asarray(page.asarray())


def _take(budget: MemoryBudget, shape: tuple[int, ...], bands: int, size: int) -> None:
    """Take the pixels, and their brightness in float64, which is what they are read for."""
    budget.take(math.prod(shape) * (bands * size + 8), f"{' x '.join(map(str, shape))} pixels")
