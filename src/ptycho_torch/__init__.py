"""Ptychographic reconstruction with physics-constrained networks, and the models in one file.

Names are resolved on first use: importing the package imports neither torch nor lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ptycho_torch._version import __version__

_HOMES = {
    "ExecutionConfig": "config",
    "InferenceConfig": "config",
    "ModelConfig": "config",
    "TrainingConfig": "config",
    "Scan": "scan",
    "open_scan": "scan",
    "write_scan": "scan",
    "simulate_scan": "simulation",
    "train": "workflows.training",
    "reconstruct_to": "workflows.inference",
    "reconstruct": "workflows.solving",
    "Reconstruction": "result",
    "evaluate": "evaluation",
    "save_torch_bundle": "model_manager",
    "load_torch_bundle": "model_manager",
}
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from ptycho_torch.config import ExecutionConfig, InferenceConfig, ModelConfig, TrainingConfig
    from ptycho_torch.evaluation import evaluate
    from ptycho_torch.model_manager import load_torch_bundle, save_torch_bundle
    from ptycho_torch.result import Reconstruction
    from ptycho_torch.scan import Scan, open_scan, write_scan
    from ptycho_torch.simulation import simulate_scan
    from ptycho_torch.workflows.inference import reconstruct_to
    from ptycho_torch.workflows.solving import reconstruct
    from ptycho_torch.workflows.training import train


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
