"""``load`` and ``PtychoDataContainer``."""

from __future__ import annotations

from ptycho_torch.compat.container import PtychoDataContainer, load

__all__ = ["PtychoDataContainer", "load"]
