"""The `star_untrained` benchmark: the APS Siemens star from the file's guess, nothing trained on it.

    python benchmarks/star_untrained.py

The reference is the plain numpy ePIE of `star.py`. Compared where the summed |P|^2 exceeds 0.3 of its maximum, after
ramp, phase, scale and shift are taken off: all frames, and every fourth frame only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness import keep, parser, table
from ptycho_torch.evaluation import evaluate
from ptycho_torch.evaluation.reference import Reference
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan, open_scan
from ptycho_torch.solvers import SOLVERS, LearnedOptions, RefineOptions
from ptycho_torch.solvers.residual import residual
from ptycho_torch.workflows.solving import network_of, solve, with_guess
from star import epie, lsqml


def ways(scan: Scan, sweeps: tuple[int, ...]) -> Iterator[tuple[str, Reconstruction, float]]:
    """Each way to an image, with its seconds."""
    solver = SOLVERS.get("epie")("cpu")
    for count in sweeps:
        began = time.monotonic()
        image = solver.solve(scan, None, RefineOptions(sweeps=count, tolerance=0.0))
        yield f"{count} sweeps", image, time.monotonic() - began
    network = network_of(None)
    for iterations in (5, 10):
        began = time.monotonic()
        nearer, _ = with_guess(scan, network)
        image = solve(nearer, network, LearnedOptions(sweeps=iterations))
        first = time.monotonic() - began
        name = f"sweeps for the probe, learned {iterations}"
        yield name, image, first
        for count in sweeps:
            began = time.monotonic()
            more = solver.solve(scan, image, RefineOptions(sweeps=count, step=1.0, tolerance=0.0))
            yield f"{name}, then {count} sweeps", more, first + time.monotonic() - began


def scored(rec: Reconstruction, reference: Reference) -> dict[str, float]:
    scores = evaluate(rec, reference, region=rec.weight > 0.3 * rec.weight.max())
    return {
        "complex correlation": scores["complex_correlation"],
        "phase, mean-free": scores["phase"]["correlation"],
        "amplitude, mean-free": scores["amplitude"]["correlation"],
    }


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--sweeps", type=int, nargs="+", default=[10, 20, 30])
    made.add_argument("--reference-sweeps", type=int, default=60)
    made.add_argument("--peer", type=Path, help="Python with pty-chi, to run its LSQML beside")
    made.add_argument("--epochs", type=int, default=30, help="of the peer")
    arguments = made.parse_args()
    if arguments.quick:
        arguments.sweeps, arguments.reference_sweeps = [5], 10
        arguments.epochs = min(arguments.epochs, 2)
    scan = open_scan(arguments.shared / "data/siemens_star_aps.npz")
    reference, _, _ = epie(scan, arguments.reference_sweeps)
    rows: list[dict[str, Any]] = []
    for frames, every in (("all", 1), ("every fourth", 4)):
        part = scan.select(np.arange(0, scan.n_frames, every))
        done = list(ways(part, tuple(arguments.sweeps)))
        if arguments.peer:
            other = lsqml(arguments, arguments.shared / "data/siemens_star_aps.npz", every)
            done.append((f"pty-chi LSQML, {arguments.epochs} epochs", other, float(other.seconds or 0)))
        for name, rec, seconds in done:
            row = {"frames": frames, "way": name, "seconds": seconds, "R": residual(rec, part)}
            rows.append(row | scored(rec, reference))
            print(rows[-1], flush=True)
    print(table(rows))
    print(keep("star_untrained", arguments, {"rows": rows}))


if __name__ == "__main__":
    main()
