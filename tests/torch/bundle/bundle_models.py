"""Small real models and ways to damage a bundle, shared by the tests of this folder."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dill
import torch
from torch import nn

from ptycho_torch.bundle.container.zipwriter import Member, zip_parts
from ptycho_torch.config import ModelConfig, TrainingConfig
from ptycho_torch.model import build_pair, default_probe
from ptycho_torch.model_manager import save_torch_bundle

SMALL = {"N": 32, "gridsize": 2, "unrolled_width": 8, "unrolled_levels": 1, "unrolled_iterations": 2}


def small_pair(
    seed: int = 0, scale: float = 1.5, modes: int = 1, **changes: Any
) -> tuple[TrainingConfig, dict[str, nn.Module]]:
    torch.manual_seed(seed)
    config = TrainingConfig(model=ModelConfig(**{**SMALL, **changes}))
    autoencoder, reconstructor = build_pair(config.model, default_probe(config.model.N, modes), scale)
    for parameter in autoencoder.parameters():  # last layers start at zero, which would hide mix-ups
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.02)
    return config, {"autoencoder": autoencoder, "diffraction_to_obj": reconstructor}


def saved(folder: Path, **kw: Any) -> Path:
    config, models = small_pair(**kw)
    save_torch_bundle(models, folder / "wts.h5", config)
    return folder / "wts.h5.zip"


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as z:
        return {n: z.read(n) for n in z.namelist()}


def put(path: Path, content: dict[str, bytes]) -> Path:
    parts, _ = zip_parts([Member(n, [d], deflate=not n.endswith(".pth")) for n, d in content.items()])
    path.write_bytes(b"".join(map(bytes, parts)))
    return path


def bare(path: Path) -> dict[str, bytes]:
    return {n: d for n, d in members(path).items() if n != "bundle.json"}


def with_state(
    content: dict[str, bytes], change: Callable[[OrderedDict[str, Any]], Any], model: str = "autoencoder"
) -> dict[str, bytes]:
    """The bundle with one model's state dict changed and saved by torch itself."""
    state = OrderedDict(torch.load(io.BytesIO(content[f"{model}/model.pth"]), weights_only=True))
    result = change(state)
    out = io.BytesIO()
    torch.save(state if result is None else result, out)
    return {**content, f"{model}/model.pth": out.getvalue()}


def with_params(
    content: dict[str, bytes], change: Callable[[dict[str, Any]], Any], *models: str
) -> dict[str, bytes]:
    out = dict(content)
    for model in models or ("autoencoder", "diffraction_to_obj"):
        params = dill.loads(content[f"{model}/params.dill"])
        result = change(params)
        out[f"{model}/params.dill"] = dill.dumps(params if result is None else result)
    return out


def sample(module: nn.Module, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    config: ModelConfig = module.config  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(seed)
    count = config.gridsize**2
    x = torch.rand(2, count, config.N, config.N, generator=generator)
    offsets = torch.randn(2, count, 1, 2, generator=generator)
    return x, offsets - offsets.mean(1, keepdim=True)


def outputs(module: nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        out = module(*sample(module))
    return [out] if isinstance(out, torch.Tensor) else list(out)
