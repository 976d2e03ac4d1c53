"""The `generalise` benchmark: probes and objects of kinds that no pretraining has seen, at three frame sizes.

    python benchmarks/generalise.py
    python benchmarks/generalise.py --sizes 64 --spacing 0.4 --known

Six probes by six objects by N = 64, 128, 256. The default `reconstruct`, without training, beside sweeps of `epie` from
a flat object: as many as asked for, and as many as go into the same time. All start from the same frames,
positions and probe guess, which is the true probe spoiled by defocus, size or blur (`--known`: the true one). The
error is |o - truth| rms over |truth| rms after ramp, shift and one factor, which a blind reconstruction leaves open.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom
from skimage import color, data, transform

from harness import keep, parser, table
from lines_data import lcls_probe
from ptycho_torch.evaluation.alignment import align
from ptycho_torch.evaluation.reference import Reference, as_reference
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan, open_scan
from ptycho_torch.simulation import make_object, make_probe, simulate_scan
from ptycho_torch.simulation.variety import spoiled_probe
from ptycho_torch.solvers import SOLVERS, RefineOptions
from ptycho_torch.workflows.solving import reconstruct

SIDE = {64: 12, 128: 8, 256: 6}
"""Frames along each side of a scan."""
Complex = NDArray[np.complex128]


# ------------------------------------------------------------------ probes
def _polar(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.indices((size, size)) - size // 2
    return np.hypot(x, y) / size, np.arctan2(y, x)


def vortex(size: int) -> Complex:
    """A ring whose phase winds once around, a little curved."""
    radius, angle = _polar(size)
    return np.asarray(radius * np.exp(-((radius / 0.13) ** 2) + 1j * angle + 40j * radius**2))


def two_beams(size: int) -> Complex:
    """Two spots side by side with a phase between them, as of a split beam."""
    y, x = (np.indices((size, size)) - size // 2) / size
    spot = [np.exp(-((x - s) ** 2 + y**2) / 0.06**2 + 30j * ((x - s) ** 2 + y**2)) for s in (-0.11, 0.11)]
    return np.asarray(spot[0] + 0.8j * spot[1])


def resized(probe: NDArray[Any], size: int) -> Complex:
    """A measured probe on another number of pixels."""
    factor = size / probe.shape[-1]
    return np.asarray(zoom(probe.real, factor, order=1) + 1j * zoom(probe.imag, factor, order=1))


def probes(arguments: Any) -> dict[str, Callable[[int], Complex]]:
    """Each probe by name, as a function of N."""
    folder = arguments.shared / "data"
    found: dict[str, Callable[[int], Complex]] = {
        "zone plate": lambda n: make_probe("zoneplate", n)[0].astype(complex),
        "disk": lambda n: make_probe("disk", n)[0].astype(complex),
        "vortex": vortex,
        "two beams": two_beams,
    }
    if (folder / "run1084_probe_object_positions.npz").exists():
        lcls = lcls_probe(folder / "run1084_probe_object_positions.npz")
        found["LCLS"] = lambda n: resized(lcls, n)
    if (folder / "siemens_star_aps.npz").exists():
        star = open_scan(folder / "siemens_star_aps.npz").probe
        assert star is not None
        found["APS star's"] = lambda n: resized(star[0], n)
    return found


# ------------------------------------------------------------------ objects
def _picture(image: NDArray[Any], edge: int) -> NDArray[np.float64]:
    grey = color.rgb2gray(image) if image.ndim == 3 else image / (255.0 if image.dtype == np.uint8 else 1.0)
    short = min(grey.shape)
    return np.asarray(transform.resize(grey[:short, :short], (edge, edge), anti_aliasing=True))


OBJECTS: dict[str, Callable[[int], Complex]] = {
    "lines": lambda n: make_object("lines", n, 5).astype(complex),
    "siemens": lambda n: make_object("siemens", n, 0).astype(complex),
    "camera, coins": lambda n: (
        (0.6 + 0.4 * _picture(data.camera(), n)) * np.exp(1.2j * _picture(data.coins(), n))
    ),
    "page, phase": lambda n: np.exp(-1.5j * _picture(data.page(), n)),
    "cat, bright": lambda n: (
        (0.2 + 2.5 * _picture(data.chelsea(), n)) * np.exp(0.3j * _picture(data.moon(), n))
    ),
    "brick, strong": lambda n: (
        (0.7 + 0.3 * _picture(data.grass(), n)) * np.exp(4j * _picture(data.brick(), n))
    ),
}
"""From lines' amplitude alone to phases over more than half the circle, and transmissions up to 2.7."""


# ------------------------------------------------------------------ one cell
def scan_of(obj: Complex, probe: Complex, size: int, arguments: Any) -> Scan:
    """A jittered grid of frames; its probe is the guess."""
    step = arguments.spacing * size
    line = size / 2 + 2 + np.arange(arguments.side or SIDE[size]) * step
    rng = np.random.default_rng([arguments.seed, size])
    positions = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    positions += rng.uniform(-0.15 * step, 0.15 * step, positions.shape)
    wave = (probe / np.linalg.norm(probe))[None].astype(np.complex64)
    scan = simulate_scan(
        obj, wave, positions.clip(size / 2, None), photons=arguments.photons, seed=arguments.seed
    )
    return scan if arguments.known else replace(scan, probe=spoiled_probe(wave, rng))


def error(rec: Reconstruction, truth: NDArray[Any]) -> float:
    light = gaussian_filter(rec.weight, rec.probe.shape[-1] / 16)  # no holes of a few pixels
    lit = (light > 0.05 * np.quantile(light, 0.95)).astype(np.float32)
    both = align(replace(as_reference(rec), weight=lit), Reference(truth, np.ones(truth.shape, np.float32)))
    o, r = both.image[both.region], both.reference[both.region]
    factor = np.vdot(o, r) / np.vdot(o, o)
    return float(np.linalg.norm(factor * o - r) / np.linalg.norm(r))


def cell(scan: Scan, sweeps: int) -> dict[str, Any]:
    """Errors and seconds of the ways to one image."""
    truth = scan.object_guess
    assert truth is not None
    began = time.monotonic()
    learned = reconstruct(scan, withhold=0.0, device="cpu")
    seconds = time.monotonic() - began
    epie = SOLVERS.get("epie")("cpu")
    same = epie.solve(scan, None, RefineOptions(sweeps=100_000, minutes=seconds / 60, tolerance=0.0))
    began = time.monotonic()
    long = epie.solve(scan, None, RefineOptions(sweeps=sweeps, tolerance=0.0))
    long_seconds = time.monotonic() - began
    errors = {
        "error, reconstruct": error(learned, truth),
        "error, same time": error(same, truth),
        f"error, {sweeps} sweeps": error(long, truth),
    }
    ours, *others = errors.values()
    return errors | {
        "ratio": ours / min(others),
        "seconds, reconstruct": seconds,
        "sweeps in the same time": same.sweeps,
        f"seconds, {sweeps} sweeps": long_seconds,
    }


def summary(rows: list[dict[str, Any]], sweeps: int) -> list[dict[str, Any]]:
    """Median and worst of each way, by frame size."""
    made = []
    for size in dict.fromkeys(row["N"] for row in rows):
        mine = [row for row in rows if row["N"] == size]
        line: dict[str, Any] = {"N": size, "cells": len(mine)}
        for name in ("reconstruct", "same time", f"{sweeps} sweeps"):
            values = [row[f"error, {name}"] for row in mine]
            line |= {f"median, {name}": statistics.median(values), f"worst, {name}": max(values)}
        line["cells over 10 % worse than the better sweeps"] = sum(row["ratio"] > 1.1 for row in mine)
        line["median seconds, reconstruct"] = statistics.median(row["seconds, reconstruct"] for row in mine)
        made.append(line)
    return made


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Error of `reconstruct` over that of the better sweeps, cell by cell."""
    sizes = list(dict.fromkeys(row["N"] for row in rows))
    made = Figure(figsize=(1 + 4.4 * len(sizes), 4.2), layout="constrained")
    names = (
        list(dict.fromkeys(row["probe"] for row in rows)),
        list(dict.fromkeys(row["object"] for row in rows)),
    )
    for axes, size in zip(np.atleast_1d(made.subplots(1, len(sizes))), sizes, strict=True):
        grid = np.full((len(names[0]), len(names[1])), np.nan)
        for row in rows:
            if row["N"] == size:
                grid[names[0].index(row["probe"]), names[1].index(row["object"])] = row["ratio"]
        drawn = axes.imshow(np.log2(grid), cmap="PuOr_r", vmin=-1.5, vmax=1.5)
        for (i, j), value in np.ndenumerate(grid):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
        axes.set_xticks(range(len(names[1])), names[1], rotation=40, ha="right")
        axes.set_yticks(range(len(names[0])), names[0])
        axes.set_title(f"N = {size}", fontsize=10)
    made.colorbar(drawn, ax=made.axes, label="log2 of error, reconstruct over sweeps", fraction=0.03)
    return made


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    made.add_argument("--spacing", type=float, default=0.3, help="distance of frames over N")
    made.add_argument("--photons", type=float, default=1e7)
    made.add_argument("--sweeps", type=int, default=60)
    made.add_argument("--side", type=int, default=None, help="frames along each side; default 12, 8, 6 by N")
    made.add_argument("--known", action="store_true", help="start from the true probe")
    arguments = made.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    waves, objects = probes(arguments), dict(OBJECTS)
    if arguments.quick:
        arguments.sizes, arguments.side, arguments.sweeps = [64], 6, 20
        waves = {name: waves[name] for name in ("zone plate", "vortex")}
        objects = {name: objects[name] for name in ("lines", "camera, coins")}
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes:
        edge = int(size + 6 + arguments.spacing * size * ((arguments.side or SIDE[size]) - 0.5))
        for what, obj in objects.items():
            for name, wave in waves.items():
                scan = scan_of(obj(edge), wave(size), size, arguments)
                rows.append({"N": size, "probe": name, "object": what, **cell(scan, arguments.sweeps)})
                shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}
                print(shown, flush=True)
    short = summary(rows, arguments.sweeps)
    print(table(short))
    name = "generalise" + ("-known" if arguments.known else "")
    print(keep(name, arguments, {"rows": short, "cells": rows}))
    figure(rows).savefig(arguments.output / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
