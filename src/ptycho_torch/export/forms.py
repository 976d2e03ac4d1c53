"""What is exported of a model: a module whose inputs and outputs are real tensors, and what they mean.

Region solvers become the form ``scan``: any number of frames of one region. All other models become the form
``groups``: a batch of groups of frames, each with an object of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptycho_torch.config.exporting import ExportOptions
from ptycho_torch.errors import ConfigError
from ptycho_torch.generators.region_frames import RegionFrames
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.model import Reconstructor
from ptycho_torch.physics.patches import region_size

__all__ = ["Form", "GroupForm", "ScanForm", "form_of"]


@dataclass(frozen=True)
class Form:
    """A module to export.

    Attributes
    ----------
    name : str
        ``scan`` or ``groups``.
    module : nn.Module
        Maps real tensors to real tensors.
    inputs, outputs : dict
        Name to what it is, in words.
    open : dict
        Name of an input to the axis whose size callers choose, and that size's name.
    least : int
        Smallest such size.
    defaults : dict
        Inputs that may be left out, with their values.
    example : callable
        ``(count, seed)`` to inputs in their order.
    notes : dict
        What callers have to know: preprocessing, scale, orientation, limits.
    """

    name: str
    module: nn.Module
    inputs: dict[str, str]
    outputs: dict[str, str]
    open: dict[str, tuple[int, str]]
    least: int
    defaults: dict[str, Tensor]
    example: Callable[[int, int], tuple[Tensor, ...]]
    notes: dict[str, Any]


class ScanForm(nn.Module):
    """The region solver over the frames of one region.

    Parameters
    ----------
    solver : RegionSolver
    options : ExportOptions
    """

    def __init__(self, solver: RegionSolver, options: ExportOptions) -> None:
        super().__init__()
        self.solver, self.options = solver, options
        self.solver.chunk_pixels = None

    def forward(
        self, frames: Tensor, positions: Tensor, probe: Tensor, good_pixels: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the object (H, W, 2) and the probe (modes, N, N, 2); shapes of inputs are in :func:`form_of`."""
        options = self.options
        whole = torch.floor(positions + 0.5)
        index = torch.arange(frames.shape[0])
        given = RegionFrames(
            frames,
            whole.flip(-1).long() - frames.shape[-1] // 2,
            positions - whole,
            torch.view_as_complex(probe).unsqueeze(0),
            (options.region, options.region),
            torch.zeros(frames.shape[0], dtype=torch.int64),
            good_pixels,
            noise.unsqueeze(0),
            tuple(index[first :: options.subsets] for first in range(options.subsets)),
        )
        found = self.solver(given, update_probe=options.update_probe, iterations=options.iterations)
        return torch.view_as_real(found.objects[-1][0]), torch.view_as_real(found.probe[0])


class GroupForm(nn.Module):
    """A model of groups: the generator of a bundle, with its scale.

    Parameters
    ----------
    core : Reconstructor
    region : int or None
        Side of the groups' common region; None where the model has no choice.
    """

    def __init__(self, core: Reconstructor, region: int | None) -> None:
        super().__init__()
        self.core, self.region = core, region

    def forward(self, frames: Tensor, offsets: Tensor, probe: Tensor) -> Tensor:
        """Return objects (batch, C or 1, N, N, 2) of frames (batch, C, N, N) in sqrt(counts)."""
        core = self.core
        x = frames / core.log_scale.exp()
        done = core.generator.propose(
            x, core.offset_sign * offsets, torch.view_as_complex(probe), region=self.region
        )
        return torch.view_as_real(done.object.resolve_conj().contiguous())


def form_of(core: Reconstructor, options: ExportOptions) -> Form:
    """Return what is exported of a loaded model's core.

    Raises
    ------
    ConfigError
        For a frame size that the model does not have.
    """
    for parameter in core.parameters():
        parameter.requires_grad_(False)
    core.eval()
    solver = getattr(core.generator, "regions", None)
    return _groups(core, options) if solver is None else _scan(solver, core.config.N, options)


_ORIENTATION = (
    "axes (y, x): row, then column. Frames: zero frequency at pixel [N//2, N//2]. Last axis of size 2: real and"
    " imaginary part"
)


def _scan(solver: RegionSolver, size: int, options: ExportOptions) -> Form:
    size = options.frame_size or size
    if options.region < size + 2:
        raise ConfigError(
            f"region: expected at least {size + 2} for frames of {size} pixels, found {options.region}"
        )
    modes, side = options.modes, options.region
    return Form(
        "scan",
        ScanForm(solver, options),
        {
            "frames": f"(frames, {size}, {size}) float32: amplitudes, the square roots of counts, in any unit",
            "positions": f"(frames, 2) float32: (x, y) of each frame's pixel [{size // 2}, {size // 2}] in pixels of"
            f" the region, from {size // 2} to {side - size // 2 - 1}",
            "probe": f"({modes}, {size}, {size}, 2) float32: a guess, of any power",
            "good_pixels": f"({size}, {size}) bool: detector pixels that can be trusted",
            "noise": "() float32: standard deviation of the amplitudes, in their unit: 0.5 for square roots of"
            " counts, 0 where it is not known",
        },
        {
            "object": f"({side}, {side}, 2) float32: the object in the gauge of the given probe; outside the light it"
            " means nothing",
            "solved_probe": f"({modes}, {size}, {size}, 2) float32",
        },
        {"frames": (0, "frames"), "positions": (0, "frames")},
        2 * options.subsets,
        {"good_pixels": torch.ones(size, size, dtype=torch.bool), "noise": torch.tensor(0.0)},
        lambda count, seed: _example_scan(count, seed, size, side, modes),
        {
            "orientation": _ORIENTATION,
            "preprocessing": "square roots of counts; nothing is normalised by the caller",
            "scale": "amplitudes in any unit: object times probe explains them up to one factor",
            "subsets": f"frames i, i + {options.subsets}, i + {2 * options.subsets}, ... change the object together:"
            " give neighbouring frames in shuffled order",
            "limits": f"one region of {side} x {side} pixels: larger scans are cut into regions by the caller",
            "iterations": options.iterations,
        },
    )


def _groups(core: Reconstructor, options: ExportOptions) -> Form:
    config = core.config
    size, members = config.N, config.gridsize**2
    if options.frame_size not in (None, size):
        raise ConfigError(
            f"frame_size: expected {size}, which this model was trained for, found {options.frame_size}"
        )
    reach = options.reach or size / 4
    region = None
    if config.architecture != "cnn" and members > 1:
        region = region_size(torch.tensor([reach]), size)
    probe = torch.view_as_real(core.probe.detach().resolve_conj().contiguous()).clone()
    return Form(
        "groups",
        GroupForm(core, region),
        {
            "frames": f"(batch, {members}, {size}, {size}) float32: amplitudes, the square roots of counts",
            "offsets": f"(batch, {members}, 1, 2) float32: (x, y) of each frame minus its group's mean, pixels"
            if core.offset_sign > 0
            else f"(batch, {members}, 1, 2) float32: (x, y) of the group's mean minus each frame, pixels",
            "probe": f"{tuple(probe.shape)} float32: in the unit of the bundle's, which is used where none is given",
        },
        {"object": f"(batch, C, {size}, {size}, 2) float32: one patch a frame, or C = 1: one object a group"},
        {"frames": (0, "batch"), "offsets": (0, "batch")},
        2,
        {"probe": probe},
        lambda count, seed: _example_groups(count, seed, probe, members, reach, float(core.log_scale.exp())),
        {
            "orientation": _ORIENTATION,
            "preprocessing": "square roots of counts; the file divides them by the scale itself",
            "scale": float(core.log_scale.exp()),
            "limits": f"offsets of at most {reach:g} pixels",
        },
    )


def _example_scan(count: int, seed: int, size: int, side: int, modes: int) -> tuple[Tensor, ...]:
    """Frames of a smooth object under a curved probe, with photon noise, at random places of a region."""
    source = torch.Generator().manual_seed(seed)
    low, high = size // 2 + 1, side - size // 2 - 2
    positions = low + (high - low) * torch.rand(count, 2, generator=source)
    probe = _curved(size, modes)
    frames = _diffracted(positions, probe, source)
    return (
        frames,
        positions,
        torch.view_as_real(probe),
        torch.ones(size, size, dtype=torch.bool),
        torch.tensor(0.5),
    )


def _example_groups(
    count: int, seed: int, probe: Tensor, members: int, reach: float, scale: float
) -> tuple[Tensor, ...]:
    source = torch.Generator().manual_seed(seed)
    offsets = (2 * torch.rand(count, members, 2, generator=source) - 1) * (0.5 * reach if members > 1 else 0)
    offsets = offsets - offsets.mean(1, keepdim=True)
    middles = 100 * torch.rand(count, 1, 2, generator=source)
    waves = torch.view_as_complex(probe)
    frames = _diffracted(
        (middles + offsets).flatten(0, 1), waves, source, power=(scale * waves.shape[-1] / 2) ** 2
    )
    return frames.unflatten(0, (count, members)), offsets.unsqueeze(2), probe


def _curved(size: int, modes: int) -> Tensor:
    axis = (torch.arange(size) - size // 2) / size
    square = axis[:, None] ** 2 + axis[None, :] ** 2
    first = torch.polar(torch.exp(-16 * square), 40 * square)
    tilts = [torch.polar(torch.full((size,), 1.0 / (1 + 3 * m)), 6.0 * m * axis) for m in range(modes)]
    return torch.stack([first * tilt for tilt in tilts])


def _diffracted(positions: Tensor, probe: Tensor, source: torch.Generator, power: float = 1e5) -> Tensor:
    """(M, N, N) square roots of counts of the example's object, ``power`` photons a frame."""
    size = probe.shape[-1]
    axis = torch.arange(size) - size // 2
    x, y = (positions[:, i, None] + axis for i in (0, 1))
    x, y = x[:, None, :] / 7, y[:, :, None] / 7
    patch = torch.polar(
        0.8 + 0.2 * x.cos() * (1.3 * y).cos(), 0.6 * (0.7 * x - y).sin() + 0.4 * (0.3 * x * y / 7).cos()
    )
    field = torch.fft.fftshift(torch.fft.fft2(patch[:, None] * probe, norm="ortho"), dim=(-2, -1))
    intensity = field.abs().square().sum(1)
    return torch.poisson(intensity * (power / intensity.sum((1, 2)).mean()), generator=source).sqrt()
