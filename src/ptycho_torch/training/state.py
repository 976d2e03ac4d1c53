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

from ptycho_torch.errors import DataError, TrainingError
from ptycho_torch.files import write_bytes_atomic

__all__ = ["RESUME_NAME", "load_state", "optimiser_tensors", "restore_optimiser", "save_state"]

RESUME_NAME = "resume.safetensors"
_FORMAT = "ptychopinn-resume-2"


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: dict[Tensor, str]) -> dict[str, Tensor]:
    """Return the optimiser's moments as ``{"<parameter>|<moment>": tensor}``; ``names``: of all parameters."""
    return {
        f"{names[parameter]}|{name}": value.detach().cpu().clone()
        for parameter, state in optimiser.state.items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], names: dict[Tensor, str]
) -> None:
    """Put back what :func:`optimiser_tensors` took, for those parameters that are still trained.

    Rates are not part of it: those of the present configuration hold.
    """
    kept: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        parameter, name = key.split("|", 1)
        kept.setdefault(parameter, {})[name] = value
    trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state = {i: kept[names[p]] for i, p in enumerate(trained) if names[p] in kept}
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def save_state(path: Path, parts: dict[str, dict[str, Tensor]], facts: dict[str, Any]) -> None:
    """Write named groups of tensors and plain facts, whole or not at all.

    Raises
    ------
    TrainingError
        When a number is not finite: such a state is nothing to go on from, and the earlier one stays.
    """
    flat = {
        f"{part}/{key}": value.detach().cpu().contiguous()
        for part, group in parts.items()
        for key, value in group.items()
    }
    spoiled = [key for key, value in flat.items() if not torch.isfinite(value).all()]
    if spoiled:
        raise TrainingError(f"{path}: expected finite numbers, found others in {spoiled[0]}; not written")
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
