"""The `overlap` benchmark: error against distance of frames, nothing trained on the scan.

    python benchmarks/overlap.py
    python benchmarks/overlap.py --steps 16 24 32 --seeds 5 --part sparse  # with spread: other positions, other noise

Zone-plate probe, N = 64, 1e7 photons, an object that no pretraining has seen: scikit-image's camera as amplitude,
its coins as phase. Beside the learned solver in the same run, given the same frames and the same true probe:
sweeps of `epie` from a flat object; and sweeps from the learned solver's image. The error is
|o - truth| rms over |truth| rms after one global factor, where the frames light the object.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage import data, transform

from harness import keep, over_seeds, parser, table
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_probe, simulate_scan
from ptycho_torch.solvers import SOLVERS, LearnedOptions, RefineOptions

EDGE, SIZE, MOST = 360, 64, 900


def unseen_object() -> NDArray[np.complex128]:
    """Camera as amplitude, coins as phase."""
    camera, coins = (
        transform.resize(image, (EDGE, EDGE), anti_aliasing=True) for image in (data.camera(), data.coins())
    )
    return np.asarray((0.6 + 0.4 * camera) * np.exp(1.2j * (coins - 0.4)))


def scan_of(step: int, photons: float, seed: int) -> Scan:
    """A jittered grid, its 900 innermost frames at most."""
    line = np.arange(40, EDGE - 40, step)
    y, x = np.meshgrid(line, line, indexing="ij")
    rng = np.random.default_rng(seed)
    positions = np.stack([x.ravel(), y.ravel()], 1) + rng.uniform(-0.2 * step, 0.2 * step, (line.size**2, 2))
    positions = np.round(positions)
    if len(positions) > MOST:
        distance = ((positions - positions.mean(0)) ** 2).sum(1)
        positions = positions[np.sort(np.argsort(distance)[:MOST])]
    return simulate_scan(
        unseen_object(), make_probe("zoneplate", SIZE), positions, photons=photons, seed=seed + 1
    )


def error(rec: Reconstruction, truth: NDArray[np.complex128]) -> float:
    column, row = np.rint(rec.origin_xy).astype(int)
    height, width = rec.object.shape
    wanted = truth[row : row + height, column : column + width]
    lit = rec.weight > 0.05 * np.quantile(rec.weight, 0.95)
    obj, wanted = rec.object[lit], wanted[lit]
    factor = np.vdot(obj, wanted) / np.vdot(obj, obj)
    return float(np.linalg.norm(factor * obj - wanted) / np.linalg.norm(wanted))


def ways(
    scan: Scan, sweeps: tuple[int, ...], after: tuple[int, ...], known: bool
) -> dict[str, tuple[float, float]]:
    """Error and seconds of each way to an image."""
    truth = scan.object_guess
    assert truth is not None
    found: dict[str, tuple[float, float]] = {}
    learned, epie = SOLVERS.get("learned")("cpu"), SOLVERS.get("epie")("cpu")

    def run(name: str, solve: Any, before: float = 0.0) -> Reconstruction:
        began = time.monotonic()
        rec: Reconstruction = solve()
        seconds = before + time.monotonic() - began
        found[name] = (error(rec, truth), seconds)
        return rec

    for count in (5, 10, 16):
        options = LearnedOptions(sweeps=count, update_probe=not known)
        image = run(f"learned, {count}", lambda options=options: learned.solve(scan, None, options))
        for more in after if count == 10 else ():
            then = RefineOptions(sweeps=more, update_probe=not known, step=1.0)
            name = f"learned, 10, then {more} sweeps"
            run(name, lambda image=image, then=then: epie.solve(scan, image, then), found["learned, 10"][1])
    for count in sweeps:
        options_ = RefineOptions(sweeps=count, update_probe=not known, tolerance=0.0)
        run(f"{count} sweeps", lambda options_=options_: epie.solve(scan, None, options_))
    return found


def main() -> None:
    made = parser(__doc__, shared=False)
    made.add_argument("--photons", type=float, default=1e7)
    made.add_argument("--steps", type=int, nargs="+", default=[3, 6, 10, 16, 24, 32])
    made.add_argument("--sweeps", type=int, nargs="+", default=[5, 20, 60])
    made.add_argument(
        "--after", type=int, nargs="+", default=[10, 30], help="sweeps from the learned solver's image"
    )
    made.add_argument("--seeds", type=int, default=1)
    made.add_argument("--part", default="", help="of the name of the files; default: none")
    made.add_argument("--blind", action="store_true", help="solve for the probe, too, from the true one")
    arguments = made.parse_args()
    if arguments.quick:
        arguments.steps, arguments.sweeps = [10, 24], [5]
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        for step in arguments.steps:
            scan = scan_of(step, arguments.photons, 2 * seed)  # the noise has the seed after it
            for name, (wrong, seconds) in ways(
                scan, tuple(arguments.sweeps), tuple(arguments.after), not arguments.blind
            ).items():
                row = {"step": step, "way": name, "seed": seed, "frames": scan.n_frames}
                rows.append(row | {"error": wrong, "seconds": seconds})
                print(f"step {step:3d}  {name:28s} {wrong:.4f}  {seconds:.2f} s", flush=True)
    means = over_seeds(rows, ("step", "way"), ("error", "seconds"))
    names = list(dict.fromkeys(row["way"] for row in rows))
    by = {(row["step"], row["way"]): row for row in means}
    shown = [
        {"step, px": step}
        | {n: f"{by[step, n]['error']:.3f} in {by[step, n]['seconds']:.1f} s" for n in names}
        for step in arguments.steps
    ]
    print(table(shown))
    name = f"overlap-{arguments.part}" if arguments.part else "overlap"
    results = {"rows": rows, "means": means}
    print(keep(name, arguments, results, by=["step", "way"], pivot=["step", "way", "error"]))
    figure(means, names).savefig(arguments.output / f"{name}.png", dpi=120)


def figure(rows: list[dict[str, Any]], names: list[str]) -> Figure:
    made = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = made.subplots(1, 2)
    for name in names:
        mine = [row for row in rows if row["way"] == name]
        style = "-" if name.startswith("learned") else "--"
        left.plot([r["step"] for r in mine], [r["error"] for r in mine], style, marker="o", ms=3, label=name)
        right.plot([r["step"] for r in mine], [r["seconds"] for r in mine], style, marker="o", ms=3)
    left.set_ylabel("error relative to the object")
    right.set_ylabel("seconds")
    for axes in (left, right):
        axes.set_xlabel("distance of neighbouring frames, px")
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
    left.legend(fontsize=7)
    return made


if __name__ == "__main__":
    main()
