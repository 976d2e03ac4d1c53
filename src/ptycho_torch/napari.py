"""A reader for napari: results and scans as layers, when they are dropped on its window.

napari finds it by the manifest ``napari.yaml`` beside this file; nothing here imports napari.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.errors import PtychoError
from ptycho_torch.result import Reconstruction, load_reconstruction
from ptycho_torch.scan import Scan, open_scan

__all__ = ["get_reader", "layers"]

Layer = tuple[Any, dict[str, Any], str]
"""Data, what is said of them, and the kind of layer."""


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[Layer]] | None:
    """Return the function that reads a file, or None for one that is neither a result nor a scan."""
    if isinstance(path, list) or _opened(path) is None:
        return None
    return lambda chosen: layers(_opened(chosen if isinstance(chosen, str) else chosen[0]))


def _opened(path: str) -> Reconstruction | Scan | None:
    readers: tuple[Callable[[Path], Reconstruction | Scan], ...] = (
        load_reconstruction,
        partial(open_scan, require_probe=False),
    )
    for read in readers:
        try:
            return read(Path(path))
        except PtychoError:
            continue
    return None


def layers(content: Reconstruction | Scan | None) -> list[Layer]:
    """Return what napari shows, in scan coordinates: y down, x to the right, pixels.

    Parameters
    ----------
    content : Reconstruction or Scan

    Returns
    -------
    list of (data, attributes, kind)
        Of a result amplitude, phase and positions; of a scan frames, on a logarithmic scale, and positions.
    """
    if content is None:
        return []
    spots = (content.positions[:, ::-1], {"name": "positions", "size": 2, "face_color": "orange"}, "points")
    if isinstance(content, Scan):
        counts = np.square(np.asarray(content.frames[:], np.float32))
        return [(np.log1p(counts), {"name": "frames, log", "colormap": "inferno"}, "image"), spots]
    place = {"translate": tuple(content.origin_xy[::-1])}
    turn = np.conj(np.sum(content.object * content.weight))
    phase = np.where(content.measured(), np.angle(content.object * turn), 0).astype(np.float32)
    return [
        (np.abs(content.object), {"name": "amplitude", "colormap": "gray", **place}, "image"),
        (phase, {"name": "phase", "colormap": "twilight", **place}, "image"),
        spots,
    ]
