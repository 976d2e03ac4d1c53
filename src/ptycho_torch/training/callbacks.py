"""Callbacks: history, the best model so far, a clean end on a signal, a progress bar."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from ptycho_torch.config import TrainingConfig
from ptycho_torch.model import Autoencoder, DiffractionToObject
from ptycho_torch.training.module import PtychoModule
from ptycho_torch.training.state import optimiser_tensors, restore_optimiser, save_state
from ptycho_torch.training.stopping import Stopping

__all__ = ["GracefulStop", "Keeper", "ProgressBar", "Watch"]

logger = logging.getLogger(__name__)


Row = dict[str, float]


@dataclass(frozen=True)
class Watch:
    """Who is told of what while training goes on; each may be None.

    Attributes
    ----------
    on_start : callable, optional
        Called with the configuration as it is used, after all checks and before the work.
    on_probe : callable, optional
        Called with sweep and residual while the probe is refined.
    on_row : callable, optional
        Called with the history after each epoch.
    on_best : callable, optional
        Called with the pair of models, configuration and history when the model is the best so far.
    stopping : Stopping
        What listens to signals.
    """

    on_start: Callable[[TrainingConfig], None] | None = None
    on_probe: Callable[[int, float], None] | None = None
    on_row: Callable[[list[Row]], None] | None = None
    on_best: Callable[[Autoencoder, DiffractionToObject, TrainingConfig, list[Row]], None] | None = None
    stopping: Stopping = field(default_factory=Stopping)


class Keeper(lightning.Callback):
    """After every epoch: one row of history, the best model so far, the state to resume from.

    Where a signal cut an epoch short, the state is that of its middle, so that a resumed run is as if nothing
    had happened. ``on_best`` is called with the module when its loss (validation where there is one) is
    the lowest yet.
    """

    def __init__(
        self,
        resume_path: Path | None,
        on_best: Callable[[PtychoModule], None],
        watch: Watch,
        resume: tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None = None,
        patience: int | None = None,
    ) -> None:
        self.resume_path, self.on_best, self.watch, self.patience = resume_path, on_best, watch, patience
        parts, facts = resume or ({}, {})
        self._moments = parts.get("optimiser")
        self.history: list[Row] = list(facts.get("history", []))
        self.best_weights: dict[str, Tensor] | None = parts.get("best") or None
        self.best: float | None = facts.get("best")
        self.epochs = int(facts.get("epochs", 0))
        self.steps = int(facts.get("steps", 0))
        self.stale = int(facts.get("stale", 0))

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._moments is not None:
            restore_optimiser(trainer.optimizers[0], self._moments, _names(pl_module))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, PtychoModule)
        if pl_module.epoch_loss is None:
            return
        pl_module.check_weights()
        cut = self.watch.stopping.number is not None
        cut = cut and pl_module.batches < trainer.datamodule.batches_per_epoch  # type: ignore[attr-defined]
        if cut:
            self._save(trainer, pl_module, pl_module.batches)
        held_out = pl_module.validation_loss(trainer.datamodule.val_batches())  # type: ignore[attr-defined]
        if held_out is not None and not math.isfinite(held_out):
            pl_module.not_finite("validation loss after the step")
        self.epochs += 1
        self._add_row(trainer, pl_module, held_out)
        score = pl_module.epoch_loss if held_out is None else held_out
        if self.best is None or score < self.best:
            self.best, self.stale = score, 0
            state = pl_module.autoencoder.state_dict()
            self.best_weights = {k: v.detach().cpu().clone() for k, v in state.items()}
            self.on_best(pl_module)
        else:
            self.stale += 1
            if self.patience is not None and self.stale >= self.patience:
                logger.info("stopped early: no improvement for %d epochs", self.stale)
                trainer.should_stop = True
        if not cut:
            self._save(trainer, pl_module, 0)
        if self.watch.on_row is not None:
            self.watch.on_row(self.history)

    def _add_row(self, trainer: lightning.Trainer, module: PtychoModule, held_out: float | None) -> None:
        assert module.epoch_loss is not None
        self.history.append(
            {
                "epoch": self.epochs,
                "step": self.steps + trainer.global_step,
                "seconds": round(module.seconds, 3),
                "loss": module.epoch_loss,
                **({} if held_out is None else {"val_loss": held_out}),
                "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                "intensity_scale": module.autoencoder.intensity_scale,
            }
        )
        if trainer.logger is not None:
            trainer.logger.log_metrics(self.history[-1], self.steps + trainer.global_step)

    def _save(self, trainer: lightning.Trainer, module: PtychoModule, batches: int) -> None:
        """Keep where the run stands: after its epochs, and after ``batches`` of the one that is not ended."""
        steps = self.steps + trainer.global_step
        if self.resume_path is None:
            return
        save_state(
            self.resume_path,
            {
                "model": dict(module.autoencoder.state_dict()),
                "best": self.best_weights or {},
                "optimiser": optimiser_tensors(trainer.optimizers[0], _names(module)),
            },
            {
                "epochs": self.epochs,
                "batches": batches,
                "batches_loss": module.epoch_sum if batches else 0.0,
                "steps": steps,
                "stale": self.stale,
                "seconds": module.seconds,
                "best": self.best,
                "history": self.history,
                "data_scale": module.data_scale,
                "label_scale": trainer.datamodule.label_scale,  # type: ignore[attr-defined]
                "probe_peak": module.probe_peak,
            },
        )
        module.last_good = (
            f"the last good state is that of step {steps}, in {self.resume_path.parent}: go on from it with"
            f" 'ptychopinn train --resume {self.resume_path.parent}'"
        )


def _names(module: lightning.LightningModule) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in module.named_parameters()}


class GracefulStop(lightning.Callback):
    """From the first step on, a signal ends training after the current one."""

    def __init__(self, stopping: Stopping) -> None:
        self.stopping = stopping

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.stopping.listen()  # Lightning has taken SIGTERM for itself meanwhile

        def stop() -> None:
            trainer.should_stop = True

        self.stopping.defer(stop)


class ProgressBar(lightning.Callback):
    """One line for the whole run: part of the budget, loss, time left."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[text]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task("training", total=1.0, text="")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._bar.start()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, PtychoModule)
        if batch_idx % 5 == 0:
            self._bar.update(
                self._task, completed=pl_module.progress, text=f"loss {float(outputs['loss']):.5g}"
            )

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, PtychoModule)
        self._bar.update(self._task, completed=1.0)
        self._bar.stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._bar.stop()
