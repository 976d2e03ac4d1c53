"""Draws the manual's pictures into docs/images, from simulations and from the source itself.

    python docs/tools/pictures.py            # all
    python docs/tools/pictures.py floors     # those named

Every picture can be made again on two cores in a minute or two; the same seed gives the same picture.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ptycho_torch import reconstruct
from ptycho_torch.report.figures import reconstruction_figure
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan, open_scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.solvers import SOLVERS, LearnedOptions, RefineOptions
from ptycho_torch.solvers.residual import residual

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs/images"
SIZE, EDGE, STEP, PHOTONS = 64, 208, 8.0, 1e6


def star(probe: str = "zoneplate", step: float = STEP, jitter: float = 1.0, photons: float = PHOTONS) -> Scan:
    """A scan of a Siemens star that overlaps well and is explained to the last photon."""
    obj = make_object("siemens", EDGE, 0)
    positions = make_positions("grid", obj.shape, SIZE, step=step, jitter=jitter, seed=0)
    return simulate_scan(obj, make_probe(probe, SIZE), positions, photons=photons, seed=0)


def show(axes: Axes, image: NDArray[Any], title: str, **how: Any) -> None:
    axes.imshow(image, **{"cmap": "gray", "interpolation": "nearest", **how})
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def save(figure: Figure, name: str) -> None:
    """As a PNG of 256 colours, a third of the size of one with all."""
    FigureCanvasAgg(figure)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    path = IMAGES / f"{name}.png"
    Image.open(drawn).convert("RGB").quantize(256).save(path, optimize=True)
    print(path.relative_to(ROOT), f"{path.stat().st_size / 1e3:.0f} kB", flush=True)


def new(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def central(rec: Reconstruction, values: NDArray[Any]) -> NDArray[Any]:
    """The part of a canvas that is lit, without the border where few frames lie."""
    lit = rec.weight > 0.1 * rec.weight.max()
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    return values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def phase(rec: Reconstruction) -> NDArray[np.float64]:
    """Phase about its mean over what is lit."""
    mean = np.angle((rec.object * rec.weight).sum())
    return central(rec, np.angle(rec.object * np.exp(-1j * mean)))


def side_by_side(name: str, panels: Mapping[str, tuple[Scan, Reconstruction]]) -> None:
    """Amplitude above phase, one column for each reconstruction, with its residual."""
    figure = new(2.3 * len(panels), 5.0)
    axes = figure.subplots(2, len(panels))
    for (title, (_, rec)), column in zip(panels.items(), axes.T, strict=True):
        shown = central(rec, np.abs(rec.object))
        low, high = np.quantile(shown, [0.005, 0.995])
        show(column[0], shown, f"{title}\nR = {rec.residual:.2g}", vmin=low, vmax=high)
        show(column[1], phase(rec), "", cmap="cividis", vmin=-1.2, vmax=1.2)
    axes[0, 0].set_ylabel("amplitude", fontsize=9)
    axes[1, 0].set_ylabel("phase", fontsize=9)
    save(figure, name)


def solved(scan: Scan, refine: int | None = None) -> tuple[Scan, Reconstruction]:
    return scan, reconstruct(scan, withhold=0.0, refine=refine)


def swept(scan: Scan, start: Reconstruction | None = None, **options: Any) -> tuple[Scan, Reconstruction]:
    """Sweeps of the iterative solver, from a flat object unless a reconstruction is given."""
    rec = SOLVERS.get("epie")("cpu").solve(scan, start, RefineOptions(**options))
    return scan, replace(rec, residual=residual(rec, scan))


def failures() -> None:
    """What typical mistakes look like, beside the same scan without them."""
    good = star()
    x, y = good.positions.T
    right = solved(good)
    middle = good.positions.mean(0)
    frames = np.asarray(good.frames[:])
    side_by_side(
        "trouble-positions",
        {
            "as it should be": right,
            "x and y exchanged": solved(replace(good, positions=np.stack([y, x], 1))),
            "sign of y wrong": solved(replace(good, positions=np.stack([x, 2 * middle[1] - y], 1))),
            "10 % too far apart": solved(replace(good, positions=(good.positions - middle) * 1.1 + middle)),
        },
    )
    noisy = replace(good, positions=good.positions + np.random.default_rng(1).normal(0, 1.5, (len(x), 2)))
    side_by_side(
        "trouble-jitter",
        {
            "as it should be": right,
            "positions off by 1.5 px": solved(noisy),
            "the same, refined": swept(noisy, swept(noisy, sweeps=20)[1], sweeps=60, update_positions=True),
        },
    )
    hot = frames.copy()
    hot[:, 20, 40] = hot[:, 41, 12] = frames.max() * 3
    good_pixels = np.ones((SIZE, SIZE), dtype=bool)
    good_pixels[20, 40] = good_pixels[41, 12] = False
    side_by_side(
        "trouble-frames",
        {
            "counts read as amplitude": solved(replace(good, frames=(frames**2).astype(np.float32))),
            "zero frequency in the corner": solved(replace(good, frames=np.fft.fftshift(frames, (1, 2)))),
            "two hot pixels": solved(replace(good, frames=hot)),
            "the same, masked": solved(replace(good, frames=hot, good_pixels=good_pixels)),
        },
    )


def conditions() -> None:
    """What the measurement itself leaves open: photons, overlap, a regular grid, the probe."""
    good = star()
    side_by_side(
        "trouble-measurement",
        {
            "as it should be": solved(good),
            "1,000 photons a frame": solved(star(photons=1e3)),
            "100 photons a frame": solved(star(photons=1e2)),
            "frames 40 px apart": solved(star(step=40.0)),
        },
    )
    assert good.probe is not None
    unknown, flat = replace(good, probe=None), replace(good, probe=np.abs(good.probe).astype(np.complex64))
    side_by_side(
        "trouble-probe",
        {
            "true probe": solved(good),
            "no guess": solved(unknown),
            "no guess, --refine 100": solved(unknown, 100),
            "phase missing, --refine 100": solved(flat, 100),
        },
    )


def solver() -> None:
    """The learned solver's image after so many iterations, then sweeps; frames 20 px apart."""
    scan = star(step=20.0)
    learned = SOLVERS.get("learned")("cpu")
    panels: dict[str, tuple[Scan, Reconstruction]] = {}
    for count in (1, 2, 5, 10):
        rec = learned.solve(scan, None, LearnedOptions(sweeps=count))
        rec = replace(rec, residual=residual(rec, scan))
        panels[f"{count} iteration{'s' * (count > 1)}"] = scan, rec
    panels["10, then 30 sweeps"] = solved(scan)
    side_by_side("solver-iterations", panels)


def physics() -> None:
    """Object, probe, exit wave, frame."""
    scan = star()
    assert scan.probe is not None
    assert scan.object_guess is not None
    index = int(np.argmin(np.abs(scan.positions - [132, 92]).sum(1)))
    x, y = np.rint(scan.positions[index]).astype(int)
    half = SIZE // 2
    patch = scan.object_guess[y - half : y + half, x - half : x + half]
    wave = scan.probe[0] / np.abs(scan.probe[0]).max()
    figure = new(9.6, 2.6)
    first, *rest = figure.subplots(1, 4)
    show(first, np.angle(scan.object_guess), "object $O$ (phase) and positions $r_m$", cmap="cividis")
    first.scatter(*scan.positions.T, s=0.6, c="white")
    first.add_patch(_square(x - half, y - half))
    show(rest[0], np.abs(wave), "probe $|P|$")
    show(rest[1], np.abs(wave * patch), r"exit wave $|\psi_m| = |P\,O_m|$")
    show(
        rest[2],
        np.log10(np.asarray(scan.frames[index]) ** 2 + 1),
        r"frame $|\mathcal{F}\psi_m|^2$, log counts",
    )
    save(figure, "physics")


def _square(x: float, y: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), SIZE, SIZE, fill=False, edgecolor="#d55e00", linewidth=1.4)


def gauges() -> None:
    """Four objects that give the same frames, each with a probe of its own."""
    obj = np.pad(make_object("siemens", EDGE - 40, 0), 20, constant_values=1)
    y, x = np.mgrid[:EDGE, :EDGE]
    moved = {
        "object": obj,
        "phase: $e^{i\\varphi} O$": obj * np.exp(0.8j),
        "scale: $a\\,O$, $P/a$": obj * 1.25,
        "ramp: $e^{ikr} O$, $e^{-ikr} P$": obj
        * np.exp(1j * (0.012 * (x - EDGE / 2) + 0.006 * (y - EDGE / 2))),
        "shift: $O(r-d)$, $P(r-d)$": np.roll(obj, (8, 16), (0, 1)),
    }
    figure = new(11, 4.8)
    for (title, values), column in zip(moved.items(), figure.subplots(2, len(moved)).T, strict=True):
        show(column[0], np.abs(values), title, vmin=0.6, vmax=1.3)
        show(column[1], np.angle(values), "", cmap="cividis", vmin=-2, vmax=2)
    figure.axes[0].set_ylabel("amplitude", fontsize=9)
    figure.axes[len(moved)].set_ylabel("phase", fontsize=9)
    save(figure, "gauges")


def floors() -> None:
    """The floors from the top one down; a dot where a floor imports from another, counted from the source."""
    sys.path.insert(0, str(ROOT / "tests"))
    from test_floors import ARROWS, FLOORS, NO_TORCH, floor

    names = [name for name in reversed(FLOORS) if any(floor(module) == name for module in ARROWS)]
    place = {name: index for index, name in enumerate(names)}
    used = Counter((floor(module), floor(target)) for module, targets in ARROWS.items() for target in targets)
    figure = new(8.6, 7.4)
    axes = figure.subplots()
    axes.fill(
        [-0.5, len(names) - 0.5, -0.5], [-0.5, len(names) - 0.5, len(names) - 0.5], color="#f3efe6", lw=0
    )
    for (above, below), count in used.items():
        own = above == below
        axes.scatter(
            place[below],
            place[above],
            s=12 + 9 * min(count, 30),
            color="#cccccc" if own else "#0072b2",
            alpha=0.9,
            linewidth=0,
        )
    shown = [name or "ptycho_torch" for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=60, ha="left", fontsize=8)
    axes.set_yticks(range(len(names)), shown, fontsize=8)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for name, label in zip(names, labels, strict=True):
            label.set_color("#00734f" if name in NO_TORCH else "black")
    axes.xaxis.tick_top()
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_aspect("equal")
    axes.text(
        1.0,
        len(names) - 2.2,
        "here an import would go up:\nnone may, and none does",
        fontsize=9,
        style="italic",
    )
    save(figure, "floors")


def first_image() -> None:
    """What the quick start's two commands show."""
    figure = reconstruction_figure(solved(star())[1])
    save(figure, "first-image")


def measured() -> None:
    """The README's picture; needs the measured star beside the project, in shared/data."""
    scan = open_scan(ROOT.parent / "shared/data/siemens_star_aps.npz")
    rec = reconstruct(scan)
    print(
        f"{scan.n_frames} frames, {rec.seconds:.1f} s, R {rec.residual:.4f}, {rec.residual_withheld:.4f} withheld"
    )
    figure = new(10.5, 3.7)
    first, second, third = figure.subplots(1, 3)
    middle = int(np.argmin(((scan.positions - scan.positions.mean(0)) ** 2).sum(1)))
    show(first, np.log10(np.asarray(scan.frames[middle]) ** 2 + 1), "one frame, log counts", cmap="magma")
    shown = central(rec, np.abs(rec.object))
    low, high = np.quantile(shown, [0.005, 0.995])
    show(second, shown, "amplitude", vmin=low, vmax=high)
    shown = phase(rec)
    low, high = np.quantile(shown, [0.005, 0.995])
    show(third, shown, "phase", cmap="cividis", vmin=low, vmax=high)
    save(figure, "readme")


PICTURES: dict[str, Callable[[], None]] = {
    made.__name__: made
    for made in (first_image, physics, gauges, solver, failures, conditions, floors, measured)
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="*", choices=[*PICTURES, []], help="pictures to draw; default: all")
    for name in parser.parse_args().name or PICTURES:
        PICTURES[name]()


if __name__ == "__main__":
    main()
