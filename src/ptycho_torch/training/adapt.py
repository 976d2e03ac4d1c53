"""Adaptation of a region solver to scans, without labels: see :mod:`ptycho_torch.training.withheld`.

A part of the frames is never trained on. What the averaged weights make of those decides which weights are kept,
and the ones that the run began with are kept where none were better.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.bundle.shipped import solver_of
from ptycho_torch.config import ExecutionConfig, TrainingConfig
from ptycho_torch.device import device_of
from ptycho_torch.errors import DataError, Interrupted, TrainingError
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.model import Autoencoder, DiffractionToObject
from ptycho_torch.processes import current
from ptycho_torch.scan import Scan, group_neighbours
from ptycho_torch.solvers import LearnedOptions
from ptycho_torch.training.callbacks import Bar, Watch
from ptycho_torch.training.examples import Example
from ptycho_torch.training.loggers import logger_of
from ptycho_torch.training.maker import Maker
from ptycho_torch.training.material import Labelled, Material, Withheld
from ptycho_torch.training.pretrain import region_loss, relative_error
from ptycho_torch.training.sharing import backward, dealt, regions_of
from ptycho_torch.training.state import (
    RESUME_NAME,
    load_state,
    optimiser_tensors,
    restore_optimiser,
    save_state,
)
from ptycho_torch.training.trained import Trained
from ptycho_torch.training.withheld import equivariance, predicted_error

__all__ = ["adapt"]

logger = logging.getLogger(__name__)
_REGIONS = 2
_VALIDATION = 4, 32
"""Regions and groups of each scan on which weights are judged."""
_EPOCH = 20, 60
"""Steps between two judgements: what shows all frames once, within these bounds."""
_AVERAGING = 0.98
_ITERATIONS = (4, 5, 6, 7, 8, 10)
"""How many the steps take, drawn anew for each, as in pretraining."""


def adapt(
    scans: Sequence[Scan],
    config: TrainingConfig,
    weights: dict[str, Tensor],
    execution: ExecutionConfig | None = None,
    *,
    validation: Scan | None = None,
    workdir: Path | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> Trained:
    """Adapt a region solver to scans and return the best weights; arguments as :func:`~ptycho_torch.training.run.fit`.

    Parameters
    ----------
    scans : sequence of Scan
        Their probes, sizes and distances of frames may differ. The bundle is for the first one's frame size.
    config : TrainingConfig
        ``model`` as :func:`~ptycho_torch.training.initial.initial_weights` gives it, ``weights`` too.
    validation : Scan, optional
        Scan whose withheld frames decide which weights are kept; default: frames of ``scans`` that are never
        trained on.

    Raises
    ------
    ProcessLost
        Where another process of the job has ended.
    TrainingError
        When a loss is not finite.
    Interrupted
        When a signal came before the first step.
    """
    watch, execution = watch or Watch(), execution or ExecutionConfig()
    torch.manual_seed(config.seed)
    began = time.monotonic()
    group_neighbours(scans[0].positions, config.model.gridsize, n_groups=1, seed=config.seed)  # or refuses to
    state = load_state(workdir / RESUME_NAME) if resume and workdir is not None else None
    group = current()
    if watch.on_start is not None and group.first:
        watch.on_start(config)
    device = torch.device(device_of(execution.accelerator))
    maker = Maker(config, weights, device, watch)
    materials = [maker.material(scan, config.val_fraction, k == 0) for k, scan in enumerate(scans)]
    judged = [maker.material(validation, 0.2)] if validation is not None else materials
    pair = maker.pair(scans[0], materials[0])
    run = _Run(pair, materials, judged, config, device, workdir, watch)
    run.solver.bf16 = run.average.bf16 = execution.precision == "bf16"
    run.logger = logger_of(execution.logger if group.first else "none", workdir)
    run.begin(state, time.monotonic() - began)
    bar = Bar() if execution.progress and group.first else None
    try:
        return run.done(maker.residuals, bar)
    finally:
        if bar is not None:
            bar.stop(done=run.used >= 1.0)


class _Run:
    """Weights, their average, the optimiser, and how far they are."""

    def __init__(
        self,
        pair: tuple[Autoencoder, DiffractionToObject],
        materials: list[Material],
        judged: list[Material],
        config: TrainingConfig,
        device: torch.device,
        workdir: Path | None,
        watch: Watch,
    ) -> None:
        self.pair, self.config, self.device, self.watch = pair, config, device, watch
        self.group = current()
        self.path = None if workdir is None or not self.group.first else workdir / RESUME_NAME
        self.materials = materials
        kept = solver_of(pair[1])
        assert kept is not None
        self.kept = kept
        self.solver = copy.deepcopy(kept).to(device)
        self.average = copy.deepcopy(kept).to(device).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.solver.parameters(), config.learning_rate, weight_decay=0.0)
        self.members = config.model.gridsize**2
        self.blind = config.probe != "fixed" and config.probe_trainable
        self.tasks = self._validation(judged)
        self.step, self.epochs, self.before = 0, 0, 0.0
        self.history: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.first: dict[str, float] = {}
        self.used = 0.0
        self.best, self.best_weights = 1.0, {k: v.clone() for k, v in kept.state_dict().items()}
        self.logger: Any = False
        self._began = time.monotonic()

    # ------------------------------------------------------------ what it goes on from
    def begin(self, state: tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None, before: float) -> None:
        """Begin, or go on from a state; ``before``: seconds that were used already."""
        self.before = before
        if state is None:
            self.first = self.group.shared(self.figures)
            self._on_best()
            return
        parts, facts = state
        if set(parts.get("model", {})) != set(self.solver.state_dict()) or "first" not in facts:
            raise DataError(
                f"{RESUME_NAME}: the state to resume from is of another model; use its config.yaml"
            )
        self.solver.load_state_dict(parts["model"])
        self.average.load_state_dict(parts["average"])
        self.best_weights = parts["best"]
        restore_optimiser(self.optimiser, parts["optimiser"], self._names())
        self.step, self.epochs, self.before = facts["steps"], facts["epochs"], facts["seconds"]
        self.history, self.losses = facts["history"], facts["losses"]
        self.first, self.best = facts["first"], facts["best"]

    def _names(self) -> dict[Tensor, str]:
        return {parameter: name for name, parameter in self.solver.named_parameters()}

    def _save(self) -> None:
        if self.path is None:
            return
        parts = {
            "model": dict(self.solver.state_dict()),
            "average": dict(self.average.state_dict()),
            "best": self.best_weights,
            "optimiser": optimiser_tensors(self.optimiser, self._names()),
        }
        facts = {
            "steps": self.step,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "history": self.history,
            "losses": self.losses,
            "first": self.first,
            "best": self.best,
        }
        save_state(self.path, parts, facts)

    # ------------------------------------------------------------ the loop
    @property
    def seconds(self) -> float:
        """Time so far, over all runs that this one resumes."""
        return self.before + time.monotonic() - self._began

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch: about what shows every frame once."""
        frames = sum(int((~material.held).sum()) for material in self.materials)
        return int(np.clip(frames // (_REGIONS * 24), *_EPOCH))

    @property
    def progress(self) -> float:
        """Part of the budget that is used by this process's clock, 0 to 1; see ``used``."""
        planned = min(self.config.nepochs * self.epoch_steps, self.config.max_steps or 2**62)
        done = self.step / planned
        if self.config.max_minutes is not None:
            done = max(done, self.seconds / (60 * self.config.max_minutes))
        return min(done, 1.0)

    def done(self, residuals: list[float], bar: Bar | None = None) -> Trained:
        """Take steps until the budget is used up or a signal comes; return the best weights.

        Of several processes none leaves alone: before every step they agree on signals, and on the first one's clock.
        """
        stopping, stale = self.watch.stopping, 0
        stopping.defer(lambda: None)
        self._began = time.monotonic()
        if bar is not None:
            bar.start()
        while self._agreed() is None and (self.used < 1.0 or not self.step):
            self.advance()
            if bar is not None:
                bar.show(self.progress, self.losses[-1])
            if self.step % self.epoch_steps == 0:
                best = self.best
                self._judge()
                stale = 0 if self.best < best else stale + 1
                if self.config.patience is not None and stale >= self.config.patience:
                    break
        if stopping.number is not None:
            self._save()
        if self.losses:
            self._judge(save=stopping.number is None)
        if not self.history:
            raise Interrupted(
                stopping.number or 0, "interrupted before the first step of adaptation; nothing is kept"
            )
        self._put_best()
        for model in self.pair:
            model.cpu().eval().requires_grad_(False)
        return Trained(
            *self.pair, self.config, self.history, self.best, self.seconds, stopping.number, residuals
        )

    def _agreed(self) -> int | None:
        """The signal that any process was sent; sets ``used``, part of the budget by the first one's clock."""
        stopping = self.watch.stopping
        stopping.number = stopping.number or self.group.most(stopping.number or 0) or None
        self.used = self.group.shared(lambda: self.progress)
        return stopping.number

    def _rate(self) -> float:
        progress = self.used
        warmup = max(self.config.warmup_steps, 1)
        rise = min(1.0, max((self.step + 1) / warmup, progress / 0.1))
        return self.config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * progress))

    def advance(self) -> None:
        """One step: a task, its gradient, the average."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        loss = self._backward(self.step)
        largest = self.config.gradient_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.solver.parameters(), largest)
        if not math.isfinite(float(loss.detach()) + float(norm)):
            raise TrainingError(
                f"loss: not finite at step {self.step + 1}; what was better before it is kept. Try a lower"
                " --learning-rate, or check the frames for outliers"
            )
        self.optimiser.step()
        self.step += 1
        keep = min(_AVERAGING, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.solver.parameters(), strict=True):
                mean.lerp_(value, 1 - keep)
        self.losses.append(float(loss.detach()))

    def _backward(self, step: int) -> Tensor:
        """The loss of a step's task, whose gradients are set."""
        rng = np.random.default_rng([self.config.seed, step])
        material = self.materials[step % len(self.materials)]
        if material.image is not None and rng.random() < self.config.joint_share:
            count = int(rng.choice(_ITERATIONS))
            task = material.withheld(rng, _REGIONS)
            given = dealt(self.solver, task.given.to(self.device))

            def predicted(own: Tensor) -> Tensor:
                part = Withheld(regions_of(given, own), regions_of(task.hidden, own))
                return self._predicted(self.solver, part, count).mean()

            return backward(predicted, len(given.probe), self.solver, self.group)
        single = material.image is None
        groups = material.drawn_groups(rng, self.config.batch_size, 1 if single else self.members)
        given = dealt(self.solver, groups.given.to(self.device))

        def of_groups(own: Tensor) -> Tensor:
            part = regions_of(given, own)
            if single:
                moves = np.random.default_rng([self.config.seed, step, int(own[0])])
                return equivariance(self.solver, part, moves)
            return region_loss(
                *self._compared(self.solver, Labelled(part, groups.objects[own], groups.known[own]))
            )

        return backward(of_groups, len(given.probe), self.solver, self.group)

    def _predicted(self, solver: RegionSolver, task: Withheld, iterations: int) -> Tensor:
        """R_w of each region."""
        given = task.given.to(self.device)
        solution = solver(given, update_probe=self.blind, iterations=iterations, keep=True)
        return predicted_error(solution, task.hidden.to(self.device))

    def _compared(self, solver: RegionSolver, groups: Labelled) -> tuple[Any, Example]:
        """What groups give, and what all frames say of them."""
        given = groups.given.to(self.device)
        solution = solver(given, update_probe=False, keep=True)
        cover = solution.coverage.detach()
        weight = groups.known.to(self.device) * cover / (cover + 0.1)
        return solution, Example(given, groups.objects.to(self.device), weight, given.probe, False, 0.0)

    # ------------------------------------------------------------ judging
    def _validation(self, judged: list[Material]) -> list[Withheld | Labelled]:
        """Tasks on frames that no step sees, the same ones all along."""
        tasks: list[Withheld | Labelled] = []
        for material in judged:
            if material.image is not None:
                regions = material.validation(_VALIDATION[0])
                tasks += [
                    material.withheld(np.random.default_rng(0), _REGIONS) if regions is None else regions
                ]
            members = self.members if material.image is not None else 1
            tasks.append(material.validation_groups(_VALIDATION[1], members))
        return tasks

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Errors of the averaged weights: R of withheld frames, and of groups against the image of all frames,
        or where there is none, of single frames and their moved copies."""
        found: dict[str, list[float]] = {}
        for task in self.tasks:
            if isinstance(task, Withheld):
                errors = self._predicted(self.average, task, LearnedOptions().sweeps)
                found.setdefault("withheld", []).append(float(errors.mean()))
            elif bool(task.known.any()):
                solution, example = self._compared(self.average, task)
                error = relative_error(solution.objects[-1], example)
                found.setdefault("groups", []).append(float(error.nanmean()))
            else:
                given, rng = task.given.to(self.device), np.random.default_rng(0)
                found.setdefault("single", []).append(float(equivariance(self.average, given, rng)))
        return {name: sum(values) / len(values) for name, values in found.items()}

    def _judge(self, save: bool = True) -> None:
        """A row of the history; the averaged weights are kept if they are the best."""
        now = self.group.shared(self.figures)
        score = sum(now[name] / max(self.first[name], 1e-12) for name in now) / len(now)
        if not math.isfinite(score):
            raise TrainingError(
                f"loss: not finite on the frames kept back, at step {self.step}; try a lower --learning-rate"
            )
        self.epochs += 1
        self.history.append(
            {
                "epoch": self.epochs,
                "step": self.step,
                "seconds": round(self.seconds, 3),
                "loss": sum(self.losses) / len(self.losses),
                "val_loss": score,
                **now,
                "learning_rate": self.optimiser.param_groups[0]["lr"],
                "intensity_scale": self.pair[0].intensity_scale,
            }
        )
        self.losses = []
        if self.logger is not False:
            self.logger.log_metrics(self.history[-1], self.step)
        if score < self.best:
            self.best = score
            self.best_weights = {k: v.detach().cpu().clone() for k, v in self.average.state_dict().items()}
            self._on_best()
        if save:
            self._save()
        if self.watch.on_row is not None and self.group.first:
            self.watch.on_row(self.history)

    def _put_best(self) -> None:
        self.kept.load_state_dict(self.best_weights)

    def _on_best(self) -> None:
        self._put_best()
        if self.watch.on_best is not None and self.group.first:
            self.watch.on_best(*self.pair, self.config, self.history)
