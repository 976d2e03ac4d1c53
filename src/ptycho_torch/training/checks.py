"""What must hold before a run begins: everything that can be refused is refused here, before the work."""

from __future__ import annotations

import dataclasses
import logging

import torch

from ptycho_torch.config import ExecutionConfig, ModelConfig, TrainingConfig, validate
from ptycho_torch.errors import ConfigError
from ptycho_torch.generators import build, generator_class
from ptycho_torch.processes import current
from ptycho_torch.scan import Scan
from ptycho_torch.training.prepare import subsample

__all__ = ["checked"]

logger = logging.getLogger(__name__)
FEW = 50.0
"""Photons per pixel of a frame below which losses are those for few photons."""


def checked(
    scan: Scan, config: TrainingConfig, execution: ExecutionConfig, validation: Scan | None
) -> tuple[TrainingConfig, Scan]:
    """Return the configuration with what it leaves open filled in, and the frames to train on.

    Raises
    ------
    ConfigError
        When a field is out of range, or does not fit the scan or this package.
    """
    config = dataclasses.replace(config, model=dataclasses.replace(config.model))
    config.model.N = config.model.N or scan.N
    _complete(config)
    _choose_losses(scan, config)
    validate(config)
    validate(execution, "execution.")
    _check_fit(scan, validation, config)
    group = current()
    if execution.devices not in (1, group.on_machine):
        raise ConfigError(
            f"devices: expected {group.on_machine}, the processes that are there, found {execution.devices};"
            " 'ptychopinn train --devices N' starts them, and so does torchrun"
        )
    if execution.threads is not None:
        torch.set_num_threads(execution.threads)
    seed = config.seed if config.subsample_seed is None else config.subsample_seed
    scan = subsample(scan, config.n_subsample, seed, config.sequential_sampling)
    known = 0 if scan.probe is None else len(scan.probe)
    config.model.probe_modes = config.model.probe_modes or known or 1
    _build_shapes(config.model)
    return config, scan


def _build_shapes(model: ModelConfig) -> None:
    """Build the generator without memory, so that what it refuses is refused before the work."""
    with torch.device("meta"):
        build(model)


def _complete(config: TrainingConfig) -> None:
    """Fill in what a configuration leaves to training. What each choice is worth: benchmarks/NOTES.md."""
    generator = generator_class(config.model)
    config.model = generator.completed(config.model)
    whole = generator.trusts_all(config.model)
    if config.overlap and config.model.gridsize == 1 and not whole:
        logger.info(
            "overlap: %s vouches for a part of its patches only; training on single frames",
            config.model.architecture,
        )
        config.overlap = False
    if config.equivariance_weight is None:
        config.equivariance_weight = 1.0 if whole and not config.overlap else 0.0


def _choose_losses(scan: Scan, config: TrainingConfig) -> None:
    """Fill in what the counts decide: where they are few, a frame is no judge of the patch that its own noise is in."""
    few = scan.photons_per_pixel < FEW and config.overlap and config.model.gridsize == 1
    own, alone = (0.1, 0.0) if few else (1.0, 0.5)
    if few and None in (config.overlap_own, config.frame_weight):
        logger.info(
            "few photons, %.2g per pixel of a frame: patches are judged by their neighbours' frames",
            scan.photons_per_pixel,
        )
    config.overlap_own = own if config.overlap_own is None else config.overlap_own
    config.frame_weight = alone if config.frame_weight is None else config.frame_weight


def _check_fit(scan: Scan, validation: Scan | None, config: TrainingConfig) -> None:
    if config.backend != "pytorch":
        raise ConfigError(
            "backend: expected 'pytorch', found 'tensorflow'; this package trains with PyTorch only, "
            "install the TensorFlow program PtychoPINN to train with TensorFlow"
        )
    for name, part in (("scan", scan), ("validation scan", validation)):
        if part is not None and config.model.N != part.N:
            raise ConfigError(
                f"model.N: expected {part.N}, the frame size of the {name}, found {config.model.N}; set"
                f" model.N to {part.N}"
            )
