"""The global flat dictionary ``cfg`` and its accessors. Imports no framework."""

from __future__ import annotations

from typing import Any

from ptycho_torch.compat.parameters import cfg

__all__ = ["cfg", "get", "params", "set"]


def get(key: str) -> Any:
    """The value of ``key``; ``bigN`` is ``N + (gridsize - 1) * offset``. ``KeyError`` when it is absent."""
    if key == "bigN":
        return cfg["N"] + (cfg["gridsize"] - 1) * cfg["offset"]
    return cfg[key]


def set(key: str, value: Any) -> None:
    """Sets ``key``."""
    cfg[key] = value


def params() -> dict[str, Any]:
    """All values, the derived ``bigN`` included where it can be computed."""
    derived = {"bigN": get("bigN")} if {"N", "gridsize", "offset"} <= cfg.keys() else {}
    return {**cfg, **derived}
