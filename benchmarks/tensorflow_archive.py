"""Models of the TensorFlow program: deviation of their outputs, seconds to open them, predictions per second.

    python benchmarks/tensorflow_archive.py

Deviation is from the outputs that the program itself gave (in ``reference.npz``), over their maximum. Opening is
measured in fresh processes, imports done, from path to first prediction. Predictions are of
``diffraction_to_obj`` on batches of groups, without stitching; variants take turns.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import keep, parser, table
from ptycho_torch import load_torch_bundle
from ptycho_torch.compat.layout import from_channels_last, to_channels_last

_FRESH = """
import json, sys, time, numpy, torch
import ptycho_torch.bundle.keras.tensorflow, ptycho_torch.generators.cnn, h5py
from ptycho_torch import load_torch_bundle
began = time.perf_counter()
model, params = load_torch_bundle(sys.argv[1])
loaded = time.perf_counter()
size, members = params["N"], params["gridsize"] ** 2
with torch.inference_mode():
    model(torch.rand(1, members, size, size), torch.zeros(1, members, 1, 2))
print(json.dumps({"load": loaded - began, "first": time.perf_counter() - began}))
"""

VARIANTS = ("plain", "no_grad", "inference_mode", "channels_last", "bf16", "channels_last bf16")


@contextlib.contextmanager
def variant(name: str, model: Any) -> Iterator[Any]:
    """The model prepared as the variant says; put back afterwards."""
    wide = "channels_last" in name
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    model.core.generator.bf16 = "bf16" in name
    for layer in convolutions:
        layer.weight.data = layer.weight.data.contiguous(
            memory_format=torch.channels_last if wide else torch.contiguous_format
        )
    mode: Any = torch.inference_mode()
    if name == "plain":
        mode = contextlib.nullcontext()
        model.requires_grad_(True)
    elif name == "no_grad":
        mode = torch.no_grad()
    with mode:
        yield model
    model.requires_grad_(False)
    model.core.generator.bf16 = False


def rate(model: Any, x: torch.Tensor, offsets: torch.Tensor, seconds: float) -> float:
    model(x, offsets)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        model(x, offsets)
        count += len(x)
    return count / (time.perf_counter() - began)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--groups", type=int, default=16, help="groups in a batch")
    arguments = made.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rounds, seconds = (1, 0.5) if arguments.quick else (arguments.rounds, 2.0)
    rows: list[dict[str, Any]] = []
    for folder in sorted((arguments.shared / "data/tf_bundles").iterdir()):
        rows.append(_measure(folder, rounds, seconds, arguments.groups))
        print(table(rows[-1:]), flush=True)
    print(table(rows))
    print(keep("tensorflow_archive", arguments, rows))


def _measure(folder: Path, rounds: int, seconds: float, groups: int) -> dict[str, Any]:
    model, params = load_torch_bundle(folder)
    with np.load(folder / "reference.npz") as reference:
        inputs = from_channels_last(reference["X_scaled"], reference["positions"])
        expected = {k: reference[k] for k in reference.files if k == "trimmed_obj" or k.startswith("ae_")}
    row: dict[str, Any] = {"archive": folder.name, "gridsize": params["gridsize"]}
    autoencoder, _ = load_torch_bundle(folder, "autoencoder")
    with torch.inference_mode():
        found = {"trimmed_obj": model(*inputs)}
        names = ("ae_trimmed_obj", "ae_pred_amp_scaled", "ae_pred_intensity")
        found |= dict(zip(names, autoencoder(*inputs), strict=True))
    for key, value in found.items():
        row[f"dev {key}"] = _deviation(value, expected[key])
    fresh = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", _FRESH, str(folder)], check=True, capture_output=True, text=True
            ).stdout
        )
        for _ in range(1 + 2 * rounds)
    ]
    row["load s"] = statistics.median(f["load"] for f in fresh)
    row["first prediction s"] = statistics.median(f["first"] for f in fresh)
    repeats = -(-groups // len(inputs[0]))
    batch = [v.repeat(repeats, 1, 1, 1)[:groups] for v in inputs]
    speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name in VARIANTS:
            with variant(name, model):
                speeds[name].append(rate(model, *batch, seconds))
    for name in VARIANTS:
        row[f"{name} /s"] = max(speeds[name])
    with variant("bf16", model):
        row["dev bf16"] = _deviation(model(*inputs), expected["trimmed_obj"])
    return row


def _deviation(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(to_channels_last(found).numpy() - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    main()
