"""Configuration as plain, mutable dataclasses: model, training, inference, execution.

Field names follow the TensorFlow program, so that its scripts and ptychodus find what they set;
fields of this package's own are added beside them. Every field carries its help text, unit and
range in its metadata: the command line, the YAML reader and :func:`validate` are made from that one
declaration. Construction checks nothing (callers fill objects step by step, ``N=0`` included);
:func:`validate` is called where a configuration is used. Imports no torch.
"""

from __future__ import annotations

import warnings
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Literal

from ptycho_torch.config.declare import opt
from ptycho_torch.config.generators import CnnOptions, UnrolledOptions

__all__ = [
    "ExecutionConfig",
    "InferenceConfig",
    "ModelConfig",
    "TrainingConfig",
]


def _renamed_groups(n_images: int | None, n_groups: int | None) -> int | None:
    """``n_groups``, or the value given by its former name, with a warning."""
    if n_images is None:
        return n_groups
    warnings.warn("n_images is deprecated; use n_groups", DeprecationWarning, stacklevel=4)
    return n_images if n_groups is None else n_groups


@dataclass
class _Common:
    """What every model has, whichever its generator."""

    N: int = opt(64, "frame size in pixels", ge=2, le=4096, multiple_of=2, usual=(32, 64, 128, 256, 512))
    gridsize: int = opt(
        1, "a group is gridsize x gridsize neighbouring frames", ge=1, le=16, usual=(1, 2, 3, 4)
    )
    architecture: str = opt("unrolled", "name of the generator: 'unrolled', 'cnn', or one that is installed")
    model_type: Literal["pinn", "supervised"] = opt(
        "pinn", "'pinn' trains through the physics, without labels"
    )
    probe_modes: int | None = opt(
        None,
        "incoherent probe modes of the forward model; default: as many as the scan's probe has",
        ge=1,
        le=64,
        usual=(1, 2, 3, 4, 5, 8),
    )

    generator_options: str = opt(
        "", "options of a generator from another package: name=value, separated by commas"
    )
    gaussian_smoothing_sigma: float = opt(0.0, "smoothing of the illuminated object, pixels", ge=0)

    # probe
    probe_mask: bool = opt(False, "confine the probe to a disk of radius N/4")
    probe_scale: float = opt(
        4.0, "legacy probe normalisation 1/(probe_scale mean|P|); kept for other programs", carried=True
    )


@dataclass
class ModelConfig(UnrolledOptions, CnnOptions, _Common):
    """What the network and its forward model are. Needed to rebuild a model from a bundle."""


@dataclass
class TrainingConfig:
    """How a model is trained: data, groups, losses, schedule."""

    model: ModelConfig = field(default_factory=ModelConfig)
    train_data_file: Path | None = opt(None, "scan to train on")
    test_data_file: Path | None = opt(None, "scan to validate on; default: a split of the training scan")
    output_dir: Path = opt(Path("training_outputs"), "folder for everything that training writes")
    init: str = opt(
        "auto",
        "weights to start from: 'shipped' (the package's own, adapted), 'scratch', or a bundle; 'auto' takes the"
        " shipped ones unless another network or labels are asked for",
    )
    joint_share: float = opt(
        0.5,
        "adapting: share of steps in which many frames are solved together and predict others; in the rest, groups of"
        " gridsize x gridsize frames learn what all frames say of them",
        ge=0,
        le=1,
    )

    # groups
    n_groups: int | None = opt(None, "groups drawn per epoch; default: one per frame, at most 2048", ge=1)
    n_subsample: int | None = opt(None, "use only this many frames of the scan", ge=1)
    subsample_seed: int | None = opt(None, "seed for choosing them; default: --seed", ge=0, le=2**32 - 1)
    neighbor_count: int = opt(7, "nearest neighbours from which a group's members are drawn", ge=1, le=1024)
    sequential_sampling: bool = opt(False, "take frames in file order when subsampling")
    overlap: bool = opt(
        True, "gridsize 1: train so that neighbouring frames agree (inference stays single shot)"
    )
    overlap_frames: int = opt(4, "gridsize 1 with overlap: frames per training group", ge=2, le=64)
    overlap_distance: float | None = opt(
        None, "largest distance from a group's first frame, pixels; default N/4", gt=0
    )
    val_fraction: float = opt(0.05, "fraction of the groups kept for validation", ge=0, le=0.5)

    # loss
    mae_weight: float = opt(1.0, "weight of the mean absolute error of amplitudes", ge=0)
    nll_weight: float = opt(0.0, "weight of the Poisson negative log-likelihood of counts", ge=0)
    overlap_weight: float = opt(1.0, "weight of the same losses after merging a group's patches", ge=0)
    overlap_own: float | None = opt(
        None,
        "weight of a frame's own patch in the merge under it; 0: only its neighbours'; default: 1, or 0.1 where"
        " counts are few",
        ge=0,
        le=1,
    )
    frame_weight: float | None = opt(
        None, "weight of the losses frame by frame; default: 0.5, or 0 where counts are few", ge=0
    )
    equivariance_weight: float | None = opt(
        None,
        "gridsize 1: weight of the equivariance loss: a moved copy of a prediction should be predicted"
        " again; default: 1 without overlap, else 0",
        ge=0,
    )
    realspace_weight: float = opt(0.0, "weight of the object's total variation", ge=0)
    realspace_mae_weight: float = opt(0.0, "weight of |object - objectGuess|, where the scan has one", ge=0)
    tv_weight: float = opt(0.0, "legacy name; added to realspace_weight", ge=0)
    nphotons: float = opt(1e9, "photons per frame where counts are unknown", gt=0)

    # probe and scale
    probe: Literal["refine", "trainable", "fixed"] = opt(
        "refine",
        "'refine': iterative sweeps on the frames, then trained slowly; 'trainable': only trained;"
        " 'fixed': kept as it is",
    )
    probe_sweeps: int = opt(30, "sweeps of probe refinement before training", ge=1, le=10_000)
    probe_learning_rate: float = opt(1e-3, "learning rate of the probe, relative to its maximum", ge=0)
    probe_trainable: bool = opt(True, "legacy switch; False means probe='fixed'")
    intensity_scale_trainable: bool = opt(
        True, "train the logarithm of the intensity scale (Poisson loss only)"
    )
    positions_provided: bool = opt(True, "kept for other programs", carried=True)

    # schedule
    batch_size: int = opt(8, "groups per step (single frames without overlap count as one)", ge=1, le=65536)
    nepochs: int = opt(50, "maximum number of epochs", ge=1)
    max_minutes: float | None = opt(8.0, "wall-clock budget; the learning rate decays towards it", gt=0)
    max_steps: int | None = opt(None, "maximum number of optimiser steps", ge=1)
    learning_rate: float = opt(1e-3, "peak learning rate of Adam", gt=0, le=10)
    warmup_steps: int = opt(50, "steps of linear warm-up", ge=0)
    gradient_clip: float = opt(1.0, "largest gradient norm; 0: no clipping", ge=0)
    patience: int | None = opt(None, "stop after this many epochs without improvement; default: never", ge=1)
    seed: int = opt(0, "seed of everything random", ge=0, le=2**32 - 1)

    backend: Literal["pytorch", "tensorflow"] = opt("pytorch", "only 'pytorch' is available in this package")
    n_images: InitVar[int | None] = None

    def __post_init__(self, n_images: int | None) -> None:
        self.n_groups = _renamed_groups(n_images, self.n_groups)


@dataclass
class InferenceConfig:
    """How a trained model is applied to a scan."""

    model: ModelConfig = field(default_factory=ModelConfig)
    model_path: Path | None = opt(None, "bundle, or a folder that holds one")
    test_data_file: Path | None = opt(None, "scan to reconstruct")
    output_dir: Path = opt(Path("inference_outputs"), "folder for everything that inference writes")
    n_groups: int | None = opt(None, "groups to reconstruct; default: one per frame", ge=1)
    n_subsample: int | None = opt(None, "use only this many frames of the scan", ge=1)
    subsample_seed: int | None = opt(None, "seed for choosing them", ge=0, le=2**32 - 1)
    neighbor_count: int = opt(7, "nearest neighbours from which a group's members are drawn", ge=1, le=1024)
    batch_size: int = opt(32, "groups per step", ge=1, le=65536)
    seed: int = opt(0, "seed for grouping, and for choosing the frames that are withheld", ge=0, le=2**32 - 1)
    effort: Literal["quick", "normal", "thorough"] = opt(
        "normal",
        "5, 10 or 16 iterations of the learned solver; half, one or three times the sweeps that follow",
    )
    start: Literal["auto", "learned", "flat"] = opt(
        "auto",
        "image that sweeps go on from: the learned solver's, or a flat one; 'auto' takes the flat one where frames"
        " overlap so much that sweeps alone are as good and faster, and the learned one with --model",
    )
    polish: bool = opt(
        True,
        "without --model and --refine: 30 sweeps of epie after the learned solver, or from a flat object",
    )
    withhold: float = opt(
        0.02, "fraction of the frames kept from the solver, to measure the residual on", ge=0, le=0.5
    )
    uncertainty: bool = opt(
        False,
        "also give each pixel's error bars, sigma_amplitude and sigma_phase; takes about six times as long",
    )
    debug: bool = opt(False, "kept for other programs", carried=True)
    backend: Literal["pytorch", "tensorflow"] = opt("pytorch", "only 'pytorch' is available in this package")
    n_images: InitVar[int | None] = None

    def __post_init__(self, n_images: int | None) -> None:
        self.n_groups = _renamed_groups(n_images, self.n_groups)


@dataclass
class ExecutionConfig:
    """Where and how it runs. Never changes what is computed beyond rounding."""

    accelerator: str = opt("auto", "'auto', 'cpu' or 'gpu'")
    devices: int = opt(
        1, "processes of this machine to train with, each on a device of its own", ge=1, le=1024
    )
    precision: Literal["fp32", "bf16"] = opt("fp32", "arithmetic of the network; physics stays fp32")
    num_workers: int = opt(0, "processes that prepare data", ge=0, le=256)
    threads: int | None = opt(None, "CPU threads; default: as torch chooses", ge=1, le=1024)
    deterministic: bool = opt(True, "same seed, same numbers on the same machine")
    logger: Literal["none", "tensorboard", "mlflow"] = opt(
        "none", "training: also log losses there, where it is installed; history.csv is written in any case"
    )
    progress: bool = opt(True, "show a progress bar")
