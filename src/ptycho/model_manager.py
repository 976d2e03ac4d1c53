"""``save``: the model last trained or loaded, as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptycho_torch.errors import OutputError
from ptycho_torch.model_manager import save_torch_bundle

__all__ = ["remember", "save"]

_last: dict[str, Any] = {}


def remember(**saved: Any) -> None:
    """Keeps what :func:`save` will write: ``models_dict``, ``config``, ``provenance``."""
    _last.clear()
    _last.update(saved)


def save(out_prefix: str | Path) -> None:
    """Writes ``{out_prefix}/wts.h5.zip``. Raises ``OutputError`` where nothing was trained or loaded."""
    if not _last:
        raise OutputError(f"{out_prefix}: no model was trained or loaded in this process; nothing to save")
    save_torch_bundle(base_path=Path(out_prefix) / "wts.h5", **_last)
