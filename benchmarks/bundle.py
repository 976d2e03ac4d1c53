"""Seconds and bytes of saving and loading a bundle, beside bare ``torch.save`` and ``torch.load``.

    python benchmarks/bundle.py

Both store the same two state dicts. Loading is also measured in a fresh process, from the path to the
first prediction, imports done.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import keep, parser, table
from ptycho_torch import load_torch_bundle, save_torch_bundle
from ptycho_torch.config import ModelConfig, TrainingConfig
from ptycho_torch.model import build_pair, default_probe

_FRESH = """
import json, sys, time, torch
import ptycho_torch.model, ptycho_torch.model_manager, ptycho_torch.bundle.rebuild
from ptycho_torch.generators import build
began = time.perf_counter()
model, params = ptycho_torch.model_manager.load_torch_bundle(sys.argv[1])
loaded = time.perf_counter()
size = params["N"]
with torch.inference_mode():
    model(torch.rand(1, params["gridsize"] ** 2, size, size), torch.zeros(1, params["gridsize"] ** 2, 1, 2))
print(json.dumps({"load": loaded - began, "to_first_prediction": time.perf_counter() - began}))
"""


def best(work: Callable[[], Any], rounds: int) -> dict[str, float]:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return {"best": min(times), "median": statistics.median(times)}


def main() -> None:
    made = parser(__doc__, shared=False)
    made.add_argument("--rounds", type=int, default=20)
    arguments = made.parse_args()
    rounds = 5 if arguments.quick else arguments.rounds
    rows, records = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for architecture, size in (("unrolled", 64), ("unrolled", 128), ("cnn", 64)):
            config = TrainingConfig(model=ModelConfig(N=size, architecture=architecture))
            autoencoder, to_object = build_pair(config.model, default_probe(size), 30.0)
            models = {"autoencoder": autoencoder.eval(), "diffraction_to_obj": to_object.eval()}
            path, bare = folder / f"{architecture}{size}.zip", folder / "bare.pt"
            states = {k: m.state_dict() for k, m in models.items()}

            def save_bare(states: Any = states, bare: Path = bare) -> None:
                torch.save(states["autoencoder"], bare)
                torch.save(states["diffraction_to_obj"], bare.with_suffix(".2.pt"))

            def load_bare(bare: Path = bare) -> None:
                torch.load(bare, weights_only=True)
                torch.load(bare.with_suffix(".2.pt"), weights_only=True)

            made_of = {
                "save": best(lambda p=path, m=models, c=config: save_torch_bundle(m, p, c), rounds),
                "load": best(lambda p=path: load_torch_bundle(p), rounds),
                "bare save": best(save_bare, rounds),
                "bare load": best(load_bare, rounds),
            }
            fresh = [
                json.loads(
                    subprocess.run(
                        [sys.executable, "-c", _FRESH, str(path)], check=True, capture_output=True, text=True
                    ).stdout
                )
                for _ in range(2 if arguments.quick else 5)
            ]
            record = {
                "model": f"{architecture} {size}",
                "save_ms": 1e3 * made_of["save"]["median"],
                "load_ms": 1e3 * made_of["load"]["median"],
                "bare_save_ms": 1e3 * made_of["bare save"]["median"],
                "bare_load_ms": 1e3 * made_of["bare load"]["median"],
                "fresh_load_ms": 1e3 * float(np.median([f["load"] for f in fresh])),
                "fresh_prediction_ms": 1e3 * float(np.median([f["to_first_prediction"] for f in fresh])),
                "bytes": path.stat().st_size,
                "bare_bytes": bare.stat().st_size + bare.with_suffix(".2.pt").stat().st_size,
            }
            total = record["save_ms"] + record["load_ms"]
            goal = 1.5 * (record["bare_save_ms"] + record["bare_load_ms"]) + 50
            rows.append({**record, "total_ms": total, "goal_ms": goal})
            records.append({**rows[-1], "times": made_of})
    print(table([{k: v for k, v in r.items() if not k.startswith("bytes")} for r in rows]))
    print(keep("bundle", arguments, records))


if __name__ == "__main__":
    main()
