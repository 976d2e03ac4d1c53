"""``RawData``."""

from __future__ import annotations

from ptycho_torch.compat.raw_data import RawData

__all__ = ["RawData"]
