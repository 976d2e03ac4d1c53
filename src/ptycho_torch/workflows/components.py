"""The jobs under the names, arguments and results that scripts written for the older program expect."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ptycho_torch.config import ExecutionConfig, InferenceConfig, TrainingConfig
from ptycho_torch.model_manager import load_torch_bundle
from ptycho_torch.scan import Scan, open_scan
from ptycho_torch.workflows.inference import reconstruct_to
from ptycho_torch.workflows.training import train

__all__ = ["load_inference_bundle_torch", "run_cdi_example_torch", "train_cdi_model_torch"]

_log = logging.getLogger(__name__)


def train_cdi_model_torch(
    train_data: Scan | str | Path,
    test_data: Scan | str | Path | None,
    config: TrainingConfig,
    execution_config: ExecutionConfig | None = None,
) -> dict[str, Any]:
    """Trains, and saves the bundle in ``config.output_dir``.

    ``train_data``, ``test_data``: a :class:`~ptycho_torch.scan.Scan` or a path; losses are also
    measured on ``test_data`` where there is one. Returns ``history`` (losses by name), ``models``
    (the pair), ``train_container`` and ``test_container`` (the scans), ``bundle`` (path).
    """
    scan = _opened(train_data)
    test = None if test_data is None else _opened(test_data)
    done = train(scan, config.output_dir, config, execution_config, validation=test, force=True)
    rows = done.trained.history
    return {
        "history": {key: [row[key] for row in rows if key in row] for key in ("loss", "val_loss")},
        "models": done.trained.models,
        "train_container": scan,
        "test_container": test,
        "bundle": done.bundle,
    }


def run_cdi_example_torch(
    train_data: Scan | str | Path,
    test_data: Scan | str | Path | None,
    config: TrainingConfig,
    do_stitching: bool = False,
    execution_config: ExecutionConfig | None = None,
    inference_batch_size: int | None = None,
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None, dict[str, Any]]:
    """Trains, and with ``do_stitching`` reconstructs the test scan: ``(amplitude, phase, results)``.

    ``results`` is what :func:`train_cdi_model_torch` returns; with stitching also ``reconstruction``
    and the files written to ``config.output_dir``. Amplitude and phase, (H, W) float32, are None
    without it. Without a test scan, the training scan is reconstructed.
    """
    results = train_cdi_model_torch(train_data, test_data, config, execution_config)
    if not do_stitching:
        return None, None, results
    scan = results["test_container"] or results["train_container"]
    inference = InferenceConfig(
        neighbor_count=config.neighbor_count,
        seed=config.seed,
        batch_size=inference_batch_size or InferenceConfig().batch_size,
    )
    done = reconstruct_to(
        Path(config.output_dir) / "inference", results["bundle"], scan, inference, execution_config
    )
    results |= {"reconstruction": done.reconstruction, "files": done.files}
    obj = done.reconstruction.object
    return np.abs(obj), np.angle(obj), results


def load_inference_bundle_torch(
    bundle_dir: str | Path, model_name: str = "diffraction_to_obj"
) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a bundle, ready for inference, and its parameters: ``load_torch_bundle`` by its older name."""
    return load_torch_bundle(bundle_dir, model_name)


def _opened(scan: Scan | str | Path) -> Scan:
    return scan if isinstance(scan, Scan) else open_scan(scan, require_probe=False)
