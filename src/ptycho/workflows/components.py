"""Training, loading and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptycho import model_manager, params
from ptycho_torch.compat import jobs
from ptycho_torch.compat.jobs import save_outputs
from ptycho_torch.compat.predictor import Predictor
from ptycho_torch.compat.raw_data import RawData
from ptycho_torch.config import TrainingConfig

__all__ = ["load_inference_bundle", "run_cdi_example", "save_outputs"]


def load_inference_bundle(bundle_dir: str | Path) -> tuple[Predictor, dict[str, Any]]:
    """``(model, params)`` of a folder, an unpacked bundle or an archive; ``params.cfg`` is updated."""
    model, values, saved = jobs.load_inference_bundle(bundle_dir)
    model_manager.remember(**saved)
    return model, values


def run_cdi_example(
    train_data: RawData, test_data: RawData | None, config: TrainingConfig
) -> tuple[Any, Any, dict[str, Any]]:
    """Trains, and reconstructs the test data: ``(amplitude or None, phase or None, results)``."""
    amplitude, phase, results = jobs.run_cdi_example(train_data, test_data, config)
    params.cfg["intensity_scale"] = results["trained"].autoencoder.intensity_scale
    model_manager.remember(
        models_dict=results["models"],
        config=results["trained"].config,
        provenance=results["provenance"],
    )
    return amplitude, phase, results
