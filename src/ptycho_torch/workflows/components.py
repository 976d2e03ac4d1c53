"""The jobs under the import path of the older program's PyTorch part."""

from __future__ import annotations

from ptycho_torch.compat.jobs import (
    load_inference_bundle_torch,
    run_cdi_example_torch,
    train_cdi_model_torch,
)

__all__ = ["load_inference_bundle_torch", "run_cdi_example_torch", "train_cdi_model_torch"]
