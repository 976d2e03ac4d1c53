"""Older import paths of what is in :mod:`ptycho_torch.reconstruction`, :mod:`ptycho_torch.solvers` and
:mod:`ptycho_torch.compat`."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Canvas": "reconstruction.stitching",
    "Reconstruction": "result",
    "load_reconstruction": "result",
    "reconstruct": "reconstruction.predict",
    "refine": "solvers.epie",
    "save_reconstruction": "result",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"ptycho_torch.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
