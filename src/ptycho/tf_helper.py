"""``reassemble_position``."""

from __future__ import annotations

from ptycho_torch.compat.predictor import reassemble_position

__all__ = ["reassemble_position"]
