"""The whole job on simulated data, in one call: simulate, train, save, load elsewhere, reconstruct, score."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_torch.errors import Interrupted, TrainingError
from ptycho_torch.evaluation import evaluate, load_reference
from ptycho_torch.files import ensure_output_dir, write_text_atomic
from ptycho_torch.report.figures import comparison_figure, save_figure
from ptycho_torch.report.tables import json_text
from ptycho_torch.result import Reconstruction, load_reconstruction
from ptycho_torch.scan import Scan, write_scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.workflows.training import TrainingOutputs, Watch, train

__all__ = ["DemoOutputs", "run_demo"]

SIZE, EDGE, STEP, PHOTONS = 64, 288, 8.0, 1e6


@dataclass
class DemoOutputs:
    """Everything as numbers, the short table for people, and the files by name."""

    metrics: dict[str, Any]
    table: dict[str, Any]
    files: dict[str, Path]


def run_demo(
    output_dir: str | Path = "demo_output",
    *,
    minutes: float = 2.5,
    steps: int | None = None,
    seed: int = 0,
    show_progress: bool = True,
    on_probe: Callable[[int, int, float], None] | None = None,
    on_stage: Callable[[int, int, str], None] | None = None,
) -> DemoOutputs:
    """Trains on the upper half of a simulated scan and reconstructs all of it, frame by frame.

    ``minutes``: training time; ``steps``: train for this many steps instead, the same on every machine.
    Training sees frames, positions and a probe, never the object, and nothing of the lower half; scores
    are given for that half on its own, too. The bundle is opened by a new process. ``on_probe`` is called
    with sweep, sweeps and residual,
    ``on_stage`` with stages done, stages in all and the stage's name. Raises what the parts raise.
    """
    began = time.monotonic()
    folder = ensure_output_dir(output_dir)
    files = {"scan": folder / "scan.npz", "upper half": folder / "upper_half.npz"}
    scan = _simulate(seed)
    border = float(np.median(scan.positions[:, 1]))
    write_scan(scan, files["scan"])
    write_scan(scan.select(scan.positions[:, 1] < border), files["upper half"])
    config = _config(minutes if steps is None else None, steps, seed)
    trained = _train(files["upper half"], folder / "training", config, show_progress, on_probe)

    def stage(done: int, text: str) -> None:
        if on_stage is not None:
            on_stage(done, 3, text)

    stage(0, "in a new process")
    _reconstruct_elsewhere(trained.bundle, files["scan"], folder / "reconstruction")
    stage(1, "scoring")
    scored = _Scored.of(folder, files["scan"], border)
    stage(2, "drawing")
    files |= {
        "bundle": trained.bundle,
        "training report": trained.files["report"],
        "reconstruction": folder / "reconstruction" / "reconstruction.npz",
        "report": folder / "reconstruction" / "report.html",
        "metrics": folder / "metrics.json",
        "picture": folder / "demo.png",
    }
    save_figure(comparison_figure(scored.reconstruction, scored.truth), files["picture"])
    stage(3, "done")
    return _told(scored, trained, files, round(time.monotonic() - began, 2), seed)


def _config(minutes: float | None, steps: int | None, seed: int) -> TrainingConfig:
    return TrainingConfig(
        model=ModelConfig(N=SIZE),
        max_minutes=minutes,
        max_steps=steps,
        n_groups=256,
        nepochs=1000,
        batch_size=8,
        seed=seed,
    )


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


@dataclass
class _Scored:
    """The reconstruction of all of the scan, and how right it is there and where training saw nothing."""

    reconstruction: Reconstruction
    truth: Any
    scores: dict[str, Any]
    unseen: dict[str, Any]

    @classmethod
    def of(cls, folder: Path, scan: Path, border: float) -> _Scored:
        rec = load_reconstruction(folder / "reconstruction" / "reconstruction.npz")
        truth = load_reference(scan)
        # Rows that no frame of the upper half reaches with more than the probe's faint border.
        rows = rec.origin_xy[1] + np.arange(rec.object.shape[0])
        below = np.broadcast_to((rows > border + SIZE / 4)[:, None], rec.object.shape)
        return cls(rec, truth, evaluate(rec, truth), evaluate(rec, truth, region=below))


def _told(
    scored: _Scored, trained: TrainingOutputs, files: dict[str, Path], seconds: float, seed: int
) -> DemoOutputs:
    """Write the numbers, and the short table of them."""
    info = scored.reconstruction.info
    metrics = {
        "scores": scored.scores,
        "scores_unseen_half": scored.unseen,
        "training": trained.metrics,
        "reconstruction": info,
        "seconds": seconds,
        "seed": seed,
        "files": {name: str(path) for name, path in files.items()},
    }
    write_text_atomic(files["metrics"], json_text(metrics))
    table: dict[str, Any] = {
        "frames": len(scored.reconstruction.positions),
        "of these trained on": trained.metrics["provenance"]["training_data"]["frames"],
        "training steps": trained.metrics["steps"],
        "frames per second": info["frames_per_second"],
    }
    for name, part in (("", scored.scores), (", unseen half", scored.unseen)):
        table |= {
            f"complex correlation{name}": part["complex_correlation"],
            f"SSIM of amplitude{name}": part["amplitude"]["ssim"],
            f"SSIM of phase{name}": part["phase"]["ssim"],
        }
    table["seconds in all"] = round(seconds, 1)
    return DemoOutputs(metrics, table, files)


def _simulate(seed: int) -> Scan:
    obj = make_object("siemens", EDGE, seed)
    positions = make_positions("grid", obj.shape, SIZE, step=STEP, jitter=1.0, seed=seed)
    return simulate_scan(obj, make_probe("zoneplate", SIZE), positions, photons=PHOTONS, seed=seed)


def _reconstruct_elsewhere(bundle: Path, scan: Path, folder: Path) -> None:
    """Runs ``ptychopinn reconstruct`` in a process of its own, which has only the bundle to go by."""
    command = [sys.executable, "-m", "ptycho_torch.cli", "reconstruct", str(scan), "--model", str(bundle)]
    done = subprocess.run(
        [*command, "--output-dir", str(folder), "--quiet"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise TrainingError(
            f"{bundle}: reconstructing in a new process failed with status {done.returncode}: {done.stderr.strip()[-500:]}"
        )
