"""Options of the package's own generators, one dataclass each. Imports no torch.

They are fields of :class:`~ptycho_torch.config.ModelConfig` at the same time: bundles, scripts and other
programs have always set them there. Each generator reads its own and no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ptycho_torch.config.declare import opt

__all__ = ["CnnOptions", "UnrolledOptions"]

_STEPS = (1, 2, 3, 4, 5, 6, 8, 10)


@dataclass
class UnrolledOptions:
    """Options of ``unrolled``: how many steps of the physics, and how large the networks between them."""

    unrolled_form: Literal["group", "region", "settling"] | None = opt(
        None,
        "unrolled: 'settling' solves any number of frames together, with one network for all iterations, and"
        " converges; 'region' is its form of before, which does not; 'group' is the first one, with a network"
        " for each iteration; bundles without this field have it",
    )
    unrolled_iterations: int = opt(
        4, "unrolled: iterations, each of physics steps and a network", ge=1, le=64, usual=_STEPS
    )
    unrolled_physics_steps: int | None = opt(
        None,
        "unrolled: physics steps before each network; default: training chooses 1, for groups 3",
        ge=1,
        le=64,
        usual=_STEPS,
    )
    unrolled_width: int = opt(
        16,
        "unrolled: feature channels at the finest level",
        ge=4,
        le=1024,
        usual=(8, 16, 24, 32, 48, 64, 96, 128),
    )
    unrolled_levels: int = opt(
        3, "unrolled: stride-2 levels below the finest", ge=0, le=5, usual=(0, 1, 2, 3, 4)
    )
    object_start: float = opt(1.0, "unrolled: amplitude of the flat object that iterations start from", gt=0)
    probe_damping: float = opt(0.05, "unrolled: alpha in g = P* D / (|P|^2 + alpha max|P|^2)", gt=0)


@dataclass
class CnnOptions:
    """Options of ``cnn``, with names and defaults of the TensorFlow program."""

    n_filters_scale: int = opt(1, "cnn: factor on the number of filters", ge=1, le=64, usual=(1, 2, 3, 4))
    amp_activation: Literal["sigmoid", "swish", "softplus", "relu"] = opt(
        "sigmoid", "cnn: activation of the amplitude"
    )
    object_big: bool = opt(
        True, "cnn: members of a group share one object larger than their core", usual=(True, False)
    )
    probe_big: bool = opt(True, "cnn: the object extends to the border of the frame", usual=(True, False))
    pad_object: bool = opt(True, "cnn: predict the central half and pad it", usual=(True, False))
    offset: int = opt(4, "cnn: nominal distance of group members, pixels", ge=0, le=4096)
    max_position_jitter: int = opt(10, "cnn: room for position jitter, pixels", ge=0, le=4096)
