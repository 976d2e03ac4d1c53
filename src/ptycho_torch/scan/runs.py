"""Several runs in one file: what ``scan_index`` can mean."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError

__all__ = ["Run", "runs_of"]

Run = int | Literal["all"] | None
"""A run's number; ``"all"``, which takes all runs for one object; None, which decides by the numbers."""

_FRAMES: Final = 4
"""Frames that a typical run has at least, or the numbers are not those of runs."""


def runs_of(index: NDArray[np.int64] | None, run: Run) -> tuple[NDArray[np.int64] | None, bool, str]:
    """Decide what ``scan_index`` says.

    Numbers that (nearly) all differ are those of frames: a run of one frame overlaps with nothing.

    Parameters
    ----------
    index
        (M,) numbers of a file, or None.
    run
        What the caller chose.

    Returns
    -------
    frames : ndarray or None
        Which frames are to be taken; None means all.
    keep : bool
        Whether the numbers are those of runs, one or several that are to be kept apart.
    why : str
        One sentence, or nothing.

    Raises
    ------
    ScanError
        Without a file's name, when there is no such run.

    Examples
    --------
    >>> runs_of(np.arange(5), None)[1:]
    (False, 'scan_index holds 5 numbers for 5 frames, so it was taken for frame numbers: one run.')
    >>> runs_of(np.repeat([7, 9], 50), None)[1:]
    (True, 'scan_index holds runs 7, 9, which are separate objects.')
    """
    if index is None:
        if isinstance(run, int):
            raise ScanError(f"scan_index: the file has no runs; leave --runs {run} out")
        return None, False, ""
    numbers, counts = np.unique(index, return_counts=True)
    listed = ", ".join(str(n) for n in numbers[:8]) + (" ..." if len(numbers) > 8 else "")
    if run == "all":
        return None, False, f"The caller said that scan_index {listed} is one object."
    if run is not None:
        if run not in numbers:
            raise ScanError(f"scan_index: expected run {run}, found {listed}; choose one of them")
        return np.flatnonzero(index == run), True, f"The caller chose run {run} of {listed} in scan_index."
    if len(numbers) == 1:
        return None, True, f"scan_index is {numbers[0]} throughout: one run."
    if np.median(counts) < _FRAMES:
        found = f"scan_index holds {len(numbers)} numbers for {len(index)} frames"
        return None, False, f"{found}, so it was taken for frame numbers: one run."
    return None, True, f"scan_index holds runs {listed}, which are separate objects."
