"""Applying a trained model: prediction, stitching, refinement, and the result's file.

Names are resolved on first use, so that :mod:`ptycho_torch.inference.result` works without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Canvas": "stitching",
    "Reconstruction": "result",
    "load_reconstruction": "result",
    "reconstruct": "prediction",
    "refine": "refinement",
    "save_reconstruction": "result",
}
__all__ = list(_HOMES)

if TYPE_CHECKING:
    from ptycho_torch.inference.prediction import reconstruct
    from ptycho_torch.inference.refinement import refine
    from ptycho_torch.inference.result import Reconstruction, load_reconstruction, save_reconstruction
    from ptycho_torch.inference.stitching import Canvas


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
