"""Training, loading and pictures."""

from __future__ import annotations

from ptycho_torch.compat.jobs import load_inference_bundle, run_cdi_example
from ptycho_torch.compat.pictures import save_outputs

__all__ = ["load_inference_bundle", "run_cdi_example", "save_outputs"]
