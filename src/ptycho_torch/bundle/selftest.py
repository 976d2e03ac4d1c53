"""Making and running the self-test: frames of one group, and the object computed from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ptycho_torch.bundle.container.sidecar import SelfTest, check_group
from ptycho_torch.bundle.scale import LOG_SCALE
from ptycho_torch.errors import DataError

__all__ = ["Group", "is_group", "make_self_test", "needed_memory", "run_self_test", "synthetic_frames"]


Group = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Frames (1, C, N, N) float32 in sqrt(counts) and offsets (1, C, 1, 2) float32 in pixels."""


def is_group(frames: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any]) -> bool:
    """Whether frames and offsets are a group that readers of the bundle will run."""
    try:
        check_group(frames, offsets)
    except ValueError:
        return False
    return True


def synthetic_frames(params: Mapping[str, Any]) -> Group | None:
    """One group of a smooth object under the bundle's probe; None without a probe.

    Serves where the saving process gives no measured group.
    """
    probe, side = params.get("probe"), int(params["gridsize"])
    if probe is None:
        return None
    size, count = int(params["N"]), side * side
    modes = (
        np.asarray(probe).reshape(-1, size, size)
        if np.shape(probe)[-1] == size
        else np.asarray(probe)[None, ..., 0]
    )
    axis = (np.arange(size) - size // 2) / size
    frames = np.empty((1, count, size, size), np.float32)
    for c in range(count):
        y, x = axis[:, None] + 0.05 * (c // side), axis[None, :] + 0.05 * (c % side)
        patch = (0.8 + 0.2 * np.cos(9 * x) * np.cos(7 * y)) * np.exp(0.5j * np.sin(5 * x - 3 * y))
        field = np.fft.fftshift(np.fft.fft2(modes * patch, norm="ortho"), axes=(-2, -1))
        frames[0, c] = np.sqrt((np.abs(field) ** 2).sum(0))
    step = np.arange(count)
    offsets = np.stack([step % side, step // side], -1) * (0.05 * size)
    offsets = (offsets - offsets.mean(0)).reshape(1, count, 1, 2).astype(np.float32)
    return frames * np.float32(params["intensity_scale"]), offsets


def _apply(
    module: nn.Module,
    frames: np.ndarray[Any, Any],
    offsets: np.ndarray[Any, Any],
    scale: float | None = None,
) -> np.ndarray[Any, Any]:
    first = next(module.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    other = {} if scale is None else {LOG_SCALE: torch.tensor(math.log(scale), device=device)}
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            inputs = torch.from_numpy(frames).to(device), torch.from_numpy(offsets).to(device)
            out = torch.func.functional_call(module, other, inputs)
    finally:
        module.train(training)
    if isinstance(out, tuple):
        out = out[0]
    return np.asarray(out.detach().cpu().numpy(), dtype=np.complex64)


def make_self_test(model: str, module: nn.Module, group: Group, scale: float | None = None) -> SelfTest:
    """Run ``module`` on a group, with ``scale`` in place of its intensity scale where there is one.

    Raises :class:`~ptycho_torch.errors.DataError` when its output is not finite.
    """
    frames = np.ascontiguousarray(group[0], dtype=np.float32)
    offsets = np.ascontiguousarray(group[1], dtype=np.float32)
    output = _apply(module, frames, offsets, scale)
    if not np.isfinite(output).all():
        raise DataError("self_test: the model's output on these frames is not finite")
    return SelfTest(model, frames, offsets, output)


def needed_memory(module: nn.Module, test: SelfTest) -> int:
    """Bound the bytes that running a self-test takes: a few images of every channel of the widest layer."""
    widest = max((p.shape[0] for p in module.parameters() if p.ndim == 4), default=1)
    reach = test.frames.shape[-1] + 2 * int(np.ceil(np.abs(test.offsets).max()))
    return 8 * 4 * (widest * test.frames.size + 4 * test.frames.shape[1] * reach**2)


def run_self_test(test: SelfTest, module: nn.Module) -> float:
    """Largest difference between the stored and the recomputed output, relative to the stored maximum."""
    now = _apply(module, test.frames, test.offsets)
    if now.shape != test.output.shape:
        return float("inf")
    scale = float(np.abs(test.output).max()) or 1.0
    worst = float(np.abs(now - test.output).max()) / scale
    return worst if np.isfinite(worst) else float("inf")
