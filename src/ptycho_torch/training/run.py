"""One training run: from a scan to a trained model pair, with everything kept on the way."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import lightning
import torch
from torch import Tensor

from ptycho_torch.config import ExecutionConfig, TrainingConfig, validate
from ptycho_torch.device import device_of
from ptycho_torch.errors import ConfigError, DataError, TrainingError
from ptycho_torch.model import Autoencoder, DiffractionToObject, build_pair
from ptycho_torch.scan import Scan
from ptycho_torch.training.callbacks import GracefulStop, Keeper, ProgressBar
from ptycho_torch.training.data import GroupData
from ptycho_torch.training.module import PtychoModule
from ptycho_torch.training.prepare import prepare, subsample
from ptycho_torch.training.state import RESUME_NAME, load_state

__all__ = ["Trained", "fit"]

_log = logging.getLogger(__name__)


@dataclass
class Trained:
    """A trained pair, sharing weights, and how it came about."""

    autoencoder: Autoencoder
    diffraction_to_obj: DiffractionToObject
    config: TrainingConfig
    history: list[dict[str, float]]
    best: float
    seconds: float
    interrupted: bool
    probe_residuals: list[float] = field(default_factory=list)

    @property
    def models(self) -> dict[str, torch.nn.Module]:
        """The pair as ``save_torch_bundle`` takes it."""
        return {"autoencoder": self.autoencoder, "diffraction_to_obj": self.diffraction_to_obj}


def fit(
    scan: Scan,
    config: TrainingConfig,
    execution: ExecutionConfig | None = None,
    *,
    validation: Scan | None = None,
    workdir: Path | None = None,
    resume: bool = False,
    on_best: Callable[[Autoencoder, DiffractionToObject, TrainingConfig, list[dict[str, float]]], None]
    | None = None,
    on_row: Callable[[list[dict[str, float]]], None] | None = None,
    on_probe: Callable[[int, float], None] | None = None,
) -> Trained:
    """Trains on a scan's frames without labels and returns the best model.

    ``config.model.N`` of 0 takes the frames' size. ``workdir``: where the state to resume from is
    kept; ``resume``: go on from it. ``on_best`` is called whenever the model is the best so far,
    ``on_row`` with the history after each epoch, ``on_probe`` during refinement of the probe.
    Raises :class:`~ptycho_torch.errors.ConfigError` or
    :class:`~ptycho_torch.errors.TrainingError`.
    """
    execution = execution or ExecutionConfig()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model))
    config.model.N = config.model.N or scan.N
    _choose(config)
    validate(config)
    validate(execution, "execution.")
    _check_fit(scan, validation, config)
    if execution.threads is not None:
        torch.set_num_threads(execution.threads)
    device = device_of(execution.accelerator)
    seed = config.seed if config.subsample_seed is None else config.subsample_seed
    scan = subsample(scan, config.n_subsample, seed, config.sequential_sampling)

    began = time.monotonic()
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    state = load_state(workdir / RESUME_NAME) if resume and workdir is not None else None
    prepared = prepare(
        scan,
        dataclasses.replace(config, probe="fixed") if state else config,
        device=device,
        progress=on_probe,
    )
    config.model.probe_modes = len(prepared.probe)
    autoencoder, diffraction_to_obj = build_pair(
        config.model,
        prepared.probe,
        float(state[1]["data_scale"]) if state else prepared.intensity_scale,
        {"amplitude_normalisation": prepared.normalisation},
    )
    core = autoencoder.core
    core.generator.bf16 = execution.precision == "bf16"  # type: ignore[assignment]
    data = GroupData(scan, config, execution, prepared.normalisation, validation)
    mask = None if scan.good_pixels is None else torch.from_numpy(scan.good_pixels)
    module = PtychoModule(autoencoder, config, data.region, mask)
    if state is not None:
        _load_weights(autoencoder, state[0]["model"], workdir)
    groups = config.n_groups or min(len(data.train_scan.positions), 2048)
    per_epoch = -(-groups // config.batch_size)
    module.steps_planned = min(config.nepochs * per_epoch, config.max_steps or 2**62)
    module.seconds_before = float(state[1]["seconds"]) if state else time.monotonic() - began

    def best(trained: PtychoModule) -> None:
        if on_best is not None:
            on_best(trained.autoencoder, diffraction_to_obj, config, keeper.history)

    resume_path = None if workdir is None else workdir / RESUME_NAME
    keeper = Keeper(resume_path, best, state, config.patience, on_row)
    module.steps_before = keeper.steps
    data.first_epoch = keeper.epochs
    if keeper.epochs < config.nepochs and module.steps_before < module.steps_planned:
        interrupted = _run(module, data, keeper, config, execution, device)
    else:
        interrupted = False
        _log.info("nothing left to train: %d epochs and %d steps are done", keeper.epochs, keeper.steps)
    if keeper.best_weights is None:
        raise TrainingError("training ended before its first step; nothing was learned and nothing is kept")
    _load_weights(autoencoder, keeper.best_weights, workdir)
    for model in (autoencoder, diffraction_to_obj):
        model.cpu().eval().requires_grad_(False)
    assert keeper.best is not None
    return Trained(
        autoencoder,
        diffraction_to_obj,
        config,
        keeper.history,
        keeper.best,
        module.seconds,
        interrupted,
        prepared.residuals,
    )


def _choose(config: TrainingConfig) -> None:
    """Fills in what a configuration leaves to training. What each choice is worth: benchmarks/NOTES.md."""
    model = config.model
    if model.unrolled_physics_steps is None:
        model.unrolled_physics_steps = 1 if model.gridsize == 1 else 3
    partial = model.architecture == "cnn" and (model.object_big or (model.pad_object and not model.probe_big))
    if config.overlap and model.gridsize == 1 and partial:
        _log.info("overlap: cnn vouches for the middle of its patches only; training on single frames")
        config.overlap = False
    if config.equivariance_weight is None:
        config.equivariance_weight = 0.0 if config.overlap or partial else 1.0


def _run(
    module: PtychoModule,
    data: GroupData,
    keeper: Keeper,
    config: TrainingConfig,
    execution: ExecutionConfig,
    device: str,
) -> bool:
    """Runs Lightning's trainer; returns whether it was interrupted."""
    stop = GracefulStop()
    callbacks: list[lightning.Callback] = [keeper, stop]
    if execution.progress:
        callbacks.append(ProgressBar())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")  # its own use of torch, nobody's to act on
        _trainer(callbacks, config, execution, device, keeper.epochs).fit(module, datamodule=data)
    return stop.interrupted


def _trainer(
    callbacks: list[lightning.Callback],
    config: TrainingConfig,
    execution: ExecutionConfig,
    device: str,
    done: int,
) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=execution.devices,
        max_epochs=config.nepochs - done,
        min_epochs=0,
        reload_dataloaders_every_n_epochs=1,
        gradient_clip_val=config.gradient_clip or None,
        deterministic="warn" if execution.deterministic and device == "cuda" else None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=callbacks,
    )


def _check_fit(scan: Scan, validation: Scan | None, config: TrainingConfig) -> None:
    if config.backend != "pytorch":
        raise ConfigError(
            "backend: expected 'pytorch', found 'tensorflow'; this package trains with PyTorch only, "
            "install the TensorFlow program PtychoPINN to train with TensorFlow"
        )
    for name, part in (("scan", scan), ("validation scan", validation)):
        if part is not None and config.model.N != part.N:
            raise ConfigError(
                f"model.N: expected {part.N}, the frame size of the {name}, found {config.model.N}; set model.N to {part.N}"
            )


def _load_weights(autoencoder: Autoencoder, weights: dict[str, Tensor], workdir: Path | None) -> None:
    expected = autoencoder.state_dict()
    wrong = [k for k in expected if k not in weights or weights[k].shape != expected[k].shape]
    wrong += [k for k in weights if k not in expected]
    if wrong:
        raise DataError(
            f"{workdir}: the state to resume from is of another model ({len(wrong)} entries differ, first: {wrong[0]}); "
            "use the configuration of that run (its config.yaml)"
        )
    autoencoder.load_state_dict(weights)
