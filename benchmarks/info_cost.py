"""What a frame costs the solvers, in Fourier transforms of a frame: the constants of `ptychopinn info`.

    python benchmarks/info_cost.py

CPU time on one thread, so that other programs on the machine count for little.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from harness import machine
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.solvers import SOLVERS, LearnedOptions, RefineOptions

RESULT = Path(__file__).with_name("results") / "info_cost.json"


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def scan_of(size: int, step: float, edge: int) -> Scan:
    obj = make_object("grf", edge, 0)
    return simulate_scan(
        obj, make_probe("disk", size), make_positions("grid", obj.shape, size, step=step), photons=1e6
    )


def measured(size: int, step: float, edge: int) -> dict[str, float]:
    scan = scan_of(size, step, edge)
    wave = torch.zeros(32, size, size, dtype=torch.complex64)
    torch.fft.fft2(wave)
    rounds = 40
    one = cpu_seconds(lambda: [torch.fft.ifft2(torch.fft.fft2(wave)) for _ in range(rounds)]) / (
        2 * 32 * rounds
    )
    found = {"N": size, "frames": scan.n_frames, "transform_us": 1e6 * one}
    for name, kind, solver in (("sweep", RefineOptions, "epie"), ("iteration", LearnedOptions, "learned")):
        engine = SOLVERS.get(solver)("cpu")
        engine.solve(scan, None, kind(sweeps=1))
        few, many = (cpu_seconds(partial(engine.solve, scan, None, kind(sweeps=n))) for n in (2, 8))
        found[name] = (many - few) / 6 / scan.n_frames / one
    return found


def main() -> None:
    torch.set_num_threads(1)
    rows = [measured(64, 8.0, 256), measured(64, 16.0, 256), measured(128, 32.0, 384)]
    RESULT.write_text(
        json.dumps(
            {
                "command": "python benchmarks/info_cost.py",
                "machine": machine(),
                "seeds": [0],
                "rows": rows,
            },
            indent=2,
        )
        + "\n"
    )
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
