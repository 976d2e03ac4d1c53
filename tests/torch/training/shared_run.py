"""Trains for 20 steps as one of several processes, in float64, and prints the losses; started by test_several.py."""

from __future__ import annotations

import sys
import warnings

import torch
from small import QUIET, small_config, small_scan

from ptycho_torch.processes import joined
from ptycho_torch.training.data import Batch
from ptycho_torch.training.module import PtychoModule
from ptycho_torch.training.run import Watch, fit


def in_double(self: PtychoModule, batch: Batch, _: int) -> Batch:
    """A batch in the arithmetic of the module, where rounding does not grow within 20 steps."""
    return Batch(batch.x.double(), batch.offsets.double(), None)


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    PtychoModule.setup = lambda self, stage: self.double()  # type: ignore[method-assign, assignment]
    PtychoModule.on_after_batch_transfer = in_double  # type: ignore[method-assign, assignment]
    with joined() as group:
        config = small_config(n_groups=19, batch_size=5, nepochs=5, max_steps=20)
        rows: list[float] = []
        watch = Watch(on_row=lambda history: rows.append(history[-1]["loss"]))
        done = fit(small_scan(), config, QUIET, watch=watch)
        told = rows == [row["loss"] for row in done.history]
        sys.stdout.write(" ".join(map(repr, ["losses", group.rank, told, *rows])) + "\n")


if __name__ == "__main__":
    main()
