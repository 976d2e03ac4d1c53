"""Pretraining as a whole job: from a seed to the bundle that works on scans nobody has seen."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_torch.config import ModelConfig, TrainingConfig, validate
from ptycho_torch.errors import DataError, Interrupted, OutputError
from ptycho_torch.files import write_bytes_atomic, write_text_atomic
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.generators.unrolled import Unrolled
from ptycho_torch.model import build_pair, default_probe
from ptycho_torch.model_manager import save_torch_bundle
from ptycho_torch.processes import current
from ptycho_torch.report.figures import figure_png, pretraining_figure
from ptycho_torch.report.tables import json_text
from ptycho_torch.training.pretrain import Pretrained, PretrainOptions, pretrain
from ptycho_torch.training.state import RESUME_NAME
from ptycho_torch.training.stopping import Stopping
from ptycho_torch.workflows.run_folder import BUNDLE_NAME, RUN_NAME, RunFolder

__all__ = ["PretrainingOutputs", "pretrain_to", "solver_config"]

logger = logging.getLogger(__name__)
_MINE = (RESUME_NAME, f"{BUNDLE_NAME}.zip", "pretrain.jsonl", "metrics.json", "pretraining.png")
_SIZE = 64
"""Frame size written into the bundle; the solver itself serves every size."""


@dataclass
class PretrainingOutputs:
    """The weights, all files by name, and what ``metrics.json`` says; both empty on processes but the first."""

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
    force: bool = False,
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
    force : bool
        Begin anew in the place of the run in ``output_dir``.
    progress : callable, optional
        Called with steps done, steps in all and the loss as text.

    Returns
    -------
    PretrainingOutputs

    Raises
    ------
    OutputError
        When the folder holds a run and neither ``resume`` nor ``force`` is given, holds a run of another kind, or
        another process is at work in it.
    DataError
        When there is no state to go on from.
    TrainingError
        When the loss is not finite; the last state is kept.
    Interrupted
        After Ctrl-C, SIGTERM or SIGHUP; the text says what exists.
    """
    options = options or PretrainOptions()
    validate(options)
    run, group = RunFolder(output_dir), current()
    folder = run.path
    try:
        with contextlib.ExitStack() as held, Stopping():

            def begin() -> None:
                held.enter_context(run.held())
                _make_way(folder, resume, force)

            group.shared(begin)
            done = pretrain(folder, options, resume=resume, progress=progress)
            return _written(folder, done, options) if group.first else PretrainingOutputs(done, {}, {})
    except Interrupted as stop:
        raise Interrupted(stop.number, _what_exists(folder)) from None


def _make_way(folder: Path, resume: bool, force: bool) -> None:
    """Refuse to mix two runs in one folder, or clear the one that is there away."""
    if (folder / RUN_NAME).exists():
        raise OutputError(f"{folder}: holds a run of 'ptychopinn train'; name another folder")
    if resume:
        if not (folder / RESUME_NAME).exists():
            raise DataError(f"{folder}: holds no {RESUME_NAME} to go on from; leave out --resume to begin")
        return
    found = [name for name in _MINE if (folder / name).exists()]
    if {RESUME_NAME, f"{BUNDLE_NAME}.zip"} & set(found) and not force:
        raise OutputError(
            f"{folder}: holds a run, {' and '.join(found)}; go on with it by --resume, name another folder, or give"
            " --force to begin anew in its place"
        )
    for name in found:
        (folder / name).unlink()


def _what_exists(folder: Path) -> str:
    """Say in one line what there is of the run, and how to go on."""
    if not (folder / RESUME_NAME).exists():
        return f"interrupted: no state of this run is in {folder} yet"
    return (
        f"interrupted: the last state is in {folder}; go on with 'ptychopinn pretrain -o {folder} --resume'"
        " and the same options"
    )


def _written(folder: Path, done: Pretrained, options: PretrainOptions) -> PretrainingOutputs:
    """Write bundle and figures of the run, then draw it."""
    metrics = {
        "steps": options.steps,
        "seconds": round(done.seconds, 1),
        "parameters": sum(p.numel() for p in done.solver.parameters()),
        "validation": done.history[-1] if done.history else {},
        "options": dataclasses.asdict(options),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    bundle, log, metrics_path, figure = (folder / name for name in _MINE[1:])
    files = {"bundle": bundle, "log": log, "metrics": metrics_path}
    save_solver(done.solver, folder / BUNDLE_NAME, {"training_data": "simulated regions", **metrics})
    write_text_atomic(metrics_path, json_text(metrics))
    try:
        write_bytes_atomic(figure, figure_png(pretraining_figure(done.history)))
        files["figure"] = figure
    except Exception as error:  # whatever drawing raises, the weights are written and stay
        logger.warning("%s: not drawn (%s: %s); the weights are written", figure, type(error).__name__, error)
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
