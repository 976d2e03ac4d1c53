"""From a scan and a model to the image: prediction, and patches stitched with their phases aligned.

Names are resolved on first use, so that the result and its file work without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Canvas": "reconstruction.stitching",
    "Reconstruction": "result",
    "load_reconstruction": "result",
    "reconstruct": "reconstruction.predict",
    "save_reconstruction": "result",
}
__all__ = list(_HOMES)

if TYPE_CHECKING:
    from ptycho_torch.reconstruction.predict import reconstruct
    from ptycho_torch.reconstruction.stitching import Canvas
    from ptycho_torch.result import Reconstruction, load_reconstruction, save_reconstruction


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"ptycho_torch.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
