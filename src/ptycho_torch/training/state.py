"""State to resume from: tensors in safetensors, the rest as JSON. No pickle is written or read.

One file, ``resume.safetensors``, replaced as a whole after every epoch: weights, Adam's moments,
the number of epochs, steps and seconds, the history, and the best weights so far.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ptycho_torch.errors import DataError
from ptycho_torch.files import write_bytes_atomic

__all__ = ["RESUME_NAME", "load_state", "optimiser_tensors", "restore_optimiser", "save_state"]

RESUME_NAME = "resume.safetensors"
_FORMAT = "ptychopinn-resume-1"


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments as ``{"<parameter number>.<name>": tensor}``."""
    return {
        f"{number}.{name}": value.detach().cpu().clone()
        for number, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], rates: list[float] | None = None
) -> None:
    """Puts back what :func:`optimiser_tensors` took, and each group's full learning rate.

    The rates are kept because the probe's follows from the probe that training began with.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    if rates is None:  # a state of before rates were kept
        return
    if len(rates) != len(optimiser.param_groups):
        raise DataError(
            f"{RESUME_NAME}: expected the {len(optimiser.param_groups)} groups of parameters that are trained, found "
            f"{len(rates)}; use the configuration of that run (its config.yaml)"
        )
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["scale"] = rate


def save_state(path: Path, parts: dict[str, dict[str, Tensor]], facts: dict[str, Any]) -> None:
    """Writes named groups of tensors and plain facts, whole or not at all."""
    flat = {
        f"{part}/{key}": value.detach().cpu().contiguous()
        for part, group in parts.items()
        for key, value in group.items()
    }
    write_bytes_atomic(path, save(flat, {"format": _FORMAT, "facts": json.dumps(facts)}))


def load_state(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Reads what :func:`save_state` wrote. Raises :class:`DataError` naming the file."""
    if not path.is_file():
        raise DataError(f"{path}: no state to resume from; was this folder written by 'ptychopinn train'?")
    try:
        with safe_open(path, framework="pt") as opened:
            meta = opened.metadata() or {}
            flat = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        if meta.get("format") != _FORMAT:
            raise DataError(f"{path}: format: expected {_FORMAT!r}, found {meta.get('format')!r}")
        facts = json.loads(meta["facts"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a state that can be resumed: {error}") from error
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        part, name = key.split("/", 1)
        parts.setdefault(part, {})[name] = value
    return parts, facts
