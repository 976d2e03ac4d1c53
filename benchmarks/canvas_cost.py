"""What a large canvas costs: sweeps and the learned solver on the same frames, with one of them moved far away.

    python benchmarks/canvas_cost.py --output benchmarks/results

Frames of 64 x 64, CPU time on one thread. `canvas`: edge of the canvas, which the frame that was moved stretches.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

import harness
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.solvers import RefineOptions
from ptycho_torch.solvers.epie import refine
from ptycho_torch.workflows.solving import reconstruct

SIZE = 64


def scan_of(frames: int, away: float) -> Scan:
    """A square grid 8 px apart, whose last frame lies so far from the others."""
    side = round(frames**0.5)
    edge = SIZE + 8 * (side + 1)
    obj = make_object("grf", edge, 0)
    scan = simulate_scan(
        obj, make_probe("zoneplate", SIZE), make_positions("grid", obj.shape, SIZE, step=8), photons=1e6
    )
    scan = scan.select(np.arange(frames))
    scan.positions[-1] += away
    return scan


def sweeps(away: float) -> dict[str, Any]:
    """Time of a mini-batch of 16 frames."""
    scan, marks = scan_of(16, away), []
    assert scan.probe is not None
    frames = scan.frames[:] * np.float32(scan.normalisation)
    options = RefineOptions(sweeps=9, batch_size=16)
    found = refine(
        frames, scan.positions, normalise_probe(scan.probe), options,
        progress=lambda *_: marks.append(time.process_time()),
    )  # fmt: skip
    shape = max(found.object.shape)
    return {
        "work": "a mini-batch of 16 frames, epie",
        "canvas": shape,
        "CPU ms": 1e3 * np.median(np.diff(marks)),
    }


def learned(away: float) -> dict[str, Any]:
    """Time of 81 frames with the learned solver."""
    scan, times = scan_of(81, away), []
    for count in (2, 6):
        began = time.process_time()
        found = reconstruct(scan, sweeps=count, refine=0)
        times.append(time.process_time() - began)
    return {
        "work": "an iteration over 81 frames, learned",
        "canvas": max(found.object.shape),
        "CPU ms": 1e3 * (times[1] - times[0]) / 4,
    }


def main() -> None:
    arguments = harness.parser(__doc__, shared=False).parse_args()
    torch.set_num_threads(arguments.threads or 1)
    rows = [sweeps(away) for away in (0.0, 268.0, 4968.0)]
    if not arguments.quick:
        rows += [learned(away) for away in (0.0, 300.0)]
    print(harness.table(rows))
    print(harness.keep("canvas_cost", arguments, {"rows": rows}))


if __name__ == "__main__":
    main()
