"""One training run: from a scan to a trained model pair, with everything kept on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from ptycho_torch.config import ExecutionConfig, TrainingConfig
from ptycho_torch.device import device_of
from ptycho_torch.errors import ConfigError, DataError, Interrupted, TrainingError
from ptycho_torch.generators.unrolled import REGION_FORMS
from ptycho_torch.model import Autoencoder, DiffractionToObject, build_pair
from ptycho_torch.processes import current, noticing
from ptycho_torch.scan import Scan
from ptycho_torch.training.adapt import adapt
from ptycho_torch.training.callbacks import GracefulStop, Keeper, ProgressBar, Watch
from ptycho_torch.training.checks import checked
from ptycho_torch.training.data import GroupData
from ptycho_torch.training.initial import initial_weights, load_initial
from ptycho_torch.training.loggers import logger_of
from ptycho_torch.training.module import PtychoModule
from ptycho_torch.training.prepare import Illumination, Measured, illuminate, measure
from ptycho_torch.training.state import RESUME_NAME, load_state
from ptycho_torch.training.trained import Trained

__all__ = ["Trained", "Watch", "fit"]

logger = logging.getLogger(__name__)


State = tuple[dict[str, dict[str, Tensor]], dict[str, Any]]


def fit(
    scan: Scan | Sequence[Scan],
    config: TrainingConfig,
    execution: ExecutionConfig | None = None,
    *,
    validation: Scan | None = None,
    workdir: Path | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> Trained:
    """Train on a scan's frames without labels and return the best model.

    Parameters
    ----------
    scan : Scan, or sequence of Scan
        Several where a region solver is adapted, see :mod:`ptycho_torch.training.adapt`.
    validation : Scan, optional
        Losses are measured on ``validation``; default: on a part of the scan's frames.
    config : TrainingConfig
        ``config.model.N`` of 0 takes the frames' size.
    workdir : Path, optional
        Where the state to resume from is kept; ``resume``: go on from it.
    watch : Watch, optional
        Who is told of the run while it goes on.

    Raises
    ------
    ConfigError, DataError
        When the configuration does not fit the scan; nothing has been done then.
    TrainingError
        When a loss is not finite.
    Interrupted
        When a signal (Ctrl-C, SIGTERM, SIGHUP) came before the first step, or a second time; else the run
        ends after the current step.
    """
    watch, execution = watch or Watch(), execution or ExecutionConfig()
    scans = [scan] if isinstance(scan, Scan) else list(scan)
    with watch.stopping:
        config, initial = initial_weights(config)
        config, scan = checked(scans[0], config, execution, None if initial is not None else validation)
        if initial is not None and config.model.unrolled_form in REGION_FORMS:
            return adapt(
                [scan, *scans[1:]],
                config,
                initial,
                execution,
                validation=validation,
                workdir=workdir,
                resume=resume,
                watch=watch,
            )
        if len(scans) > 1:
            raise ConfigError(
                f"--init {config.init}: give one scan to train on, not {len(scans)};"
                " only --init shipped takes several"
            )
        state = load_state(workdir / RESUME_NAME) if resume and workdir is not None else None
        return _Run(scan, config, execution, validation, workdir, watch, state, initial).done()


@dataclass(frozen=True)
class _Run:
    """One run, once its checks are passed; ``state``: what it goes on from."""

    scan: Scan
    config: TrainingConfig
    execution: ExecutionConfig
    validation: Scan | None
    workdir: Path | None
    watch: Watch
    state: State | None
    initial: dict[str, Tensor] | None

    def done(self) -> Trained:
        """Train, and return the best model."""
        config, watch, state = self.config, self.watch, self.state
        device, began = device_of(self.execution.accelerator), time.monotonic()
        lightning.seed_everything(config.seed, workers=True, verbose=False)
        measured = measure(self.scan, config)
        data = GroupData(self.scan, config, self.execution, measured.normalisation, self.validation)
        group = current()
        if watch.on_start is not None and group.first:
            watch.on_start(config)
        start = dataclasses.replace(config, probe="fixed") if state else config
        # Every process would find the same but for rounding, which differs between machines.
        light = group.shared(lambda: illuminate(self.scan, start, measured, device, watch.on_probe))
        module, to_object = _module(self.scan, config, measured, light, data, state)
        if self.initial is not None and state is None:
            load_initial(module.autoencoder.core.generator, self.initial, config.init)
        module.autoencoder.core.generator.bf16 = self.execution.precision == "bf16"
        module.seconds_before = float(state[1]["seconds"]) if state else time.monotonic() - began
        keeper = _keeper(module, to_object, self.workdir, watch, state)
        data.first_epoch = keeper.epochs
        if keeper.epochs < config.nepochs and module.steps_before < module.steps_planned:
            _train(module, data, keeper, self.execution, device)
        else:
            logger.info("nothing left to train: %d epochs and %d steps are done", keeper.epochs, keeper.steps)
        return _ended(module, to_object, keeper, light.residuals)


def _module(
    scan: Scan,
    config: TrainingConfig,
    measured: Measured,
    light: Illumination,
    data: GroupData,
    state: State | None,
) -> tuple[PtychoModule, DiffractionToObject]:
    """What Lightning trains, fresh or as ``state`` has it, and the model that inference uses."""
    facts = state[1] if state else {}
    autoencoder, to_object = build_pair(
        config.model,
        light.probe,
        float(facts.get("data_scale", measured.intensity_scale)),
        {"amplitude_normalisation": measured.normalisation},
    )
    mask = None if scan.good_pixels is None else torch.from_numpy(scan.good_pixels)
    module = PtychoModule(autoencoder, config, data.region, mask)
    module.steps_planned = min(config.nepochs * data.batches_per_epoch, config.max_steps or 2**62)
    if state is None:
        data.fit_labels(autoencoder.probe.detach(), mask)
        return module, to_object
    _load_weights(autoencoder, state[0]["model"])
    data.label_scale, module.probe_peak = float(facts["label_scale"]), float(facts["probe_peak"])
    module.steps_before, data.batches_done = int(facts["steps"]), int(facts["batches"])
    module.begun(float(facts["batches_loss"]), data.batches_done)
    return module, to_object


def _keeper(
    module: PtychoModule,
    to_object: DiffractionToObject,
    workdir: Path | None,
    watch: Watch,
    state: State | None,
) -> Keeper:
    def best(trained: PtychoModule) -> None:
        if watch.on_best is not None and trained.group.first:
            watch.on_best(trained.autoencoder, to_object, module.config, keeper.history)

    path = None if workdir is None else workdir / RESUME_NAME
    keeper = Keeper(path, best, watch, state, module.config.patience)
    return keeper


def _train(
    module: PtychoModule, data: GroupData, keeper: Keeper, execution: ExecutionConfig, device: str
) -> None:
    """Run Lightning's trainer until the budget is used up or a signal comes."""
    callbacks: list[lightning.Callback] = [keeper, GracefulStop(keeper.watch.stopping)]
    if execution.progress:
        callbacks.append(ProgressBar())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Grad strides do not match")
        warnings.filterwarnings("ignore", module=r"lightning\..*")  # its own use of torch, nobody's to act on
        folder = None if keeper.resume_path is None else keeper.resume_path.parent
        trainer = _trainer(callbacks, module.config, execution, device, keeper.epochs, folder)
        with noticing() if module.group.size > 1 else contextlib.nullcontext():
            trainer.fit(module, datamodule=data)


def _ended(
    module: PtychoModule, to_object: DiffractionToObject, keeper: Keeper, residuals: list[float]
) -> Trained:
    """The best model, ready for use."""
    number = keeper.watch.stopping.number
    if keeper.best_weights is None or keeper.best is None:
        if number is not None:
            raise Interrupted(number, "interrupted before the first step of training; nothing is kept")
        raise TrainingError("training ended before its first step; nothing was learned and nothing is kept")
    autoencoder = module.autoencoder
    _load_weights(autoencoder, keeper.best_weights)
    for model in (autoencoder, to_object):
        model.cpu().eval().requires_grad_(False)
    return Trained(
        autoencoder,
        to_object,
        module.config,
        keeper.history,
        keeper.best,
        module.seconds,
        number,
        residuals,
    )


def _trainer(
    callbacks: list[lightning.Callback],
    config: TrainingConfig,
    execution: ExecutionConfig,
    device: str,
    done: int,
    folder: Path | None,
) -> lightning.Trainer:
    group = current()
    several = DDPStrategy(find_unused_parameters=True) if group.size > 1 else "auto"
    return lightning.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=group.on_machine,
        num_nodes=group.size // group.on_machine,
        strategy=several,
        use_distributed_sampler=False,
        max_epochs=config.nepochs - done,
        min_epochs=0,
        reload_dataloaders_every_n_epochs=1,
        gradient_clip_val=config.gradient_clip or None,
        deterministic="warn" if execution.deterministic and device == "cuda" else None,
        logger=logger_of(execution.logger, folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=callbacks,
    )


def _load_weights(autoencoder: Autoencoder, weights: dict[str, Tensor]) -> None:
    expected = autoencoder.state_dict()
    wrong = [k for k in expected if k not in weights or weights[k].shape != expected[k].shape]
    wrong += [k for k in weights if k not in expected]
    if wrong:
        raise DataError(
            f"{RESUME_NAME}: the state to resume from is of another model ({len(wrong)} entries differ,"
            f" first: {wrong[0]}); "
            "use the configuration of that run (its config.yaml)"
        )
    autoencoder.load_state_dict(weights)
