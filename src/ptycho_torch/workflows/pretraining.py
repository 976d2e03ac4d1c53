"""Pretraining as a whole job: from a seed to the bundle that works on scans nobody has seen."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_torch.config import ModelConfig, TrainingConfig, validate
from ptycho_torch.files import ensure_output_dir, write_bytes_atomic, write_text_atomic
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.generators.unrolled import Unrolled
from ptycho_torch.model import build_pair, default_probe
from ptycho_torch.model_manager import save_torch_bundle
from ptycho_torch.report.figures import figure_png, pretraining_figure
from ptycho_torch.report.tables import json_text
from ptycho_torch.training.pretrain import Pretrained, PretrainOptions, pretrain

__all__ = ["PretrainingOutputs", "pretrain_to", "solver_config"]

_SIZE = 64
"""Frame size written into the bundle; the solver itself serves every size."""


@dataclass
class PretrainingOutputs:
    """The weights, all files by name, and what ``metrics.json`` says."""

    pretrained: Pretrained
    files: dict[str, Path]
    metrics: dict[str, Any]


def solver_config(solver: RegionSolver, size: int = _SIZE) -> ModelConfig:
    """Return the configuration that builds a model around ``solver`` for frames of ``size`` pixels."""
    return ModelConfig(
        N=size,
        architecture="unrolled",
        unrolled_form="settling" if solver.settles else "region",
        unrolled_iterations=solver.iterations,
        unrolled_physics_steps=solver.passes,
        unrolled_width=solver.width,
        unrolled_levels=solver.levels,
        probe_damping=solver.damping,
    )


def pretrain_to(
    output_dir: str | Path,
    options: PretrainOptions | None = None,
    *,
    resume: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> PretrainingOutputs:
    """Pretrain the region solver on simulations and keep everything in ``output_dir``.

    Parameters
    ----------
    output_dir : path
        Gets ``wts.h5.zip`` at the end, and all along ``resume.safetensors`` and ``pretrain.jsonl``; also
        ``pretraining.png`` and ``metrics.json``.
    options : PretrainOptions, optional
    resume : bool
        Go on from the state in ``output_dir``. More ``steps`` than before prolong the run.
    progress : callable, optional
        Called with steps done, steps in all and the loss as text.

    Raises
    ------
    TrainingError
        When the loss is not finite; the last state is kept.
    """
    options = options or PretrainOptions()
    validate(options)
    folder = ensure_output_dir(output_dir)
    done = pretrain(folder, options, resume=resume, progress=progress)
    metrics = {
        "steps": options.steps,
        "seconds": round(done.seconds, 1),
        "parameters": sum(p.numel() for p in done.solver.parameters()),
        "validation": done.history[-1] if done.history else {},
        "options": dataclasses.asdict(options),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    files = {
        "bundle": folder / "wts.h5.zip",
        "log": folder / "pretrain.jsonl",
        "figure": folder / "pretraining.png",
        "metrics": folder / "metrics.json",
    }
    save_solver(done.solver, folder / "wts.h5", {"training_data": "simulated regions", **metrics})
    write_text_atomic(files["metrics"], json_text(metrics))
    write_bytes_atomic(files["figure"], figure_png(pretraining_figure(done.history)))
    return PretrainingOutputs(done, files, metrics)


def save_solver(solver: RegionSolver, base_path: Path, provenance: dict[str, Any]) -> None:
    """Write a solver as an ordinary bundle, with a plain disk as its probe and its self-test."""
    config = solver_config(solver)
    pair = build_pair(config, default_probe(_SIZE), 1.0)
    generator = pair[0].core.generator
    assert isinstance(generator, Unrolled)
    assert generator.regions is not None
    generator.regions.load_state_dict(solver.cpu().state_dict())
    for model in pair:
        model.eval().requires_grad_(False)
    models = {"autoencoder": pair[0], "diffraction_to_obj": pair[1]}
    save_torch_bundle(models, base_path, TrainingConfig(model=config), provenance=provenance)
