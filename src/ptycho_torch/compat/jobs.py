"""Training and its pictures under the older program's names."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ptycho_torch.compat.predictor import Predictor
from ptycho_torch.compat.raw_data import RawData
from ptycho_torch.config import ExecutionConfig, TrainingConfig
from ptycho_torch.files import ensure_output_dir
from ptycho_torch.model import Autoencoder
from ptycho_torch.model_manager import load_torch_bundle
from ptycho_torch.reconstruction.predict import reconstruct
from ptycho_torch.report.figures import save_figure
from ptycho_torch.training.run import Trained, fit
from ptycho_torch.workflows.training import provenance_of

__all__ = ["load_inference_bundle", "run_cdi_example", "save_outputs"]

Picture = NDArray[np.float32]


def load_inference_bundle(path: str | Path) -> tuple[Predictor, dict[str, Any], dict[str, Any]]:
    """``(model, params, saved)`` of a bundle: ``model`` has ``predict``, ``saved`` is what ``save_torch_bundle`` takes
    to write the pair again. ``path`` as ``load_torch_bundle`` takes it."""
    module: Any
    module, params = load_torch_bundle(path)
    pair = {"autoencoder": Autoencoder(module.core, module.params), "diffraction_to_obj": module}
    return Predictor(module), params, {"models_dict": pair, "config": params}


def run_cdi_example(
    train_data: RawData, test_data: RawData | None, config: TrainingConfig
) -> tuple[Picture | None, Picture | None, dict[str, Any]]:
    """Trains, and reconstructs the test scan where there is one: ``(amplitude, phase, results)``.

    Writes no file. Amplitude and phase (H, W) float32, None without a test scan. ``results``: ``trained``,
    ``models``, ``history`` (losses by name), ``provenance``, and ``reconstruction`` and ``obj_tensor_full`` with a test scan.
    """
    config = dataclasses.replace(config, model=dataclasses.replace(config.model))
    trained: Trained = fit(train_data.scan, config, ExecutionConfig(progress=False))
    rows = trained.history
    results: dict[str, Any] = {
        "trained": trained,
        "models": trained.models,
        "history": {key: [row[key] for row in rows if key in row] for key in ("loss", "val_loss")},
        "provenance": provenance_of(train_data.scan, trained.config, rows, trained.seconds),
    }
    if test_data is None:
        return None, None, results
    rec = reconstruct(trained.diffraction_to_obj, test_data.scan)
    results |= {"reconstruction": rec, "obj_tensor_full": rec.object}
    return np.abs(rec.object), np.angle(rec.object).astype(np.float32), results


def save_outputs(
    amplitude: Picture | None, phase: Picture | None, results: dict[str, Any], output_prefix: str | Path
) -> None:
    """Writes ``reconstructed_amplitude.png`` and ``reconstructed_phase.png`` into a folder, where there are such."""
    folder = ensure_output_dir(output_prefix)
    for name, image, colours in (("amplitude", amplitude, "gray"), ("phase", phase, "twilight")):
        if image is None:
            continue
        picture = np.squeeze(np.asarray(image))
        figure = Figure(figsize=(6.4, 5.6), layout="constrained")
        axes = figure.add_subplot()
        known = picture[picture != 0] if (picture != 0).any() else picture
        low, high = (-np.pi, np.pi) if name == "phase" else np.percentile(known, (0.5, 99.5))
        shown = axes.imshow(picture, cmap=colours, vmin=low, vmax=high)
        axes.set(title=name, xlabel="x (px)", ylabel="y (px)")
        figure.colorbar(shown, label="rad" if name == "phase" else "relative to the probe")
        save_figure(figure, folder / f"reconstructed_{name}.png")
