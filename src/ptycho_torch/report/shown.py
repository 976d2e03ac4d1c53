"""Which frames a figure shows. Needs no matplotlib, so that others can ask before anything is drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["shown_frames"]

_FRAMES = 64


def shown_frames(count: int) -> NDArray[np.int64]:
    """Return which of ``count`` frames go into the mean that :func:`~ptycho_torch.report.figures.scan_figure` shows.

    Examples
    --------
    >>> shown_frames(3).tolist(), len(shown_frames(1000))
    ([0, 1, 2], 64)
    """
    return np.unique(np.linspace(0, count - 1, min(_FRAMES, count)).astype(np.int64))
