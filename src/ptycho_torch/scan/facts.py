"""The part of a detector that is used, and what has to be known of all frames at once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError

__all__ = ["Cut", "FrameFacts"]

_EXACT: Final = 1e5
"""Counts up to which float32 amplitudes tell whether their squares are whole."""


@dataclass(frozen=True)
class Cut:
    """The part of a detector that is used: ``rows`` and ``columns`` of the stored frame, ``bin`` pixels to one."""

    rows: slice
    columns: slice
    bin: int = 1

    @classmethod
    def middle(cls, shape: tuple[int, int], size: int, bin: int, centre: tuple[int, int]) -> Cut:
        """Return the square of ``size`` stored pixels with ``centre`` (row, column) at its pixel ``size // 2``."""
        corner = [middle - size // 2 for middle in centre]
        if size < 1 or min(corner) < 0 or any(c + size > edge for c, edge in zip(corner, shape, strict=True)):
            raise DataError(
                f"crop: expected a square that fits around pixel {centre} of frames {shape}, found {size}"
            )
        if bin < 1 or size % bin:
            raise DataError(
                f"bin: expected a divisor of the {size} pixels of a frame, found {bin}; crop to a multiple first"
            )
        return cls(slice(corner[0], corner[0] + size), slice(corner[1], corner[1] + size), bin)

    @property
    def size(self) -> int:
        """Edge of the frames that come out."""
        return int(self.rows.stop - self.rows.start) // self.bin


@dataclass(frozen=True)
class FrameFacts:
    """What one pass over the stored values found, a value for each of M frames, trusted pixels only.

    ``low``, ``high``: least and largest value, no more and no less than 0, NaN where there is a NaN.
    ``total``, ``squares``: sum of the values and of their squares, float64. ``whole``: every value is a
    whole number. ``fits``, ``seen``: squares are whole to within float32 rounding where float32 can tell,
    and there are such pixels.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    whole: NDArray[np.bool_]
    fits: NDArray[np.bool_]
    seen: NDArray[np.bool_]

    @classmethod
    def of(cls, values: NDArray[Any], keep: NDArray[np.bool_] | None) -> FrameFacts:
        """Measure stored values (K, H, W), of which ``keep`` (H, W) are trusted."""
        flat = values.reshape(len(values), -1) if keep is None else values[:, keep]
        exact = flat.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            squares = np.square(exact)
            integer = values.dtype.kind in "iub"
            whole = np.full(len(flat), True) if integer else (exact == np.rint(exact)).all(1)
            fits, seen = whole, np.asarray((exact > 0).any(1))
            if not whole.all():
                decides = (squares > 0) & (squares <= _EXACT)
                near = np.abs(squares - np.rint(squares)) <= 4e-7 * squares
                fits, seen = whole | (near | ~decides).all(1), np.where(whole, seen, decides.any(1))
            sums = exact.sum(1), squares.sum(1)
        return cls(exact.min(1, initial=0), exact.max(1, initial=0), *sums, whole, fits, seen)

    @classmethod
    def joined(cls, parts: list[FrameFacts]) -> FrameFacts:
        """Put parts of a scan behind each other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def take(self, index: NDArray[np.int64]) -> FrameFacts:
        """Return the facts of some frames."""
        return FrameFacts(*(getattr(self, f.name)[index] for f in fields(self)))

    @property
    def squares_whole(self) -> bool:
        """Whether the squares of all values are whole, as they are for sqrt(counts)."""
        return bool(self.fits.all() and self.seen.any())
