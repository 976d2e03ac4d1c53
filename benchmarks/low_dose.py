"""The `low_dose` benchmark: what sweeps do where photons are few, and what `reconstruct` does by itself.

    python benchmarks/low_dose.py

Photons a frame from 1e3 to 1e8, frames 8, 16 and 28 px apart, N = 64, zone-plate probe, objects never pretrained on.
`by itself` is `reconstruct` as it is; `as for many` what it does where photons are many (30 sweeps from a flat
object, or the learned solver and 20 sweeps, with momentum); `no momentum` the same without; `learned` that solver
alone. Error: |o - truth| rms over |truth| rms after one global factor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from harness import keep, parser, table
from overlap import error
from ptycho_torch import reconstruct
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_positions, make_probe, simulate_scan
from ptycho_torch.solvers import SOLVERS, LearnedOptions
from ptycho_torch.workflows.solving import polishing, starts_flat
from uncertainty import SIZE, held_out

DOSES = (1e3, 1e4, 1e5, 1e6, 1e8)
STEPS = (8, 16, 28)


def scan_of(dose: float, step: int, seed: int) -> Scan:
    obj = held_out(seed)
    positions = make_positions("grid", obj.shape, SIZE, step=step, jitter=0.1 * step, seed=seed)
    return simulate_scan(obj, make_probe("zoneplate", SIZE), positions, photons=dose, seed=seed + 1)


def ways(scan: Scan) -> Iterator[tuple[str, Callable[[], Reconstruction]]]:
    epie, learned = SOLVERS.get("epie")("cpu"), SOLVERS.get("learned")("cpu")
    flat = starts_flat(scan)

    def swept(momentum: float) -> Reconstruction:
        start = None if flat else learned.solve(scan, None, LearnedOptions())
        return epie.solve(scan, start, replace(polishing(), momentum=momentum))

    yield "by itself", lambda: reconstruct(scan, withhold=0.0, device="cpu")
    yield "as for many", lambda: swept(0.9)
    yield "no momentum", lambda: swept(0.0)
    yield "learned", lambda: learned.solve(scan, None, LearnedOptions())


def main() -> None:
    made = parser(__doc__, shared=False)
    made.add_argument("--seeds", type=int, default=2, help="objects, and draws of the noise")
    arguments = made.parse_args()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    doses, steps = ((1e3, 1e6), (28,)) if arguments.quick else (DOSES, STEPS)
    rows: list[dict[str, Any]] = []
    for dose in doses:
        for step in steps:
            for seed in range(arguments.seed, arguments.seed + (1 if arguments.quick else arguments.seeds)):
                scan = scan_of(dose, step, seed)
                row: dict[str, Any] = {
                    "photons": dose,
                    "step": step,
                    "seed": seed,
                    "per pixel": scan.photons_per_pixel,
                }
                for name, solve in ways(scan):
                    began = time.process_time()
                    row[name] = error(solve(), scan.object_guess)
                    row["seconds"] = row.get("seconds", time.process_time() - began)
                rows.append(row)
                print(row, flush=True)
    print(table(rows))
    print(keep("low_dose", arguments, {"rows": rows}, by=["photons", "step"]))


if __name__ == "__main__":
    main()
