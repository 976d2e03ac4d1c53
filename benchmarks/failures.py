"""The `failures` benchmark: how much of each cause spoils an image, one at a time, peers in the same run.

    python benchmarks/failures.py                            # all; goes on where it was stopped
    python benchmarks/failures.py --only overlap photons     # some causes
    python benchmarks/failures.py --peer PYTHON              # also pty-chi's LSQML, which that interpreter can import

Zone-plate probe, N = 64, 36 frames 12 px apart, 1e6 photons, true probe as guess and true positions, unless the
cause says otherwise. Objects are never pretrained on; every seed has another one, other noise and other positions.
Error: |o - truth| rms over |truth| rms where frames light the object, after ramp, shift, phase and scale are taken
off.

`reconstruct`: this package's default. `learned`: that solver alone. `sweeps`: 60 sweeps of epie from a flat object.
`and positions`: reconstruct, then 60 sweeps that refine positions, too. `and held probe`: the same with the guess of
the probe as it is until the 31st of these sweeps. `one mode`: reconstruct with only the first of the probe's modes
for a guess. Every image is a line of ``failures.jsonl`` in the output folder; lines made with other shipped weights
or another version count as missing.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import fft, ndimage

import ptycho_torch
from harness import keep, over_seeds, parser, table
from ptycho_torch import reconstruct
from ptycho_torch.bundle.shipped import shipped_bundle
from ptycho_torch.result import Reconstruction, load_reconstruction, save_reconstruction
from ptycho_torch.scan import Scan, open_scan, write_scan
from ptycho_torch.simulation import make_positions, make_probe, simulate_scan
from ptycho_torch.simulation.variety import random_probe
from ptycho_torch.solvers import SOLVERS, EngineOptions, LearnedOptions, RefineOptions
from ptycho_torch.uncertainty import relative_error
from uncertainty import SIZE, held_out

MOST = 144
"""Frames of a scan at most, the innermost ones."""


# ------------------------------------------------------------------ causes
@dataclass(frozen=True)
class Case:
    """A scan to be spoiled: ``probe`` is the true one, ``guess`` what solvers get, None for the true one."""

    step: float = 12.0
    photons: float = 1e6
    probe: NDArray[Any] = field(default_factory=lambda: make_probe("zoneplate", SIZE))
    guess: NDArray[Any] | None = None
    moved: float = 0.0
    background: float = 0.0
    good: NDArray[np.bool_] | None = None


def defocused(distance: float) -> Case:
    """The guess propagated by ``distance`` frames: the highest frequency moves half a frame for 1."""
    y = fft.fftfreq(SIZE, 1 / SIZE)[:, None]
    turn = np.exp(1j * np.pi * distance * (y**2 + y.T**2) / SIZE)
    return Case(guess=fft.ifft2(fft.fft2(Case().probe) * turn))


def resized(factor: float) -> Case:
    wave, middle = Case().probe[0], SIZE // 2
    parts = [
        ndimage.affine_transform(part, [1 / factor] * 2, middle - middle / factor, order=3)
        for part in (wave.real, wave.imag)
    ]
    return Case(guess=(parts[0] + 1j * parts[1])[None])


def shifted(pixels: int) -> Case:
    return Case(guess=np.roll(Case().probe, (pixels, -pixels), (1, 2)))


def with_bad_pixels(part: float) -> Case:
    return Case(good=np.random.default_rng(5).random((SIZE, SIZE)) >= part)


def with_beam_stop(radius: float) -> Case:
    y, x = np.indices((SIZE, SIZE)) - SIZE // 2
    return Case(good=np.hypot(x, y) >= radius)


def with_modes(count: int) -> Case:
    return Case(probe=random_probe(SIZE, np.random.default_rng(11), int(count)))


CAUSES: dict[str, tuple[str, Sequence[float], Callable[[Any], Case]]] = {
    "overlap": ("distance of frames, px", (3, 6, 12, 24, 36, 48), lambda v: Case(step=v)),
    "photons": ("photons per frame", (1e3, 1e4, 1e5, 1e6, 1e7, 1e9), lambda v: Case(photons=v)),
    "defocus": ("defocus of the probe guess, frame sizes", (0, 0.1, 0.2, 0.4, 0.8), defocused),
    "size": ("size of the probe guess over the true one", (0.6, 0.8, 1, 1.25, 1.6), resized),
    "shift": ("shift of the probe guess along both axes, px", (0, 1, 2, 4, 8), shifted),
    "positions": ("error of positions, px rms", (0, 0.5, 1, 2, 4), lambda v: Case(moved=v)),
    "bad-pixels": ("part of the detector's pixels that is bad", (0, 0.01, 0.05, 0.2, 0.5), with_bad_pixels),
    "beam-stop": ("radius of the beam stop, px", (0, 1, 2, 4, 8), with_beam_stop),
    "modes": ("modes of the probe", (1, 2, 3, 4), with_modes),
    "background": ("background, photons per pixel", (0, 0.1, 1, 10, 100), lambda v: Case(background=v)),
}
LOGARITHMIC = {"overlap", "photons", "size"}


def scan_of(case: Case, seed: int) -> Scan:
    obj = held_out(seed)
    positions = make_positions("grid", obj.shape, SIZE, step=case.step, jitter=0.1 * case.step, seed=seed)
    distance = ((positions - positions.mean(0)) ** 2).sum(1)
    positions = positions[np.sort(np.argsort(distance)[:MOST])]
    scan = simulate_scan(obj, case.probe, positions, photons=case.photons, seed=seed + 1)
    rng = np.random.default_rng(seed + 2)
    frames = scan.frames[:]
    if case.background:
        frames = np.sqrt(np.square(frames) + rng.poisson(case.background, frames.shape)).astype(np.float32)
    known = positions + rng.normal(0, 1, positions.shape) * case.moved / np.sqrt(2)
    guess = scan.probe if case.guess is None else case.guess.astype(np.complex64)
    return replace(
        scan, frames=frames, positions=known, positions_start=positions, probe=guess, good_pixels=case.good
    )


# ------------------------------------------------------------------ ways
class Peer:
    """pty-chi in an interpreter of its own, which keeps running: it takes long to start."""

    def __init__(self, python: str, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [python, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, scan: Scan) -> Reconstruction:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        source, target = self.folder / "scan.npz", self.folder / "image.npz"
        write_scan(scan, source)
        print(source, target, sep="\t", file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("done"):
                return load_reconstruction(target)
        raise SystemExit(f"{self.process.args}: ended; its own messages say why")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def serve() -> None:
    """Reconstruct every scan that a line of standard input names."""
    for line in sys.stdin:
        source, target = line.rstrip("\n").split("\t")
        solver = SOLVERS.get("lsqml")("cpu")
        rec = solver.solve(open_scan(source), None, EngineOptions(sweeps=60))
        Path(target).unlink(missing_ok=True)
        save_reconstruction(rec, target)
        print("done", flush=True)


def ways(cause: str, peer: Peer | None) -> Iterator[tuple[str, Callable[[Scan], Reconstruction]]]:
    epie, learned = SOLVERS.get("epie")("cpu"), SOLVERS.get("learned")("cpu")

    def default(scan: Scan) -> Reconstruction:
        return reconstruct(scan, withhold=0.0, device="cpu")

    yield "reconstruct", default
    yield "learned", lambda scan: learned.solve(scan, None, LearnedOptions())
    yield "sweeps", lambda scan: epie.solve(scan, None, RefineOptions(sweeps=60, tolerance=0.0))
    if cause == "positions":
        refined = RefineOptions(sweeps=60, update_positions=True, tolerance=0.0)
        yield "and positions", lambda scan: epie.solve(scan, default(scan), refined)
        held = LearnedOptions(update_probe=False), replace(refined, probe_after=30)
        yield "and held probe", lambda scan: epie.solve(scan, learned.solve(scan, None, held[0]), held[1])
    if cause == "modes":
        yield "one mode", lambda scan: default(replace(scan, probe=scan.probe[:1]))
    if peer is not None:
        yield "LSQML", peer


def left_of_positions(rec: Reconstruction, scan: Scan) -> dict[str, float]:
    """Error of positions, px rms, after a common shift; and after common scale, rotation and shear as well."""
    there = np.column_stack([np.ones(scan.n_frames), scan.positions_start])
    off = rec.positions - scan.positions_start
    own = off - there @ np.linalg.lstsq(there, off, rcond=None)[0]
    return {
        name: float(np.sqrt(np.mean(np.sum(part**2, 1))))
        for name, part in (("positions, px", off - off.mean(0)), ("each by itself, px", own))
    }


def measured(
    cause: str, value: float, seed: int, way: str, solve: Callable[[Scan], Reconstruction]
) -> dict[str, Any]:
    scan = scan_of(CAUSES[cause][2](value), seed)
    began = time.process_time()
    rec = solve(scan)
    seconds = time.process_time() - began
    row = {"cause": cause, "value": value, "way": way, "seed": seed, "frames": scan.n_frames}
    row |= {"error": relative_error(rec, scan.object_guess), "seconds": seconds}
    return row | (left_of_positions(rec, scan) if cause == "positions" else {})


# ------------------------------------------------------------------ all of them
def run(arguments: Any, peer: Peer | None) -> list[dict[str, Any]]:
    """Every row, from the file or made now; seeds outermost, so that a stopped run has all causes."""
    state = f"{ptycho_torch.__version__} {hashlib.sha256(shipped_bundle().read_bytes()).hexdigest()[:12]}"
    path = arguments.output / "failures.jsonl"
    arguments.output.mkdir(parents=True, exist_ok=True)
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {(r["cause"], r["value"], r["way"], r["seed"]): r for r in kept if r["state"] == state}
    rows = []
    with path.open("a") as stream:
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            for cause in arguments.only:
                values = CAUSES[cause][1]
                for value in values[:: max(1, len(values) - 1)] if arguments.quick else values:
                    for way, solve in ways(cause, peer):
                        row = known.get((cause, value, way, seed))
                        if row is None:
                            row = {**measured(cause, value, seed, way, solve), "state": state}
                            print(json.dumps(row, default=float), file=stream, flush=True)
                            print(f"{cause} {value:g} seed {seed} {way}: {row['error']:.4f}", flush=True)
                        rows.append({k: v for k, v in row.items() if k != "state"})
    return rows


def figure(cause: str, rows: Sequence[dict[str, Any]]) -> Figure:
    """Error against one cause: mean over seeds, and from the best to the worst of them."""
    label, values, _ = CAUSES[cause]
    made = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = made.subplots()
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [[r["error"] for r in rows if r["way"] == way and r["value"] == v] for v in values]
        shown = [(v, np.mean(e), np.min(e), np.max(e)) for v, e in zip(values, mine, strict=True) if e]
        at, mean, least, most = (np.array(part) for part in zip(*shown, strict=True))
        axes.plot(at, mean, "-" if way != "sweeps" else "--", marker="o", ms=3, label=way)
        axes.fill_between(at, least, most, alpha=0.15)
    axes.set(xlabel=label, ylabel="error relative to the object", yscale="log")
    if cause in LOGARITHMIC:
        axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    return made


def main() -> None:
    made = parser(__doc__, shared=False)
    made.add_argument("--only", nargs="+", choices=list(CAUSES), default=list(CAUSES), metavar="CAUSE")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--peer", metavar="PYTHON", help="interpreter that can import pty-chi")
    made.add_argument("--serve", action="store_true", help="used by --peer")
    arguments = made.parse_args()
    if arguments.serve:
        serve()
        return
    if arguments.quick:
        arguments.seeds = 1
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(arguments.peer, Path(folder)) if arguments.peer else None
        try:
            rows = run(arguments, peer)
        finally:
            if peer is not None:
                peer.close()
    for cause in arguments.only:
        mine = [row for row in rows if row["cause"] == cause]
        print(table(mine) if arguments.quick else f"{cause}: {len(mine)} images")
        kept = [{k: v for k, v in row.items() if k != "cause"} for row in mine]
        print(
            keep(
                f"failures-{cause}",
                arguments,
                {"rows": kept, "means": over_seeds(kept, ("value", "way"), ("error",))},
                by=["value", "way"],
                pivot=["value", "way", "error"],
            )
        )
        figure(cause, mine).savefig(arguments.output / f"failures-{cause}.png", dpi=110)


if __name__ == "__main__":
    main()
