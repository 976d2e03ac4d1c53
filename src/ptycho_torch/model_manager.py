"""Saving and loading model bundles, under the name that other programs import. Imports without torch."""

from __future__ import annotations

from ptycho_torch.bundle.load import load_torch_bundle
from ptycho_torch.bundle.save import save_torch_bundle

__all__ = ["load_torch_bundle", "save_torch_bundle"]
