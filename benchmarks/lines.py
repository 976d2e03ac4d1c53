"""The `lines` benchmark: SSIM of amplitude on simulated lines, against training time.

    python benchmarks/lines.py --case 1-experimental --variant overlap --minutes 10

Four cases (gridsize 1 or 2, probe ideal or experimental), each generator; gridsize 1 trained on
neighbouring frames (`overlap`) or on single frames (`strict`), inference on single frames in both.
`--init shipped`: adaptation of the shipped solver in place of training from scratch; the score before it, and
those of all test frames solved together, come with it (`--set joint_share=0` adapts to groups alone).
`--refine N`: the test frames' stitched reconstruction after N sweeps, too, under its own name. `--curves`
draws all results of the output folder into one figure. The definition is that of arXiv 2602.21361, table
"sim_lines". Training sees frames, positions, the probe and nothing else; the test set is looked at after
training only.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness import keep, parser, table, whole
from lines_data import LinesCase, make_case, score_image, tile_centres
from ptycho_torch.bundle.shipped import load_solver, solver_of
from ptycho_torch.config import ExecutionConfig, ModelConfig, TrainingConfig, set_field
from ptycho_torch.model import DiffractionToObject
from ptycho_torch.physics.patches import merge, region_size
from ptycho_torch.physics.units import amplitude_normalisation
from ptycho_torch.reconstruction import reconstruct
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.solvers import LearnedOptions, RefineOptions
from ptycho_torch.solvers.epie import Epie
from ptycho_torch.solvers.learned import Learned
from ptycho_torch.training.run import Watch, fit

PAPER = {"1-ideal": 0.620, "1-experimental": 0.904, "2-ideal": 0.952, "2-experimental": 0.968}
GOALS = {"1-ideal": 0.85, "1-experimental": 0.975, "2-ideal": 0.995, "2-experimental": 0.998}


@torch.inference_mode()
def predict(model: DiffractionToObject, case: LinesCase, batch: int = 32) -> NDArray[np.complex64]:
    """One object per test group, (G, n, n), pixel n//2 at the group's mean position."""
    factor = np.float32(amplitude_normalisation(case.test.frames) * model.intensity_scale)
    offsets = torch.from_numpy(case.offsets).view(1, -1, 1, 2)
    members = case.offsets.shape[0]
    region = region_size(offsets, case.test.N) if members > 1 else None
    power = model.core.stitching_weight()
    found = []
    for start in range(0, len(case.test_groups), batch):
        x = torch.from_numpy(case.test.frames[case.test_groups[start : start + batch]] * factor)
        shifts = offsets.expand(len(x), -1, -1, -1)
        objects = model(x, model.core.offset_sign * shifts, None, region)
        if objects.shape[1] > 1:
            objects = merge(objects, power, shifts[:, :, 0], region).unsqueeze(1)
        found.append(objects[:, 0].numpy())
    return np.concatenate(found)


def run(case: LinesCase, arguments: Any) -> dict[str, Any]:
    """Trains on the case's frames and scores snapshots of the training."""
    config = TrainingConfig(
        model=ModelConfig(N=64, gridsize=case.gridsize, architecture=arguments.architecture),
        init=arguments.init,
        overlap=arguments.variant == "overlap",
        overlap_distance=16.0,
        neighbor_count=8,
        n_groups=512,
        nepochs=100_000,
        max_minutes=arguments.minutes,
        probe="fixed",
        val_fraction=0.0,
        seed=arguments.seed,
    )
    if arguments.variant == "strict" and case.gridsize == 1:
        config.batch_size, config.n_groups = 32, 2048
    for assignment in arguments.set:
        name, value = assignment.split("=", 1)
        set_field(config, name, __import__("yaml").safe_load(value))
    snapshots: list[tuple[float, dict[str, torch.Tensor]]] = []

    def best(
        autoencoder: Any, model: DiffractionToObject, used: Any, history: list[dict[str, float]]
    ) -> None:
        state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        snapshots.append((history[-1]["seconds"] if history else 0.0, state))

    execution = ExecutionConfig(progress=False, threads=arguments.threads, precision=arguments.precision)
    began = time.monotonic()

    def row(history: list[dict[str, float]]) -> None:
        print(f"{time.monotonic() - began:7.1f} s  loss {history[-1]['loss']:.5f}", flush=True)

    watch = Watch(on_best=best, on_row=row)
    trained = whole(fit(runs_of(case.train, arguments.init), config, execution, watch=watch))
    model = trained.diffraction_to_obj
    final = model.state_dict()
    curve = []
    stride = max(1, len(snapshots) // 12)
    for seconds, state in snapshots[:-1:stride]:
        model.load_state_dict(state)
        curve.append({"seconds": seconds, **case.score(predict(model, case))})
    model.load_state_dict(final)
    patches = predict(model, case)
    done = {"seconds": trained.seconds, **case.score(patches)}
    refined, together = None, {}
    if arguments.init != "scratch":
        together = together_scores(model, case)
        print(table([together]), flush=True)
    if arguments.refine:
        refined = refined_score(model, case, arguments.refine)
        print(table([{"": "refined", **refined}]), flush=True)
    name = f"{case.gridsize}-{case.probe_name}"
    _figure(case, patches, [*curve, done], arguments.output / f"lines-{_label(name, arguments)}.png")
    return {
        "case": name,
        "variant": arguments.variant if case.gridsize == 1 else "group",
        "init": arguments.init,
        "architecture": arguments.architecture,
        **done,
        "paper_ssim": PAPER[name],
        "goal_ssim": GOALS[name],
        "steps": int(trained.history[-1]["step"]),
        "loss": trained.best,
        "refined": refined,
        **together,
        "twin_mean": case.twin_mean(),
        "curve": [*curve, done],
        "config": arguments.set,
    }


def refined_score(model: DiffractionToObject, case: LinesCase, sweeps: int) -> dict[str, Any]:
    """All test frames stitched and refined together: no longer single shot."""
    rec = reconstruct(model, case.test)
    done = Epie().solve(case.test, rec, RefineOptions(sweeps=sweeps, update_probe=False))
    x, y = np.rint(case.truth_corner - done.origin_xy).astype(int)
    height, width = case.truth.shape
    image = np.abs(done.object[y : y + height, x : x + width])
    return {"sweeps": done.sweeps, **score_image(image, case.truth)}


def runs_of(scan: Scan, init: str) -> list[Scan]:
    """The scan, or its runs one by one where they are adapted to, each an object of its own."""
    if init == "scratch":
        return [scan]
    assert scan.scan_index is not None
    return [
        replace(scan.select(scan.scan_index == run), scan_index=None) for run in np.unique(scan.scan_index)
    ]


def together_scores(model: DiffractionToObject, case: LinesCase) -> dict[str, float]:
    """SSIM of all test frames solved together: by the network before and after adaptation, and after 20 sweeps."""
    found = {}
    scan = replace(case.test, probe=case.probe)
    for name, solver in (("shipped", load_solver()), ("adapted", solver_of(model))):
        rec = Learned("cpu", solver).solve(scan, None, LearnedOptions(update_probe=False))
        found[f"together, {name}"] = _ssim(rec, case)
        rec = Epie().solve(scan, rec, RefineOptions(sweeps=20, step=1.0, update_probe=False))
        found[f"together, {name}, 20 sweeps"] = _ssim(rec, case)
    return found


def _ssim(rec: Reconstruction, case: LinesCase) -> float:
    x, y = np.rint(case.truth_corner - rec.origin_xy).astype(int)
    height, width = case.truth.shape
    return score_image(np.abs(rec.object[y : y + height, x : x + width]), case.truth)["ssim"]


def curves(folder: Path) -> Path:
    """SSIM against minutes of training of every result in the folder, one panel a case."""
    found = [
        r for path in sorted(folder.glob("lines-*.json")) for r in json.loads(path.read_text())["results"]
    ]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    styles = {"unrolled": ("k", "o"), "cnn": ("0.45", "s")}
    for axis, name in zip(figure.subplots(1, 4, sharey=True), PAPER, strict=True):
        for r in (r for r in found if r["case"] == name):
            color, marker = styles.get(r["architecture"], ("0.2", "^"))
            minutes = [p["seconds"] / 60 for p in r["curve"]]
            label = r["architecture"] + (", strict" if r["variant"] == "strict" else "")
            axis.plot(
                minutes,
                [p["ssim"] for p in r["curve"]],
                ls=":" if r["variant"] == "strict" else "-",
                color=color,
                marker=marker,
                ms=3,
                label=label,
            )
        twins = [r["twin_mean"]["ssim"] for r in found if r["case"] == name and r.get("twin_mean")]
        if twins:
            axis.axhline(twins[0], color="k", ls="-.", lw=1, label="mean of truth and twin")
        axis.axhline(PAPER[name], color="0.5", ls="--", lw=1, label="paper, 60 epochs")
        axis.set(
            title=f"gridsize {name.replace('-', ', ')} probe", xlabel="training (minutes)", ylim=(0, 1.04)
        )
        axis.legend(frameon=False, fontsize=8, loc="lower right")
    figure.axes[0].set_ylabel("SSIM")
    path = folder / "lines-curves.png"
    figure.savefig(path, dpi=110)
    return path


def _label(name: str, arguments: Any) -> str:
    more = "" if arguments.init == "scratch" else "-adapted"
    return f"{name}-{arguments.architecture}" + ("-strict" if arguments.variant == "strict" else "") + more


def _figure(case: LinesCase, patches: NDArray[Any], curve: list[dict[str, float]], path: Path) -> None:
    tiled = tile_centres(patches, case.truth)
    amplitude = np.abs(tiled) * (case.truth.mean() / np.abs(tiled).mean())
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, 4)
    for axis, image, title in (
        (axes[0], case.truth, "truth, amplitude"),
        (axes[1], amplitude, f"prediction, SSIM {curve[-1]['ssim']:.3f}"),
    ):
        shown = axis.imshow(image, cmap="gray", vmin=case.truth.min(), vmax=case.truth.max())
        figure.colorbar(shown, ax=axis, shrink=0.8)
        axis.set(title=title, xlabel="x (px)", ylabel="y (px)")
    phase = np.angle(tiled * np.exp(-1j * np.angle(tiled.mean())))
    shown = axes[2].imshow(phase, cmap="gray", vmin=-0.5, vmax=0.5)
    figure.colorbar(shown, ax=axes[2], shrink=0.8, label="rad")
    axes[2].set(title="prediction, phase (truth: 0)", xlabel="x (px)")
    axes[3].plot([p["seconds"] / 60 for p in curve], [p["ssim"] for p in curve], "ko-", ms=3)
    axes[3].axhline(PAPER[f"{case.gridsize}-{case.probe_name}"], ls="--", color="0.5", label="paper")
    axes[3].set(title="SSIM against training", xlabel="minutes", ylabel="SSIM")
    axes[3].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    matplotlib.use("Agg")
    made = parser(__doc__)
    made.add_argument(
        "--case", choices=sorted(PAPER), action="append", help="default: all four; --quick: two of them"
    )
    made.add_argument("--variant", choices=("overlap", "strict"), default="overlap")
    made.add_argument("--architecture", default="unrolled")
    made.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    made.add_argument("--minutes", type=float, default=10.0)
    made.add_argument("--init", default="scratch", help="'scratch', 'shipped' or a bundle")
    made.add_argument("--refine", type=int, default=0, metavar="SWEEPS", help="gridsize 1: also refine")
    made.add_argument("--curves", action="store_true", help="only draw the results in --output")
    made.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any training field")
    arguments = made.parse_args()
    if arguments.curves:
        print(curves(arguments.output))
        return
    if arguments.quick:
        arguments.minutes = min(arguments.minutes, 0.3)
        arguments.case = arguments.case or ["1-experimental", "2-ideal"]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    results = []
    for name in arguments.case or sorted(PAPER):
        gridsize, probe = name.split("-")
        case = make_case(int(gridsize), probe, arguments.shared, arguments.seed)
        results.append(run(case, arguments))
        label = _label("-".join(arguments.case or ["all"]), arguments)
        print(keep(f"lines-{label}", arguments, results))
    columns = ("case", "variant", "architecture", "ssim", "paper_ssim", "goal_ssim", "psnr", "seconds")
    print(table([{k: r[k] for k in columns} for r in results]))


if __name__ == "__main__":
    main()
