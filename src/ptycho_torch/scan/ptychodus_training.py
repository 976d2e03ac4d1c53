"""ptychodus' HDF5 training data: frames, positions in object pixels, probe and object in one file.

Names as in ``ptychodus.api.io`` 1.7: ``patterns``, ``probe_position_x_px``, ``probe_position_y_px``,
``probe``, ``object``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from ptycho_torch.errors import ScanError
from ptycho_torch.scan.h5frames import H5Frames
from ptycho_torch.scan.hdf5 import has_members, opened, read_array
from ptycho_torch.scan.intake import Found, Request
from ptycho_torch.scan.product import HALF_PIXEL
from ptycho_torch.scan.ptychodus import bad_pixels, frame_count
from ptycho_torch.scan.registry import FORMATS, ScanFormat

__all__ = ["PtychodusTraining"]

_MEMBERS: Final = ("patterns", "probe_position_x_px", "probe_position_y_px")


@FORMATS.register("ptychodus-training")
class PtychodusTraining(ScanFormat):
    """The layout above."""

    suffixes = (".h5", ".hdf5")

    def recognises(self, path: Path, head: bytes) -> bool:
        return has_members(path, head, *_MEMBERS)

    def read(self, path: Path, request: Request) -> Found:
        with opened(path, request.external) as file:
            count = frame_count(file)
            found = Found(np.zeros(0), None, {"frames": "patterns"}, bad_pixels=bad_pixels(file))
            if request.positions is None:
                x, y = (read_array(file, name, 1, "iuf") for name in _MEMBERS[1:])
                if not len(x) == len(y) == count:
                    raise ScanError(
                        f"{path}: {_MEMBERS[1]}: expected {count} values, one for each of patterns, found"
                        f" {len(x)} and {len(y)}"
                    )
                found.positions = np.stack([x, y], -1).astype(np.float64) + HALF_PIXEL
            found.probe = read_array(file, "probe") if "probe" in file else None
            found.object_guess = read_array(file, "object") if "object" in file else None
        found.frames = H5Frames(path, "patterns", external=request.external)
        return found
