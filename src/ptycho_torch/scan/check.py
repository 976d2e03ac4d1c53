"""What no reconstruction can use is refused, in one line that says what to do."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError
from ptycho_torch.scan.scan import Scan

__all__ = ["check_content"]

_FAINT: Final = 1e-18
"""Amplitudes whose squares float32 cannot hold; the largest of a scan must be above, and below its inverse."""
_NARROW: Final = 1e-2
"""Pixels that positions must spread over: what is narrower is in another unit."""
_WIDE: Final = 1e7


def check_content(scan: Scan, keys: dict[str, str] | None = None) -> None:
    """Refuse values no reconstruction can use.

    Frames must be finite, not negative, and of a size that float32 can square; positions and probe finite;
    positions must differ, by pixels; the probe must have power. Reads frames in one pass, unless they are
    measured already.

    Parameters
    ----------
    scan
        What was read.
    keys
        Names in the file of our fields, for the message.

    Raises
    ------
    ScanError
        One line: file, key, what was expected and what was found.

    Examples
    --------
    >>> check_content(Scan(np.ones((2, 4, 4)), np.zeros((2, 2))))
    Traceback (most recent call last):
        ...
    ptycho_torch.errors.ScanError: scan: positions: expected positions that differ, found 2 times (0, 0); is the \
right column read?
    """
    where = scan.source.path if scan.source else "scan"
    names = keys or {}
    _check_frames(scan, f"{where}: {names.get('frames', 'frames')}")
    checks: list[tuple[str, Any]] = [
        ("positions", scan.positions),
        ("positions_start", scan.positions_start),
        ("probe", scan.probe),
        ("object_guess", scan.object_guess),
    ]
    for name, value in checks:
        if value is not None and not np.isfinite(value).all():
            wrong = ~np.isfinite(value)
            if name.startswith("positions"):
                wrong = wrong.any(axis=1)
            place = ", ".join(str(i) for i in np.argwhere(wrong)[0])
            raise ScanError(
                f"{where}: {names.get(name, name)}: expected finite values, found NaN or infinity at"
                f" [{place}] ({int(wrong.sum())} in all)"
            )
    _check_spread(scan.positions, scan.N, f"{where}: {names.get('positions', 'positions')}")
    if scan.probe is not None and not np.any(scan.probe):
        raise ScanError(
            f"{where}: {names.get('probe', 'probe')}: zero everywhere; give another by --probe-file"
        )


def _check_frames(scan: Scan, where: str) -> None:
    facts = scan.frames.facts
    wrong = ~(np.isfinite(facts.low) & np.isfinite(facts.high)) | (facts.low < 0)
    if wrong.any():
        first = int(np.argmax(wrong))
        values = scan.frames.stored(np.array([first]))[0]
        kept = values if scan.frames.kept is None else values[scan.frames.kept]
        bad = kept[~np.isfinite(kept) | (kept < 0)]
        raise ScanError(
            f"{where}: expected finite values of at least 0, found {bad[0]} in frame"
            f" {first} ({bad.size} such pixels); mark the pixels in bad_pixels and set them to 0"
        )
    peak = float(facts.high.max())
    if not peak > 0:
        raise ScanError(f"{where}: all {scan.n_frames} frames are zero everywhere")
    peak = np.sqrt(peak) if scan.frames.counts else peak
    if not _FAINT < peak < 1 / _FAINT:
        raise ScanError(
            f"{where}: expected amplitudes between {_FAINT:g} and {1 / _FAINT:g}, found at most {peak:.3g};"
            " multiply the frames by a constant, best so that they are square roots of counts"
        )


def _check_spread(positions: NDArray[np.float64], size: int, where: str) -> None:
    """Refuse positions that are all the same or in another unit than pixels."""
    if len(positions) < 2:
        return
    with np.errstate(over="ignore"):
        spread = float(np.ptp(positions, axis=0).max())
    if spread == 0:
        raise ScanError(
            f"{where}: expected positions that differ, found {len(positions)} times"
            f" ({positions[0, 0]:g}, {positions[0, 1]:g}); is the right column read?"
        )
    if spread > _WIDE:
        raise ScanError(
            f"{where}: expected object pixels, found positions over {spread:.3g};"
            " divide them by the object pixel's size in the same unit"
        )
    if spread < _NARROW:
        # Scans are mostly taken with steps of about an eighth of the frame, on a filled area.
        step = spread / max(1.0, np.sqrt(len(positions)) - 1)
        raise ScanError(
            f"{where}: expected object pixels, found positions within {spread:.3g}, which look like metres;"
            f" divide them by the object pixel's size: {8 * step / size:.1e} m would make steps of"
            f" {size // 8 or 1} pixels"
        )
