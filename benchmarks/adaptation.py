"""The `adaptation` benchmark: what a minute of predicting withheld frames gives, on the scan itself and on the next
one.

    python benchmarks/adaptation.py

The scans of `overlap.py`, whose object no pretraining has seen, with the true probe and solved blind from a guess
out of focus. The error is that of `generalise.py`. `next`: another scan under the same probe, of the same pictures
turned and mirrored, which adaptation has not seen. Each image: the network's alone, and after 20 sweeps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from generalise import error
from harness import keep, parser, table, whole
from overlap import EDGE, SIZE, scan_of, unseen_object
from ptycho_torch.bundle.shipped import load_solver, solver_of
from ptycho_torch.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_probe, simulate_scan
from ptycho_torch.simulation.variety import spoiled_probe
from ptycho_torch.solvers import SOLVERS, LearnedOptions, RefineOptions
from ptycho_torch.solvers.learned import Learned
from ptycho_torch.training.run import Watch, fit


def scans_of(step: int, arguments: Any) -> tuple[Scan, Scan]:
    """A scan and the next one."""
    first = scan_of(step, arguments.photons, arguments.seed)
    other = np.ascontiguousarray(unseen_object().T[::-1])
    positions = EDGE - first.positions[:, ::-1]
    second = simulate_scan(
        other, make_probe("zoneplate", SIZE), positions, photons=arguments.photons, seed=arguments.seed + 7
    )
    if arguments.known:
        return first, second
    assert first.probe is not None
    guess = spoiled_probe(first.probe, np.random.default_rng(arguments.seed))
    return replace(first, probe=guess), replace(second, probe=guess)


def errors(scan: Scan, solver: RegionSolver, known: bool) -> tuple[float, float]:
    """Of the network's image, and after 20 sweeps."""
    truth = scan.object_guess
    assert truth is not None
    image = Learned("cpu", solver).solve(scan, None, LearnedOptions(update_probe=not known))
    options = RefineOptions(sweeps=20, step=1.0, update_probe=not known)
    return error(image, truth), error(SOLVERS.get("epie")("cpu").solve(scan, image, options), truth)


def main() -> None:
    made = parser(__doc__, shared=False)
    made.add_argument(
        "--steps", type=int, nargs="+", default=[10, 16, 24, 32], help="distances of frames, px"
    )
    made.add_argument("--minutes", type=float, default=1.0)
    made.add_argument("--photons", type=float, default=1e7)
    made.add_argument("--learning-rate", type=float, default=1e-3)
    made.add_argument("--joint-share", type=float, default=1.0)
    made.add_argument("--known", action="store_true", help="take the true probe as known")
    arguments = made.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.quick:
        arguments.steps, arguments.minutes = [24], 0.4
    rows: list[dict[str, Any]] = []
    for step in arguments.steps:
        scan, following = scans_of(step, arguments)
        config = TrainingConfig(
            model=ModelConfig(N=SIZE),
            init="shipped",
            max_minutes=arguments.minutes,
            nepochs=100_000,
            learning_rate=arguments.learning_rate,
            joint_share=arguments.joint_share,
            probe="fixed" if arguments.known else "refine",
            seed=arguments.seed,
        )

        def row(history: list[dict[str, float]]) -> None:
            print({k: round(v, 4) for k, v in history[-1].items()}, flush=True)

        execution = ExecutionConfig(progress=False, accelerator="cpu")
        done = whole(fit(scan, config, execution, watch=Watch(on_row=row)))
        adapted = solver_of(done.diffraction_to_obj)
        assert adapted is not None
        line: dict[str, Any] = {"step, px": step, "frames": scan.n_frames}
        line |= {"seconds": done.seconds, "steps of adaptation": done.history[-1]["step"]}
        line["withheld error, part of before"] = done.best
        for what, each in (("", scan), (", next", following)):
            for name, solver in (("shipped", load_solver()), ("adapted", adapted)):
                alone, swept = errors(each, solver, arguments.known)
                line |= {f"{name}{what}": alone, f"{name}{what}, 20 sweeps": swept}
        rows.append(line)
        print(table([line]), flush=True)
    print(keep("adaptation" + ("-known" if arguments.known else ""), arguments, {"rows": rows}))


if __name__ == "__main__":
    main()
