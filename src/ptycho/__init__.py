"""Names that ptychodus and scripts for the TensorFlow program import, each a few lines over ``ptycho_torch``.

Submodules are imported when they are first asked for; nothing heavy is imported before.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from ptycho_torch import __version__ as __version__

_MODULES = frozenset(
    {"config", "loader", "model", "model_manager", "params", "probe", "raw_data", "tf_helper", "workflows"}
)


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
