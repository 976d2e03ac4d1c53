"""The `uncertainty` benchmark: do nine of ten true errors lie within the error bars that `reconstruct --uncertainty`
gives?

    python benchmarks/uncertainty.py               # objects and probes that neither pretraining nor calibration saw
    python benchmarks/uncertainty.py --fit         # calibrate first, on random ones; writes calibration.json too
    python benchmarks/uncertainty.py --others      # objects of yet other kinds, any probe, which nothing was chosen by
    python benchmarks/uncertainty.py --star        # measured data: sigma against the difference of two halves

Four doses, three overlaps, three objects, frames of N = 64 (or ``--size``), the probe guess true or out of focus.
Every cell is kept in a file of its own: a run that was stopped goes on where it was, with the same shipped weights
and features; ``--fresh`` begins anew. `covered`: part of the pixels whose true error is within 1.645 sigma; `rank`:
Spearman's correlation of sigma with the size of the true error, pixel by pixel; `rank, 2 px`: with its root mean
square nearby; `rank of 2 px and pixel`: of these two, which no sigma can much exceed. `cost`: time with error bars
over time without.
"""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import cbook
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import norm, spearmanr
from skimage import data, io, transform

from harness import keep, parser, table
from ptycho_torch import reconstruct
from ptycho_torch.bundle.shipped import shipped_bundle
from ptycho_torch.files import write_text_atomic
from ptycho_torch.scan import Scan, open_scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.simulation.variety import random_object, random_probe, spoiled_probe
from ptycho_torch.uncertainty import Calibration, errors_against, fitted, replicates, shipped_calibration
from ptycho_torch.uncertainty import calibration as home
from ptycho_torch.uncertainty.calibration import CHANNELS, NORMAL
from ptycho_torch.uncertainty.replicates import FEATURES

DOSES = (1e3, 1e5, 1e7, 1e9)
STEPS = (8, 16, 28)
"""Distances of frames for N = 64; for other N in proportion."""
SIZE, EDGE = 64, 124
PHOTOGRAPHED = 100
"""Number from which on the object of a scan that calibrates is made of photographs."""
DENSE, LARGE = 80, 208
"""Numbers from which on frames are so close that sweeps begin from a flat object, and from which on N is 64."""
FITTED = (
    *range(20), *range(40, 48), *range(DENSE, DENSE + 4),
    *range(PHOTOGRAPHED, PHOTOGRAPHED + 28), *range(LARGE, LARGE + 10)
)  # fmt: skip
PICTURES = (
    "chelsea", "clock", "coffee", "gravel", "hubble_deep_field", "immunohistochemistry", "page", "retina", "rocket",
    "text",
)  # fmt: skip
"""Pictures for calibration; those of :func:`held_out` are others."""
MOST = 3000
"""Pixels of a cell that are kept."""


# ------------------------------------------------------------------ scans
@cache
def picture(name: str, edge: int) -> NDArray[np.float64]:
    """A sample picture of scikit-image, 0 to 1."""
    image = getattr(data, name)().astype(float)
    image = image[..., :3].mean(-1) if image.ndim == 3 else image
    square = min(image.shape)
    image = transform.resize(image[:square, :square], (edge, edge), anti_aliasing=True)
    return np.asarray((image - image.min()) / np.ptp(image))


def held_out(number: int, edge: int = EDGE) -> NDArray[np.complex128]:
    """Objects that pretraining and calibration keep out: photographs, lines, a star."""
    kinds = (
        lambda: (0.6 + 0.4 * picture("camera", edge)) * np.exp(1.2j * (picture("coins", edge) - 0.4)),
        lambda: make_object("siemens", edge),
        lambda: np.exp(2j * picture("moon", edge)) * (0.8 + 0.2 * picture("brick", edge)),
        lambda: make_object("lines", edge, 7) / 3,
        lambda: np.exp(-(0.3 + 1j) * picture("cell", edge)),
        lambda: (0.3 + 0.7 * picture("astronaut", edge)) * np.exp(1j * picture("grass", edge)),
    )
    return np.asarray(kinds[number % len(kinds)]())


def scan_to_judge(dose: float, step: int, number: int, seed: int, size: int) -> Scan:
    """Cell ``number`` of a dose and a step; its probe, and whether the guess is true, change with it."""
    part = size / SIZE
    obj = held_out(number + 3 * DOSES.index(dose) + STEPS.index(step), round(EDGE * part))
    probe = make_probe(("zoneplate", "disk", "gaussian")[(number + STEPS.index(step)) % 3], size)
    positions = make_positions(
        "grid", obj.shape, size, step=step * part, jitter=0.1 * step * part, seed=seed + number
    )
    scan = simulate_scan(obj, probe, positions, photons=dose, seed=seed + 17 * number)
    return (
        replace(scan, probe=spoiled_probe(scan.probe, np.random.default_rng(number))) if number == 2 else scan
    )


def photographs(edge: int, rng: np.random.Generator) -> NDArray[np.complex128]:
    """Two pictures as amplitude and phase: errors on what pretraining draws say too little of other objects."""
    first, second = (picture(name, edge) for name in rng.choice(PICTURES, 2, replace=False))
    return np.asarray((1 - rng.uniform(0.1, 0.9) * first) * np.exp(1j * rng.uniform(-3, 3) * second))


def fitting_scan(number: int, seed: int) -> Scan:
    """Random object, probe, spacing and dose; from 40 on a low one, from 80 on frames close together, from 100 on
    photographs for the object.

    Every third probe guess is wrong, every sixth N is 64, and all from 208 on.
    """
    rng = np.random.default_rng((seed, number))
    size = 64 if number % 6 == 0 or number >= LARGE else 32
    edge = round(2.3 * size)
    closest, farthest = (24, 14) if DENSE <= number < PHOTOGRAPHED else (9, 2)
    step = float(np.exp(rng.uniform(np.log(size / closest), np.log(size / farthest))))
    positions = make_positions("grid", (edge, edge), size, step=step, jitter=0.1 * step, seed=number)
    obj = photographs(edge, rng) if number >= PHOTOGRAPHED else random_object(edge, rng)
    probe = random_probe(size, rng)
    exponent = rng.uniform(2.7, 4.2 if 40 <= number < DENSE else 9)
    scan = simulate_scan(obj, probe, positions, photons=10**exponent, seed=number)
    return replace(scan, probe=spoiled_probe(scan.probe, rng)) if number % 3 == 1 else scan


def sampled(name: str, edge: int) -> NDArray[np.float64]:
    """A picture of matplotlib's or scikit-image's that neither calibration nor :func:`held_out` uses, 0 to 1."""
    if name == "fault":
        image = cbook.get_sample_data("jacksboro_fault_dem.npz")["elevation"].astype(float)
    elif name == "head":
        with gzip.open(cbook.get_sample_data("s1045.ima.gz", asfileobj=False)) as stream:
            image = np.frombuffer(stream.read(), np.uint16).reshape(256, 256).astype(float)
    elif name == "hopper":
        image = io.imread(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).astype(float)
    else:
        image = io.imread(Path(data.__file__).with_name(f"{name}.png")).astype(float)
    image = image[..., :3].mean(-1) if image.ndim == 3 else image
    square = min(image.shape)
    image = transform.resize(image[:square, :square], (edge, edge), anti_aliasing=True)
    return np.asarray((image - image.min()) / np.ptp(image))


def other_object(rng: np.random.Generator, edge: int) -> NDArray[np.complex128]:
    """One of eight: portraits, terrain, a slice of a head, blocks as on a chip, other lines."""

    def blocks() -> NDArray[np.float64]:
        image = np.zeros((edge, edge))
        for _ in range(60):
            (top, left), (tall, wide) = rng.integers(0, edge, 2), rng.integers(2, 24, 2)
            image[top : top + tall, left : left + wide] = rng.random()
        return image

    kinds = (
        lambda: (0.5 + 0.5 * sampled("hopper", edge)) * np.exp(1.5j * sampled("fault", edge)),
        lambda: make_object("siemens", edge),
        lambda: np.exp((-0.4 + 1.8j) * sampled("head", edge)),
        lambda: (1 - 0.6 * sampled("motorcycle_left", edge)) * np.exp(1j * sampled("phantom", edge)),
        lambda: np.exp((-0.5 - 1j) * blocks()),
        lambda: (0.3 + 0.7 * sampled("microaneurysms", edge)) * np.exp(-1.4j * sampled("fault", edge)),
        lambda: make_object("lines", edge, int(rng.integers(1000))) / 3,
        lambda: np.exp(1.2j * sampled("horse", edge)) * (0.9 - 0.3 * sampled("fault", edge)),
    )
    return np.asarray(kinds[rng.integers(len(kinds))]())


def other_scan(dose: float, step: int, number: int, seed: int, size: int) -> Scan:
    """Of an object that nothing here was chosen by; any probe; every third probe guess is wrong."""
    part = size / SIZE
    rng = np.random.default_rng((seed, DOSES.index(dose), STEPS.index(step), number))
    obj = other_object(rng, round(EDGE * part))
    probe = random_probe(size, rng)
    if rng.random() < 0.6:
        probe = make_probe(("zoneplate", "disk", "gaussian")[rng.integers(3)], size)
    drawn = int(rng.integers(10_000))
    positions = make_positions(
        "grid", obj.shape, size, step=step * part, jitter=0.1 * step * part, seed=drawn
    )
    scan = simulate_scan(obj, probe, positions, photons=dose, seed=drawn + 1)
    return replace(scan, probe=spoiled_probe(scan.probe, rng)) if number == 2 else scan


# ------------------------------------------------------------------ cells
def cell(path: Path, scan: Scan, fresh: bool) -> dict[str, NDArray[Any]]:
    """Features and true errors of a scan's pixels, from its file or computed."""
    if path.exists() and not fresh:
        with np.load(path) as kept:
            return dict(kept)

    def solve(these: Scan) -> Any:
        return reconstruct(these, withhold=0.0, device="cpu")

    began = time.process_time()
    rec = solve(scan)
    alone = time.process_time() - began
    found = replicates(rec, scan, solve)
    whole = time.process_time() - began
    true = errors_against(rec, scan.object_guess)
    wrong = np.stack([true.amplitude, true.phase])
    near = np.sqrt(_nearby(wrong**2, rec.weight > 0))
    here = found.measured & np.isfinite(wrong).all(0)
    at = np.flatnonzero(here)
    at = np.sort(np.random.default_rng(0).choice(at, min(MOST, len(at)), replace=False))
    made = {
        "features": found.features.reshape(2, -1, here.size)[:, :, at],
        "errors": wrong.reshape(2, -1)[:, at],
        "near": near.reshape(2, -1)[:, at],
        "seconds": np.array([alone, whole]),
        "size": np.array([np.median(np.abs(rec.object[here]))]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **made)
    return made


def _nearby(values: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    values = np.nan_to_num(values)
    top = np.stack([ndimage.gaussian_filter(part * known, 2.0) for part in values])
    return np.asarray(top / np.maximum(ndimage.gaussian_filter(known.astype(np.float32), 2.0), 1e-6))


def calibrate(cells: Sequence[dict[str, NDArray[Any]]], arguments: Any, each: int = 80) -> Calibration:
    """Weights from ``each`` pixels of every cell."""
    parts = []
    for channel in range(2):
        features = np.concatenate([c["features"][channel][:, :: _every(c, each)].T for c in cells])
        errors = np.concatenate([c["errors"][channel][:: _every(c, each)] for c in cells])
        parts.append(fitted(features, errors))
    provenance = {
        "command": "python benchmarks/uncertainty.py --fit",
        "date": time.strftime("%Y-%m-%d"),
        "scans": f"{len(cells)} of random objects and probes of the kinds that pretraining draws, and of photographs,"
        f" seed {arguments.seed}",
        "solver": "reconstruct, its defaults, nothing withheld",
    }
    return Calibration(np.array(parts), provenance)


def _every(one: dict[str, NDArray[Any]], each: int) -> int:
    return max(1, one["errors"].shape[1] // each)


def sigma_of(one: dict[str, NDArray[Any]], calibration: Calibration) -> NDArray[np.float64]:
    """Sigma of the kept pixels, (2, K)."""
    return calibration.of(one["features"])


def judged(one: dict[str, NDArray[Any]], calibration: Calibration) -> dict[str, Any]:
    """Figures of one cell."""
    row: dict[str, Any] = {}
    for name, sigma, errors, near in zip(
        CHANNELS, sigma_of(one, calibration), one["errors"], one["near"], strict=True
    ):
        row |= {
            f"{name} covered": float(np.mean(np.abs(errors) <= NORMAL * sigma)),
            f"{name} rms error": float(np.sqrt(np.mean(errors**2))),
            f"{name} rank": float(spearmanr(sigma, np.abs(errors))[0]),
            f"{name} rank, 2 px": float(spearmanr(sigma, near)[0]),
        }
    alone, whole = one["seconds"]
    return row | {"seconds": float(alone), "cost": float(whole / alone)}


def pooled(
    cells: Sequence[dict[str, NDArray[Any]]], calibration: Calibration
) -> tuple[dict[str, Any], list[NDArray[np.float64]]]:
    """Figures over all cells, as many pixels of each; and (2, K) sigma and error of each channel."""
    least = min(one["errors"].shape[1] for one in cells)
    row: dict[str, Any] = {"cells": len(cells)}
    kept = []
    for channel, name in enumerate(CHANNELS):
        sigma = np.concatenate([sigma_of(one, calibration)[channel][:least] for one in cells])
        errors = np.concatenate([np.abs(one["errors"][channel][:least]) for one in cells])
        near = np.concatenate([one["near"][channel][:least] for one in cells])
        row |= {
            f"{name} covered": float(np.mean(errors <= NORMAL * sigma)),
            f"{name} rank": float(spearmanr(sigma, errors)[0]),
            f"{name} rank, 2 px": float(spearmanr(sigma, near)[0]),
            f"{name} rank of 2 px and pixel": float(spearmanr(near, errors)[0]),
        }
        kept.append(np.stack([sigma, errors]))
    return row | {"cost": float(np.median([one["seconds"][1] / one["seconds"][0] for one in cells]))}, kept


# ------------------------------------------------------------------ the star
def halves(path: Path, arguments: Any) -> dict[str, NDArray[Any]]:
    """Features of an image from half of the frames, and its difference from the other half's; kept or computed."""
    if path.exists() and not arguments.fresh:
        with np.load(path) as kept:
            return dict(kept)
    scan = open_scan(arguments.shared / "data/siemens_star_aps.npz")
    scan = scan.select(np.arange(0, scan.n_frames, 8 if arguments.quick else 1))
    first, second = scan.halves()

    def solve(these: Scan) -> Any:
        return reconstruct(these, withhold=0.0, device="cpu")

    rec, other = solve(first), solve(second)
    found = replicates(rec, first, solve)
    wrong = errors_against(rec, other.object, other.origin_xy)
    made = {
        "features": found.features,
        "wrong": np.stack([wrong.amplitude, wrong.phase]),
        "middle": rec.weight > 0.3 * rec.weight.max(),
        "frames": np.array(first.n_frames),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **made)
    return made


def star(made: dict[str, NDArray[Any]], calibration: Calibration) -> tuple[list[dict[str, Any]], Figure]:
    """Sigma of half of the frames, times the root of two, against the difference of both halves; and their maps."""
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    grid = figure.subplots(2, 2)
    rows = []
    for name, bar, difference, axes in zip(
        CHANNELS, np.sqrt(2) * calibration.of(made["features"]), made["wrong"], grid, strict=True
    ):
        here = made["middle"] & np.isfinite(difference)
        size = np.abs(difference)
        near = np.sqrt(_nearby(np.nan_to_num(difference)[None] ** 2, here)[0])
        rows.append(
            {
                "frames": int(made["frames"]),
                "what": name,
                "rms difference": float(np.sqrt(np.mean(size[here] ** 2))),
                "median sigma of the difference": float(np.median(bar[here])),
                "covered": float(np.mean(size[here] <= NORMAL * bar[here])),
                "rank": float(spearmanr(bar[here], size[here])[0]),
                "rank, 2 px": float(spearmanr(bar[here], near[here])[0]),
            }
        )
        for one, image, title in zip(axes, (size, bar), ("difference of halves", "sigma of it"), strict=True):
            shown = one.imshow(np.where(here, image, np.nan), vmin=0, vmax=np.quantile(size[here], 0.98))
            one.set(title=f"{name}: {title}", xticks=[], yticks=[])
        figure.colorbar(shown, ax=axes)
    return rows, figure


# ------------------------------------------------------------------ figure
def figure(
    kept: Sequence[NDArray[np.float64]], cells: Sequence[dict[str, NDArray[Any]]], calibration: Calibration
) -> Figure:
    """Reliability: how often errors lie within an interval of a stated level; and error against sigma."""
    made = Figure(figsize=(9, 4), layout="constrained")
    left, right = made.subplots(1, 2)
    levels = np.linspace(0.05, 0.99, 48)
    bars = norm.ppf(0.5 + levels / 2)
    for channel, (name, colour) in enumerate(zip(CHANNELS, ("#0072b2", "#d55e00"), strict=True)):
        for one in cells:
            ratio = np.abs(one["errors"][channel]) / sigma_of(one, calibration)[channel]
            left.plot(levels, [np.mean(ratio <= bar) for bar in bars], color=colour, lw=0.4, alpha=0.35)
        sigma, errors = kept[channel]
        left.plot(levels, [np.mean(errors <= bar * sigma) for bar in bars], color=colour, lw=2, label=name)
        order = np.array_split(np.argsort(sigma), 25)
        right.plot(
            [np.median(sigma[part]) * NORMAL for part in order],
            [np.quantile(errors[part], 0.9) for part in order],
            "o-",
            ms=3,
            color=colour,
            label=name,
        )
    left.plot([0, 1], [0, 1], "k:", lw=1)
    left.set(xlabel="stated level of the interval", ylabel="part of the pixels inside")
    left.set_title("Thin: single scans; thick: all", fontsize=10)
    line = np.array(right.get_xlim())
    right.plot(line, line, "k:", lw=1)
    right.set(
        xscale="log", yscale="log", xlabel="1.645 sigma", ylabel="true error that nine of ten do not exceed"
    )
    right.set_title("Amplitude, and phase in radians", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    return made


def main() -> None:
    made = parser(__doc__)
    made.add_argument(
        "--fit", action="store_true", help="calibrate first, and write the package's calibration.json"
    )
    made.add_argument("--size", type=int, default=SIZE, help="N of the frames; default: 64")
    made.add_argument("--others", action="store_true", help="judge by other objects and probes")
    made.add_argument("--star", action="store_true", help="the measured star only")
    made.add_argument("--fresh", action="store_true", help="compute cells anew")
    arguments = made.parse_args()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    state = hashlib.sha256(shipped_bundle().read_bytes() + repr(FEATURES).encode()).hexdigest()[:8]
    folder = arguments.output / f"uncertainty-cells-{state}"
    calibration = shipped_calibration() if not arguments.fit else _fit(folder, arguments)
    if arguments.star:
        parts, maps = star(halves(folder / f"star{'-quick' * arguments.quick}.npz", arguments), calibration)
        print(table(parts), keep("uncertainty-star", arguments, {"rows": parts}), sep="\n")
        maps.savefig(arguments.output / "uncertainty-star.png", dpi=110)
        return
    doses, steps, objects = (DOSES, STEPS, 3) if not arguments.quick else ((1e3, 1e7), (28,), 1)
    rows, cells = [], []
    for dose in doses:
        for step in steps:
            for number in range(objects):
                drawn = other_scan if arguments.others else scan_to_judge
                scan = drawn(dose, step, number, arguments.seed + 1000, arguments.size)
                kind = "other-" if arguments.others else ""
                name = f"{kind}{arguments.size}-{dose:.0e}-{step}-{number}-{arguments.seed}.npz"
                cells.append(cell(folder / name, scan, arguments.fresh))
                place = {
                    "N": arguments.size,
                    "photons": dose,
                    "step": step * arguments.size / SIZE,
                    "object": number,
                    "frames": scan.n_frames,
                }
                rows.append(place | judged(cells[-1], calibration))
                print(rows[-1], flush=True)
    total, kept = pooled(cells, calibration)
    print(table(rows), table([total]), sep="\n")
    results = {"rows": [*rows, {"photons": "all", **total}], "calibration": calibration.provenance}
    title = "uncertainty-others" if arguments.others else "uncertainty"
    print(keep(title, arguments, results))
    figure(kept, cells, calibration).savefig(arguments.output / f"{title}.png", dpi=120)


def _fit(folder: Path, arguments: Any) -> Calibration:
    numbers = FITTED[::7] if arguments.quick else FITTED
    cells = []
    for number in numbers:
        name = f"fit-{number}-{arguments.seed}.npz"
        cells.append(cell(folder / name, fitting_scan(number, arguments.seed), arguments.fresh))
        print(f"calibrating: {len(cells)} of {len(numbers)}", flush=True)
    calibration = calibrate(cells, arguments)
    print(calibration.text())
    if not arguments.quick:
        write_text_atomic(Path(home.__file__).with_name("calibration.json"), calibration.text())
    return calibration


if __name__ == "__main__":
    main()
