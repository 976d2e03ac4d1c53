"""Parameters of the model last loaded or trained."""

from __future__ import annotations

from typing import Any

from ptycho import params as _params

__all__ = ["params"]


def params() -> dict[str, Any]:
    """``{'intensity_scale': ...}``; ``KeyError`` where no model was loaded or trained."""
    return {"intensity_scale": _params.get("intensity_scale")}
