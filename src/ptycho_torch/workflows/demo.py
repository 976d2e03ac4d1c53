"""The whole job in one call: an image without training, one after adaptation, beside the truth and iterative sweeps."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ptycho_torch.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_torch.device import device_of
from ptycho_torch.errors import Interrupted, TrainingError
from ptycho_torch.evaluation import evaluate, load_reference
from ptycho_torch.evaluation.reference import Reference, as_reference
from ptycho_torch.files import ensure_output_dir, write_text_atomic
from ptycho_torch.report.figures import beside_figure, save_figure
from ptycho_torch.report.tables import json_text
from ptycho_torch.result import Reconstruction, load_reconstruction
from ptycho_torch.scan import Scan, open_scan, write_scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.simulation.variety import spoiled_probe
from ptycho_torch.solvers import SOLVERS, RefineOptions
from ptycho_torch.workflows.solving import reconstruct
from ptycho_torch.workflows.training import TrainingOutputs, Watch, train

__all__ = ["DemoOutputs", "run_demo"]

logger = logging.getLogger(__name__)
SIZE, EDGE, STEP, PHOTONS = 64, 288, 20.0, 1e6
_POLISH = 20
"""Sweeps that follow the adapted network, as many as follow the shipped one."""
_REFERENCE_SWEEPS = 60
_EVERY = 4
"""Of a measured scan every fourth frame is reconstructed; all of them make the reference."""


@dataclass
class DemoOutputs:
    """Everything as numbers, the short table for people, and the files by name."""

    metrics: dict[str, Any]
    table: dict[str, Any]
    files: dict[str, Path]


@dataclass(frozen=True)
class _Image:
    reconstruction: Reconstruction
    seconds: float
    scores: dict[str, Any]


def run_demo(
    output_dir: str | Path = "demo_output",
    *,
    minutes: float = 1.0,
    steps: int | None = None,
    seed: int = 0,
    measured: str | Path | None = None,
    show_progress: bool = True,
    on_probe: Callable[[int, int, float], None] | None = None,
    on_stage: Callable[[int, int, str], None] | None = None,
) -> DemoOutputs:
    """Reconstruct a simulated scan without training, after adaptation, and by iterative sweeps alone.

    All start from the same frames, positions and a probe guess that is out of focus, and none is shown the object.
    The sweeps take as long as the image without training did. The adapted bundle is opened by a new process.

    Parameters
    ----------
    output_dir : path
    minutes : float
        Time of adaptation.
    steps : int, optional
        Adapt for this many steps instead, the same on every machine.
    seed : int
    measured : path, optional
        Measured scan to show as well: every fourth of its frames, beside 60 sweeps over all of them.
    show_progress : bool
    on_probe, on_stage : callable, optional
        Called with sweep, sweeps and residual, and with stages done, stages in all and the stage's name.

    Raises
    ------
    PtychoError
        What the parts raise.
    """
    began = time.monotonic()
    folder = ensure_output_dir(output_dir)
    stages = _Stages(on_stage, 4 if measured is None else 5)
    scan = _simulate(seed)
    path = folder / "scan.npz"
    write_scan(scan, path)
    scan, truth = open_scan(path), load_reference(path)
    stages.begin("without training")
    images = _two_ways(scan, truth)
    stages.begin("adapting")
    config = TrainingConfig(
        model=ModelConfig(N=SIZE),
        init="shipped",
        max_minutes=minutes if steps is None else None,
        max_steps=steps,
        nepochs=100_000,
        joint_share=1.0,
        seed=seed,
    )
    trained = _train(path, folder / "training", config, show_progress, on_probe)
    stages.begin("in a new process")
    began_again = time.monotonic()
    adapted = _reconstruct_elsewhere(trained.bundle, path, folder / "reconstruction")
    images["adapted"] = _Image(adapted, time.monotonic() - began_again, _scores(adapted, truth))
    stages.begin("drawing")
    files = {
        "scan": path,
        "bundle": trained.bundle,
        "training report": trained.files["report"],
        "reconstruction": folder / "reconstruction" / "reconstruction.npz",
        "report": folder / "reconstruction" / "report.html",
        "metrics": folder / "metrics.json",
        "picture": folder / "demo.png",
    }
    title = f"{scan.n_frames} simulated frames, {STEP:g} of {SIZE} px apart, from a probe guess out of focus"
    picture = _figure(images, truth, title, adapted=trained.metrics["seconds"])
    save_figure(picture, files["picture"])
    real: dict[str, _Image] = {}
    if measured is not None:
        stages.begin(f"{Path(measured).name}")
        real, files["measured picture"] = _measured(Path(measured), folder)
    stages.begin("done")
    return _told(images, real, trained, files, round(time.monotonic() - began, 2), seed)


@dataclass
class _Stages:
    """Tells how far the work is."""

    told: Callable[[int, int, str], None] | None
    count: int
    done: int = -1

    def begin(self, name: str) -> None:
        self.done += 1
        if self.told is not None:
            self.told(self.done, self.count, name)


def _simulate(seed: int) -> Scan:
    """Frames of a Siemens star under a zone plate's beam; the scan's probe is a guess out of focus."""
    obj, probe = make_object("siemens", EDGE, seed), make_probe("zoneplate", SIZE)
    positions = make_positions("grid", obj.shape, SIZE, step=STEP, jitter=1.0, seed=seed)
    scan = simulate_scan(obj, probe, positions, photons=PHOTONS, seed=seed)
    return dataclasses.replace(scan, probe=spoiled_probe(probe, np.random.default_rng(seed)))


def _near_frames(rec: Reconstruction) -> Reference:
    """The image within N/4 of its frames' positions, the same region for every way to it."""
    height, width = rec.object.shape
    x, y = (rec.origin_xy[k] + np.arange(n) for k, n in ((0, width), (1, height)))
    pixels = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    distance = cKDTree(rec.positions).query(pixels)[0].reshape(height, width)
    near = (distance <= rec.probe.shape[-1] / 4) & (rec.weight > 0)
    return dataclasses.replace(as_reference(rec), weight=near.astype(np.float32))


def _scores(rec: Reconstruction, truth: Reference) -> dict[str, Any]:
    return evaluate(_near_frames(rec), truth)


def _two_ways(scan: Scan, truth: Reference) -> dict[str, _Image]:
    """The image without training, and that of iterative sweeps in the same time."""
    began = time.monotonic()
    image = reconstruct(scan)
    seconds = time.monotonic() - began
    began = time.monotonic()
    options = RefineOptions(sweeps=100_000, minutes=seconds / 60, tolerance=0.0, step=1.0)
    iterative = SOLVERS.get("epie")(device_of("auto")).solve(scan, None, options)
    taken = time.monotonic() - began
    return {
        "iterative": _Image(iterative, taken, _scores(iterative, truth)),
        "without training": _Image(image, seconds, _scores(image, truth)),
    }


def _measured(path: Path, folder: Path) -> tuple[dict[str, _Image], Path]:
    """A measured scan: part of its frames in two ways, beside a long iterative reconstruction of all of them."""
    scan = open_scan(path)
    options = RefineOptions(sweeps=_REFERENCE_SWEEPS, step=1.0, tolerance=0.0)
    reference = SOLVERS.get("epie")(device_of("auto")).solve(scan, None, options)
    part = scan.select(np.arange(0, scan.n_frames, _EVERY))
    known = _near_frames(reference)
    images = _two_ways(part, known)
    title = f"{path.name}: every fourth frame ({part.n_frames}), beside {_REFERENCE_SWEEPS} sweeps over all of them"
    picture = folder / "measured.png"
    save_figure(_figure(images, known, title, f"all {scan.n_frames} frames"), picture)
    return images, picture


def _figure(
    images: dict[str, _Image], truth: Reference, title: str, name: str = "truth", adapted: float = 0.0
) -> Any:
    shown = {}
    for label, image in images.items():
        what = {
            "iterative": f"{image.reconstruction.sweeps} sweeps, {image.seconds:.1f} s",
            "without training": f"without training, {image.seconds:.1f} s",
            "adapted": f"after {adapted:.0f} s of adaptation",
        }[label]
        correlation = image.scores["complex_correlation"]
        shown[f"{what}: {correlation:.4f}"] = _near_frames(image.reconstruction)
    return beside_figure(shown, truth, title, name)


def _train(
    scan: Path,
    folder: Path,
    config: TrainingConfig,
    show_progress: bool,
    on_probe: Callable[[int, int, float], None] | None,
) -> TrainingOutputs:
    def told(sweep: int, residual: float) -> None:
        if on_probe is not None:
            on_probe(sweep, config.probe_sweeps, residual)

    execution = ExecutionConfig(progress=show_progress)
    # A demonstration that was in this folder before is no loss.
    trained = train(scan, folder, config, execution, force=True, watch=Watch(on_probe=told))
    if trained.trained.signal is not None:
        raise Interrupted(
            trained.trained.signal,
            f"interrupted: {trained.bundle} holds what was learned so far; the demonstration was not ended",
        )
    return trained


def _reconstruct_elsewhere(bundle: Path, scan: Path, folder: Path) -> Reconstruction:
    """Runs ``ptychopinn reconstruct`` in a process of its own, which has only the bundle to go by."""
    command = [sys.executable, "-m", "ptycho_torch.cli", "reconstruct", str(scan), "--model", str(bundle)]
    command += ["--refine", str(_POLISH), "--output-dir", str(folder), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrainingError(
            f"{bundle}: reconstructing in a new process failed with status {done.returncode}:"
            f" {done.stderr.strip()[-500:]}"
        )
    return load_reconstruction(folder / "reconstruction.npz")


def _told(
    images: dict[str, _Image],
    real: dict[str, _Image],
    trained: TrainingOutputs,
    files: dict[str, Path],
    seconds: float,
    seed: int,
) -> DemoOutputs:
    """Write the numbers, and the short table of them."""
    rows = {**images, **{f"measured, {name}": image for name, image in real.items()}}
    metrics = {
        "images": {
            name: {"seconds": round(image.seconds, 3), "scores": image.scores, **image.reconstruction.facts()}
            for name, image in rows.items()
        },
        "training": trained.metrics,
        "seconds": seconds,
        "seed": seed,
        "files": {name: str(path) for name, path in files.items()},
    }
    write_text_atomic(files["metrics"], json_text(metrics))
    table: dict[str, Any] = {"frames": len(images["iterative"].reconstruction.positions)}
    for name, image in rows.items():
        table[f"correlation, {name}"] = image.scores["complex_correlation"]
        table[f"seconds, {name}"] = round(image.seconds, 2)
    table["steps of adaptation"] = trained.metrics["steps"]
    table["error on withheld frames, part of before"] = round(trained.metrics["best_loss"], 3)
    table["seconds in all"] = round(seconds, 1)
    return DemoOutputs(metrics, table, files)
