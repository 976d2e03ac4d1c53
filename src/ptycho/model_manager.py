"""``save``: the model last trained or loaded, as a bundle."""

from __future__ import annotations

from ptycho_torch.compat.jobs import save

__all__ = ["save"]
