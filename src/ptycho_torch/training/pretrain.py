"""Pretraining of the region solver on simulated scans alone."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptycho_torch.bundle.shipped import load_solver
from ptycho_torch.config.pretraining import PretrainOptions
from ptycho_torch.errors import TrainingError
from ptycho_torch.files import ensure_output_dir, write_text_atomic
from ptycho_torch.generators.region_frames import Solution
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.processes import current
from ptycho_torch.training.examples import Example, Examples, Recipe
from ptycho_torch.training.sharing import backward, dealt, regions_of
from ptycho_torch.training.state import (
    RESUME_NAME,
    load_state,
    optimiser_tensors,
    restore_optimiser,
    save_state,
)

__all__ = ["PretrainOptions", "Pretrained", "pretrain", "region_loss", "relative_error"]

logger = logging.getLogger(__name__)
_FLOOR = 0.004
"""Error below which an example hardly counts."""
_VALIDATION_SEED = 1_000_003
_VALIDATION = 24
_ITERATIONS = (4, 5, 6, 7, 8, 10)
"""How many the steps take in turn, so that an image is good after any number of them."""


@dataclass(frozen=True)
class Pretrained:
    """The averaged weights, and the rows of the log."""

    solver: RegionSolver
    history: list[dict[str, float]]
    seconds: float


def _aligned(obj: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """The objects (B, H, W) after the one complex factor that brings each nearest to its truth."""
    with torch.no_grad():
        overlap = (weight * truth * obj.conj()).sum((1, 2))
        factor = overlap / (weight * obj.abs().square()).sum((1, 2)).clamp_min(1e-9)
    return obj * factor[:, None, None]


def region_loss(solution: Solution, example: Example) -> Tensor:
    """Return the loss of all iterates, the last one counting most.

        loss = sum_k q_k 2 sqrt( sum w |a o_k - truth| / sum w )

    With the error itself, sparse and hard regions would be all that the networks learn from; with its
    logarithm, those that are solved already.
    """
    weight = example.weight
    loss = weight.new_zeros(())
    count = len(solution.objects)
    shares = [0.1] * max(0, count - 2) + [0.25, 1.0]
    for share, obj in zip(shares[-count:], solution.objects, strict=True):
        error = (weight * (_aligned(obj, example.truth, weight) - example.truth).abs()).sum((1, 2))
        loss = loss + share * 2 * (error / weight.sum((1, 2)) + _FLOOR).sqrt().mean()
    if example.update_probe:
        loss = loss + 0.1 * 2 * (_probe_error(solution.probe, example.probe) + _FLOOR).sqrt().mean()
    return loss


def _probe_error(probe: Tensor, truth: Tensor) -> Tensor:
    """Relative error of the first mode after one complex factor, (B,)."""
    found, wanted = probe[:, :1].flatten(1), truth[:, :1].flatten(1)
    with torch.no_grad():
        factor = (wanted * found.conj()).sum(1) / found.abs().square().sum(1).clamp_min(1e-12)
    return (found * factor[:, None] - wanted).abs().square().sum(1).add(1e-12).sqrt() / wanted.norm(dim=1)


def relative_error(obj: Tensor, example: Example) -> Tensor:
    """Root of the weighted mean square error over that of the truth, (B,)."""
    error = (_aligned(obj, example.truth, example.weight) - example.truth).abs().square()
    return (
        (example.weight * error).sum((1, 2)) / (example.weight * example.truth.abs().square()).sum((1, 2))
    ).sqrt()


def pretrain(
    folder: str | Path,
    options: PretrainOptions | None = None,
    recipe: Recipe | None = None,
    *,
    resume: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Pretrained:
    """Train a :class:`RegionSolver` on simulated regions and keep state and log in ``folder``.

    Of several processes each takes some of a step's regions, and the first one writes.

    Parameters
    ----------
    folder : path
        Gets ``resume.safetensors`` (weights, their average, the optimiser) and ``pretrain.jsonl``, a row of
        figures for each state.
    options, recipe : optional
    resume : bool
        Go on from the state in ``folder``.
    progress : callable, optional
        Called with steps done, steps in all and the latest figures as text.

    Raises
    ------
    TrainingError
        When the loss is not finite.
    """
    options = options or PretrainOptions()
    run = _Run(ensure_output_dir(folder), options, Examples(options.seed, recipe))
    if resume:
        run.restore()
    while run.step < options.steps:
        run.advance()
        if run.step % options.save_every == 0 or run.step == options.steps:
            run.keep()
        if progress is not None and run.group.first:
            progress(run.step, options.steps, run.text)
    run.average.eval().requires_grad_(False)
    return Pretrained(run.average, run.history, run.seconds)


def _renewed(solver: RegionSolver) -> RegionSolver:
    """Weights of another run as the beginning of this one; late iterations it lacks begin as its last one."""
    fresh = RegionSolver(solver.iterations, solver.passes, solver.width, solver.levels, solver.damping)
    last = {"late_eta": solver.eta.data[-1], "late_momentum": solver.momentum.data[-1]}
    fresh.load_state_dict(fresh.state_dict() | last | solver.state_dict())
    return fresh


def _part(example: Example, regions: Tensor) -> Example:
    """Some regions of an example whose frames are dealt to subsets."""
    return dataclasses.replace(
        example,
        frames=regions_of(example.frames, regions),
        truth=example.truth[regions],
        weight=example.weight[regions],
        probe=example.probe[regions],
    )


class _Run:
    """Weights, their average, the optimiser, and how far they are."""

    def __init__(self, folder: Path, options: PretrainOptions, examples: Examples) -> None:
        self.folder, self.options, self.examples = folder, options, examples
        self.group = current()
        torch.manual_seed(options.seed)
        self.solver = RegionSolver() if options.init is None else _renewed(load_solver(options.init))
        self.solver.to(options.device)
        self.average = copy.deepcopy(self.solver)
        self.optimiser = torch.optim.AdamW(
            self.solver.parameters(), options.learning_rate, betas=(0.9, 0.999), weight_decay=1e-4
        )
        known = Examples(_VALIDATION_SEED, examples.recipe)
        self.validation = [known.draw(i).to(options.device) for i in range(_VALIDATION)]
        self.step, self.seconds, self.text = 0, 0.0, ""
        self.history: list[dict[str, float]] = []
        self._losses: list[float] = []

    def restore(self) -> None:
        parts, facts = load_state(self.folder / RESUME_NAME)
        self.solver.load_state_dict(parts["model"])
        self.average.load_state_dict(parts["average"])
        restore_optimiser(self.optimiser, parts["optimiser"], self._names())
        self.step, self.seconds, self.history = facts["step"], facts["seconds"], facts["history"]

    def _names(self) -> dict[Tensor, str]:
        return {parameter: name for name, parameter in self.solver.named_parameters()}

    def _rate(self) -> float:
        options = self.options
        left = (options.steps - self.step) / max(options.cooldown, 1)
        return options.learning_rate * min(1.0, (self.step + 1) / options.warmup, left)

    def advance(self) -> None:
        """One step: an example, its gradient, the average."""
        began = time.monotonic()
        example = self.examples.draw(self.step).to(self.options.device)
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        iterations = _ITERATIONS[self.step % len(_ITERATIONS)]

        example = dataclasses.replace(example, frames=dealt(self.solver, example.frames))

        def of(regions: Tensor) -> Tensor:
            part = _part(example, regions)
            blind = part.update_probe
            solution = self.solver(part.frames, update_probe=blind, iterations=iterations, keep=True)
            return region_loss(solution, part)

        loss = backward(of, len(example.truth), self.solver, self.group)
        if not torch.isfinite(loss):
            raise TrainingError(f"loss: not finite at step {self.step}; the last state is kept")
        torch.nn.utils.clip_grad_norm_(self.solver.parameters(), self.options.clip)
        self.optimiser.step()
        self.step += 1
        keep = min(self.options.averaging, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.solver.parameters(), strict=True):
                mean.lerp_(value, 1 - keep)
        self.seconds += time.monotonic() - began
        self._losses.append(loss.item())
        self.text = f"loss {sum(self._losses[-50:]) / len(self._losses[-50:]):.3f}"

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Errors of the averaged weights on regions that are never trained on: dense, medium and sparse ones."""
        kinds: dict[str, list[float]] = {}
        for example in self.validation:
            found = self.average(example.frames, update_probe=example.update_probe).objects[-1]
            kind = "dense" if example.spacing < 0.15 else "medium" if example.spacing < 0.4 else "sparse"
            kind += "_blind" if example.update_probe else ""
            kinds.setdefault(kind, []).extend(relative_error(found, example).tolist())
        return {kind: round(sum(errors) / len(errors), 5) for kind, errors in sorted(kinds.items())}

    def keep(self) -> None:
        """Writes the state and a row of the log; of several processes the first one does."""
        if not self.group.first:
            return
        row: dict[str, Any] = {"step": self.step, "seconds": round(self.seconds, 1), "rate": self._rate()}
        row["loss"] = round(sum(self._losses) / max(len(self._losses), 1), 5)
        row |= self.figures()
        self._losses = []
        self.history.append(row)
        save_state(
            self.folder / RESUME_NAME,
            {
                "model": dict(self.solver.state_dict()),
                "average": dict(self.average.state_dict()),
                "optimiser": optimiser_tensors(self.optimiser, self._names()),
            },
            {"step": self.step, "seconds": self.seconds, "history": self.history},
        )
        lines = [json.dumps(entry) for entry in self.history]
        write_text_atomic(self.folder / "pretrain.jsonl", "\n".join(lines) + "\n")
        logger.info("%s", row)
