"""Grouped data as a model's inputs: ``PtychoDataContainer`` and ``load``. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError

__all__ = ["PtychoDataContainer", "load"]


@dataclass
class PtychoDataContainer:
    """Channels last: ``X`` (B, N, N, C) normalised amplitude, ``local_offsets`` (B, 1, 2, C) group mean minus
    member, ``global_offsets`` (B, 1, 2, 1) group means, ``nn_indices`` (B, C), ``probe``."""

    X: NDArray[np.float32]
    local_offsets: NDArray[np.float64]
    global_offsets: NDArray[np.float64]
    coords_nominal: NDArray[np.float64]
    nn_indices: NDArray[np.int64]
    probe: Any
    Y: Any = None

    def __len__(self) -> int:
        return len(self.X)


def load(
    callback: Callable[[], Any], probe: Any, which: str | None = None, create_split: bool = False
) -> PtychoDataContainer:
    """The container of what ``callback`` returns: the dictionary of ``RawData.generate_grouped_data``.

    With ``create_split`` it returns ``(dictionary, fraction)``, and ``which`` picks ``'train'``, the first
    ``fraction`` of the groups, or ``'test'``, the others.
    """
    data, fraction = callback() if create_split else (callback(), 1.0)
    count = len(data["X_full"])
    part = slice(None)
    if create_split:
        if which not in ("train", "test"):
            raise DataError(f"which: expected 'train' or 'test', found {which!r}")
        cut = round(count * float(fraction))
        part = slice(None, cut) if which == "train" else slice(cut, None)
    return PtychoDataContainer(
        X=data["X_full"][part],
        local_offsets=data["coords_relative"][part],
        global_offsets=data["coords_offsets"][part],
        coords_nominal=data["coords_relative"][part],
        nn_indices=data["nn_indices"][part],
        probe=probe,
        Y=None if data["Y"] is None else data["Y"][part],
    )
