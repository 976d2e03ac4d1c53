"""The whole job on simulated data, in one call: simulate, train, save, load elsewhere, reconstruct, score."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_torch.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_torch.errors import TrainingError
from ptycho_torch.evaluation import evaluate, load_reference
from ptycho_torch.files import ensure_output_dir, write_text_atomic
from ptycho_torch.inference.result import load_reconstruction
from ptycho_torch.report.figures import comparison_figure, save_figure
from ptycho_torch.report.tables import json_text
from ptycho_torch.scan import write_scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.workflows.training import train

__all__ = ["DemoOutputs", "run_demo"]

SIZE, EDGE, PHOTONS = 64, 256, 1e6


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
    seed: int = 0,
    show_progress: bool = True,
    on_probe: Callable[[int, int, float], None] | None = None,
    on_stage: Callable[[int, int, str], None] | None = None,
) -> DemoOutputs:
    """Trains on the frames of one simulated object and reconstructs another that the network has not seen.

    ``minutes``: training time. Training sees frames, positions and the probe, never an object. The bundle is opened by a new process. ``on_probe`` is called with sweep, sweeps and residual,
    ``on_stage`` with stages done, stages in all and the stage's name. Raises what the parts raise.
    """
    began = time.monotonic()
    folder = ensure_output_dir(output_dir)
    files = {
        "training scan": folder / "training_scan.npz",
        "test scan": folder / "test_scan.npz",
    }
    # The two differ in everything that a network could learn by heart: smooth random field, sharp star.
    _simulate("grf", "random", files["training scan"], seed)
    _simulate("siemens", "grid", files["test scan"], seed + 1)

    config = TrainingConfig(
        model=ModelConfig(N=SIZE), max_minutes=minutes, n_groups=256, nepochs=1000, batch_size=8, seed=seed
    )
    trained = train(
        files["training scan"],
        folder / "training",
        config,
        ExecutionConfig(progress=show_progress),
        on_probe=lambda sweep, residual: (
            None if on_probe is None else on_probe(sweep, config.probe_sweeps, residual)
        ),
    )

    def stage(done: int, text: str) -> None:
        if on_stage is not None:
            on_stage(done, 3, text)

    stage(0, "in a new process")
    _reconstruct_elsewhere(trained.bundle, files["test scan"], folder / "reconstruction")
    stage(1, "scoring")
    rec = load_reconstruction(folder / "reconstruction" / "reconstruction.npz")
    truth = load_reference(files["test scan"])
    scores = evaluate(rec, truth)
    stage(2, "drawing")
    files |= {
        "bundle": trained.bundle,
        "training report": trained.files["report"],
        "reconstruction": folder / "reconstruction" / "reconstruction.npz",
        "report": folder / "reconstruction" / "report.html",
        "metrics": folder / "metrics.json",
        "picture": folder / "demo.png",
    }
    save_figure(comparison_figure(rec, truth), files["picture"])
    stage(3, "done")
    seconds = time.monotonic() - began
    metrics = {
        "scores": scores,
        "training": trained.metrics,
        "reconstruction": rec.info,
        "seconds": round(seconds, 2),
        "seed": seed,
        "files": {name: str(path) for name, path in files.items()},
    }
    write_text_atomic(files["metrics"], json_text(metrics))
    table = {
        "frames trained on": trained.metrics["provenance"]["training_data"]["frames"],
        "training steps": trained.metrics["steps"],
        "frames per second, inference": rec.info["frames_per_second"],
        "SSIM amplitude": scores["amplitude"]["ssim"],
        "SSIM phase": scores["phase"]["ssim"],
        "complex correlation": scores["complex_correlation"],
        "seconds in all": round(seconds, 1),
    }
    return DemoOutputs(metrics, table, files)


def _simulate(name: str, way: str, path: Path, seed: int) -> None:
    obj = make_object(name, EDGE, seed)
    positions = make_positions(way, obj.shape, SIZE, step=9.0, jitter=1.0, seed=seed)
    scan = simulate_scan(obj, make_probe("zoneplate", SIZE), positions, photons=PHOTONS, seed=seed)
    write_scan(scan, path)


def _reconstruct_elsewhere(bundle: Path, scan: Path, folder: Path) -> None:
    """Runs ``ptychopinn reconstruct`` in a process of its own, which has only the bundle to go by."""
    command = [sys.executable, "-m", "ptycho_torch.cli", "reconstruct", str(bundle), str(scan)]
    done = subprocess.run(
        [*command, "--output-dir", str(folder), "--quiet"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise TrainingError(
            f"{bundle}: reconstructing in a new process failed with status {done.returncode}: {done.stderr.strip()[-500:]}"
        )
