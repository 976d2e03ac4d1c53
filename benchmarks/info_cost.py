"""What a frame costs the solvers, in Fourier transforms of a frame: the constants of `ptychopinn info`.

    python benchmarks/info_cost.py --output benchmarks/results

CPU time on one thread, so that other programs on the machine count for little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

import harness
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.solvers import SOLVERS, LearnedOptions, RefineOptions


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
    arguments = harness.parser(__doc__, shared=False).parse_args()
    torch.set_num_threads(arguments.threads or 1)
    cases = [(64, 8.0, 256), (64, 16.0, 256), (128, 32.0, 384)]
    rows = [measured(*case) for case in cases[: 1 if arguments.quick else 3]]
    print(harness.table(rows))
    print(harness.keep("info_cost", arguments, {"rows": rows}))


if __name__ == "__main__":
    main()
