"""The model bundle: container, decoding, writing, checking. See docs/bundle-format.md.

Names are resolved on first use; none of the container parts imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Bundle": "contents",
    "VerifyReport": "verify",
    "export_safetensors": "export",
    "inspect_bundle": "inspect",
    "open_archive": "container.archive",
    "read_bundle": "contents",
    "verify_bundle": "verify",
}
__all__ = [
    "Bundle",
    "VerifyReport",
    "export_safetensors",
    "inspect_bundle",
    "open_archive",
    "read_bundle",
    "verify_bundle",
]

if TYPE_CHECKING:
    from ptycho_torch.bundle.container.archive import open_archive
    from ptycho_torch.bundle.contents import Bundle, read_bundle
    from ptycho_torch.bundle.export import export_safetensors
    from ptycho_torch.bundle.inspect import inspect_bundle
    from ptycho_torch.bundle.verify import VerifyReport, verify_bundle


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
