"""What the corpus tools call: ``write`` leaves a legitimate bundle at a path, ``load`` reads one.

python make_corpus.py OUT --writer tests.torch.bundle.corpus_hooks:write
python run_corpus.py OUT --loader tests.torch.bundle.corpus_hooks:load
"""

from __future__ import annotations

from typing import Any

import torch

from ptycho_torch.config import ModelConfig, TrainingConfig
from ptycho_torch.model import build_pair, default_probe
from ptycho_torch.model_manager import load_torch_bundle, save_torch_bundle


def write(path: str) -> None:
    torch.manual_seed(0)
    config = TrainingConfig(
        model=ModelConfig(N=64, gridsize=2, unrolled_width=8, unrolled_levels=1, unrolled_iterations=2)
    )
    autoencoder, reconstructor = build_pair(config.model, default_probe(64), 1.5)
    models = {"autoencoder": autoencoder, "diffraction_to_obj": reconstructor}
    save_torch_bundle(models, path, config)


def load(path: str) -> Any:
    return load_torch_bundle(path)
