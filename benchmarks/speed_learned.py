"""Frames per second of the learned solver, from frames in memory to the stitched object of all of them.

    python benchmarks/speed_learned.py

All frames of a scan overlap and are solved together, at N = 64 and 128: 4 and 7 iterations, with a known probe and
blind, one thread and all. Weights are the shipped ones. Cases take turns, so that other work on the machine hits
all alike; the best round counts, the spread is the worst one over it.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from harness import keep, parser, table
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.solvers import SOLVERS, LearnedOptions

GOALS = {64: 3000, 128: 700}


def scan_of(size: int, count: int, step: float) -> Scan:
    edge = int(size + step * count**0.5) + 1
    obj = make_object("grf", edge, 0)
    positions = make_positions("grid", obj.shape, size, step=step, jitter=0.5, seed=0)
    return simulate_scan(obj, make_probe("zoneplate", size), positions, photons=1e6)


def main() -> None:
    made = parser(__doc__, shared=False)
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--frames", type=int, nargs=2, default=None, help="about how many, N = 64 and 128")
    made.add_argument("--spacing", type=float, default=0.1, help="distance of frames over N")
    made.add_argument("--rounds", type=int, default=3)
    arguments = made.parse_args()
    counts = arguments.frames or ([100, 36] if arguments.quick else [900, 400])
    rounds = 1 if arguments.quick else arguments.rounds
    threads = arguments.threads or torch.get_num_threads()
    scans = {n: scan_of(n, count, arguments.spacing * n) for n, count in zip((64, 128), counts, strict=True)}
    solver = SOLVERS.get("learned")(arguments.device)
    cases = [
        (size, sweeps, blind, used)
        for size in scans
        for sweeps in (4, 7)
        for blind in (False, True)
        for used in sorted({1, threads} if arguments.device == "cpu" and not arguments.quick else {threads})
    ]
    times: dict[Any, list[float]] = {case: [] for case in cases}
    for turn in range(rounds):
        for case in cases:
            size, sweeps, blind, used = case
            torch.set_num_threads(used)
            options = LearnedOptions(sweeps=sweeps, update_probe=blind)
            if turn == 0 and arguments.device == "cuda":
                solver.solve(scans[size], None, options)  # kernels are chosen in the first call
            began = time.perf_counter()
            solver.solve(scans[size], None, options)
            times[case].append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    rows = [
        {
            "N": size,
            "frames": scans[size].n_frames,
            "iterations": sweeps,
            "probe": "solved for" if blind else "known",
            "threads": used,
            "frames per second": scans[size].n_frames / min(times[size, sweeps, blind, used]),
            "spread": max(times[size, sweeps, blind, used]) / min(times[size, sweeps, blind, used]),
            "goal": GOALS[size],
        }
        for size, sweeps, blind, used in cases
    ]
    print(table(rows))
    print(keep(f"speed_learned-{arguments.device}", arguments, {"rows": rows}))


if __name__ == "__main__":
    main()
