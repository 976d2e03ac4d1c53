"""Callbacks: history, the best model so far, a clean end on Ctrl-C, a progress bar."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from ptycho_torch.training.module import PtychoModule
from ptycho_torch.training.state import optimiser_tensors, restore_optimiser, save_state

__all__ = ["GracefulStop", "Keeper", "ProgressBar"]

_log = logging.getLogger(__name__)


class Keeper(lightning.Callback):
    """After every epoch: one row of history, the bundle if the model is the best so far, the state to resume from.

    ``on_best`` is called with the module when its loss (validation where there is one) is the lowest yet.
    """

    def __init__(
        self,
        resume_path: Path | None,
        on_best: Callable[[PtychoModule], None],
        resume: tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None = None,
        patience: int | None = None,
        on_row: Callable[[list[dict[str, float]]], None] | None = None,
    ) -> None:
        self.resume_path, self.on_best, self.patience, self.on_row = resume_path, on_best, patience, on_row
        parts, facts = resume or ({}, {})
        self._moments, self._rates = parts.get("optimiser"), facts.get("rates")
        self.history: list[dict[str, float]] = list(facts.get("history", []))
        self.best_weights: dict[str, Tensor] | None = parts.get("best")
        self.best: float | None = facts.get("best")
        self.epochs = int(facts.get("epochs", 0))
        self.steps = int(facts.get("steps", 0))
        self.stale = int(facts.get("stale", 0))

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._moments is not None:
            restore_optimiser(trainer.optimizers[0], self._moments, self._rates)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, PtychoModule)
        if pl_module.epoch_loss is None:
            return
        metrics = {"loss": pl_module.epoch_loss}
        held_out = pl_module.validation_loss(trainer.datamodule.val_batches())  # type: ignore[attr-defined]
        if held_out is not None:
            metrics["val_loss"] = held_out
        self.epochs += 1
        steps = self.steps + trainer.global_step
        row = {
            "epoch": self.epochs,
            "step": steps,
            "seconds": round(pl_module.seconds, 3),
            **metrics,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "intensity_scale": pl_module.autoencoder.intensity_scale,
        }
        self.history.append(row)
        score = metrics.get("val_loss", metrics["loss"])
        if self.best is None or score < self.best:
            self.best, self.stale = score, 0
            self.best_weights = {
                k: v.detach().cpu().clone() for k, v in pl_module.autoencoder.state_dict().items()
            }
            self.on_best(pl_module)
        else:
            self.stale += 1
            if self.patience is not None and self.stale >= self.patience:
                _log.info("stopped early: no improvement for %d epochs", self.stale)
                trainer.should_stop = True
        if self.resume_path is not None:
            save_state(
                self.resume_path,
                {
                    "model": dict(pl_module.autoencoder.state_dict()),
                    "best": self.best_weights or {},
                    "optimiser": optimiser_tensors(trainer.optimizers[0]),
                },
                {
                    "epochs": self.epochs,
                    "steps": steps,
                    "stale": self.stale,
                    "seconds": pl_module.seconds,
                    "best": self.best,
                    "history": self.history,
                    "data_scale": pl_module.data_scale,
                    "rates": [group["scale"] for group in trainer.optimizers[0].param_groups],
                },
            )
        if self.on_row is not None:
            self.on_row(self.history)


class GracefulStop(lightning.Callback):
    """The first Ctrl-C ends training after the current step; a second one ends the program."""

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = None

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            trainer.should_stop = True
            _log.warning("interrupted: ending after this step; the best model so far is kept")

        self._previous = signal.signal(signal.SIGINT, stop)

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._restore()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._restore()


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
