"""The `dose` benchmark: resolution against photons per frame, for three recipes of training.

    python benchmarks/dose.py --minutes 1.5

The objects, probe (measured) and split of the `lines` benchmark, gridsize 1, with 1e3 to 1e9 photons per frame in
training and test alike. For each dose one network is trained on amplitude errors (MAE), one on the Poisson
likelihood, and one as few photons ask for (``overlap_own``, ``frame_weight``); the score is the Fourier ring
correlation of the single-shot prediction with the truth, where it falls below 0.5.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from harness import keep, parser, table, whole
from lines import predict
from lines_data import LinesCase, make_case, tile_centres
from ptycho_torch.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_torch.evaluation import crossing, fourier_ring_correlation
from ptycho_torch.training.run import fit

DOSES = (1e3, 1e4, 1e5, 1e6, 1e9)
RECIPES: dict[str, dict[str, float]] = {
    "MAE": {"mae_weight": 1.0, "nll_weight": 0.0, "overlap_own": 1.0, "frame_weight": 0.5},
    "Poisson": {"mae_weight": 0.0, "nll_weight": 1.0, "overlap_own": 1.0, "frame_weight": 0.5},
    "low dose": {"mae_weight": 1.0, "nll_weight": 0.0, "overlap_own": 0.1, "frame_weight": 0.0},
}
"""Settings of training; `low dose` has no term in which a frame judges the patch that its own noise is in."""


def run(case: LinesCase, recipe: str, arguments: Any) -> tuple[dict[str, Any], Any]:
    """Trains by one recipe; the score and the tiled amplitude."""
    config = TrainingConfig(
        init="scratch",
        model=ModelConfig(N=64, gridsize=1),
        overlap_distance=16.0,
        n_groups=512,
        nepochs=100_000,
        max_minutes=None if arguments.steps else arguments.minutes,
        max_steps=arguments.steps,
        probe="fixed",
        val_fraction=0.0,
        seed=arguments.seed,
        **RECIPES[recipe],  # type: ignore[arg-type]
    )
    trained = whole(fit(case.train, config, ExecutionConfig(progress=False, threads=arguments.threads)))
    patches = predict(trained.diffraction_to_obj, case)
    image = np.abs(tile_centres(patches, case.truth))
    curve = fourier_ring_correlation(image, case.truth)
    at = crossing(curve, 0.5)
    return {
        "recipe": recipe,
        "frc50_px": at["resolution_px"],
        "frc50_frequency": at["frequency"],
        **case.score(patches),
        "steps": int(trained.history[-1]["step"]),
        "seconds": trained.seconds,
    }, image


def _figure(rows: list[dict[str, Any]], images: dict[tuple[float, str], Any], path: Path) -> None:
    doses = sorted({r["photons"] for r in rows})
    shown = [d for d in (1e3, 1e4, 1e5) if d in doses] or doses[:3]
    figure = Figure(figsize=(4 + 2.6 * len(shown), 7), layout="constrained")
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    grid = figure.add_gridspec(len(recipes), len(shown) + 2)
    axis = figure.add_subplot(grid[:, :2])
    for recipe, style in zip(recipes, ("k--s", "k-o", "k:^"), strict=False):
        of = sorted((r["photons"], r["frc50_frequency"]) for r in rows if r["recipe"] == recipe)
        axis.semilogx([d for d, _ in of], [f for _, f in of], style, ms=5, label=recipe)
    axis.set(
        xlabel="photons per frame",
        ylabel="FRC with the truth falls below 0.5 at (cycles per px)",
        title="single shot, measured probe",
    )
    axis.legend(frameon=False)
    for column, dose in enumerate(shown):
        for row, recipe in enumerate(recipes):
            image = images[dose, recipe]
            axis = figure.add_subplot(grid[row, column + 2])
            axis.imshow(image / image.mean(), cmap="gray", vmin=0.4, vmax=1.8)
            axis.set(title=f"{recipe}, {dose:.0e} photons", xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    matplotlib.use("Agg")
    made = parser(__doc__)
    made.add_argument("--photons", type=float, action="append", help="default: 1e3 1e4 1e5 1e6 1e9")
    made.add_argument("--minutes", type=float, default=1.5, help="of training, each")
    made.add_argument(
        "--steps", type=int, default=None, help="of training, each; instead of minutes, for busy machines"
    )
    made.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES), metavar="RECIPE")
    arguments = made.parse_args()
    doses = arguments.photons or ((1e4,) if arguments.quick else DOSES)
    if arguments.quick:
        arguments.minutes = min(arguments.minutes, 0.5)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    rows: list[dict[str, Any]] = []
    images: dict[tuple[float, str], Any] = {}
    for photons in doses:
        case = make_case(1, "experimental", arguments.shared, arguments.seed, photons=photons)
        for recipe in arguments.recipes:
            torch.manual_seed(arguments.seed)
            row, images[photons, recipe] = run(case, recipe, arguments)
            rows.append({"photons": photons, **row})
            print(table(rows[-1:]), flush=True)
    _figure(rows, images, arguments.output / "dose.png")
    print(keep("dose", arguments, rows))
    print(table(rows))


if __name__ == "__main__":
    main()
