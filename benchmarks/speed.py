"""Frames per second from frames in memory to the stitched canvas, beside what the machine could do at most.

    python benchmarks/speed.py

Each generator at N = 64 and 128, gridsize 1 and 2, one and all threads, fp32 and bf16; weights are
untrained (speed does not depend on them). The bounds: counted multiply-adds of the network over the
measured rate of matrix multiplication, and FFTs over the measured rate of FFTs, in the same run.
Every case is timed several times and the cases take turns, so that other work on the machine hits all alike.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from harness import keep, parser, table
from ptycho_torch.config import ModelConfig
from ptycho_torch.model import build_pair
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.reconstruction import reconstruct
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan


def scan_of(size: int, count: int) -> Scan:
    edge = size + 4 * int(np.ceil(np.sqrt(count)))
    obj = make_object("grf", edge, 0)
    positions = make_positions("grid", obj.shape, size, count=count, jitter=0.5, seed=0)
    return simulate_scan(obj, make_probe("zoneplate", size), positions, photons=1e6)


def rates(device: str) -> dict[str, float]:
    """GFLOP/s of matrix multiplication, fp32 and bf16, and complex FFTs per second."""
    done: dict[str, float] = {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(1024, 1024, device=device, dtype=kind)
        done[f"gflops_{name}"] = 2 * 1024**3 / _seconds(lambda a=a: a @ a, device) / 1e9
    for size in (64, 128):
        x = torch.randn(64, size, size, dtype=torch.complex64, device=device)
        done[f"ffts_{size}"] = 64 / _seconds(lambda x=x: torch.fft.fft2(x), device)
    return done


def _seconds(work: Any, device: str, least: float = 0.5) -> float:
    work()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < least:
        work()
        count += 1
        if device == "cuda":
            torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def main() -> None:
    made = parser(__doc__, shared=False)
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--frames", type=int, default=None, help="frames of a scan; default 512, GPU 8192")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--batch", type=int, default=None, help="frames a step; default 32, GPU 512")
    arguments = made.parse_args()
    gpu = arguments.device == "cuda"
    frames = arguments.frames or (8192 if gpu else 128 if arguments.quick else 512)
    batch = arguments.batch or (512 if gpu else 32)
    rounds = 1 if arguments.quick else arguments.rounds
    all_threads = arguments.threads or torch.get_num_threads()
    scans = {size: scan_of(size, frames) for size in (64, 128)}
    cases = []
    for size in (64, 128):
        for gridsize in (1, 2):
            for architecture in ("unrolled", "cnn"):
                for precision in ("fp32", "bf16"):
                    for threads in (all_threads,) if gpu or arguments.quick else (1, all_threads):
                        cases.append((size, gridsize, architecture, precision, threads))
    times: dict[Any, list[float]] = {case: [] for case in cases}
    flops: dict[Any, float] = {}
    for turn in range(rounds):
        for case in cases:
            size, gridsize, architecture, precision, threads = case
            torch.set_num_threads(threads)
            scan = scans[size]
            assert scan.probe is not None
            config = ModelConfig(
                N=size,
                gridsize=gridsize,
                architecture=architecture,
                unrolled_physics_steps=1 if gridsize == 1 else 3,  # what training chooses
            )
            model = build_pair(config, normalise_probe(scan.probe), 1.0)[1].to(arguments.device).eval()
            if turn == 0:
                x = torch.rand(2, gridsize**2, size, size, device=arguments.device)
                shift = torch.zeros(2, gridsize**2, 1, 2, device=arguments.device)
                with torch.inference_mode(), FlopCounterMode(display=False) as counter:
                    model(x, shift)
                flops[case] = counter.get_total_flops() / (2 * gridsize**2)
                first = scan.select(slice(0, 4 * batch))
                reconstruct(model, first, batch_size=batch // gridsize**2, bf16=precision == "bf16")
            began = time.perf_counter()
            reconstruct(
                model,
                scan,
                batch_size=max(1, batch // gridsize**2),
                n_groups=None if gridsize == 1 else frames // gridsize**2,
                bf16=precision == "bf16",
            )
            times[case].append(time.perf_counter() - began)
    torch.set_num_threads(all_threads)
    bounds = rates(arguments.device)
    rows = []
    for case in cases:
        size, gridsize, architecture, precision, threads = case
        best = min(times[case])
        rows.append(
            {
                "N": size,
                "gridsize": gridsize,
                "architecture": architecture,
                "precision": precision,
                "threads": threads,
                "frames_per_second": frames / best,
                "spread": max(times[case]) / best,
                "bound": bounds[f"gflops_{precision}"] * 1e9 / flops[case]
                if threads == all_threads
                else None,
            }
        )
    results = {"rows": rows, "rates": bounds, "frames": frames, "batch": batch}
    print(table(rows))
    _figure(rows, all_threads, arguments.output / f"speed-{arguments.device}.png")
    print(keep(f"speed-{arguments.device}", arguments, results))


def _figure(rows: list[dict[str, Any]], threads: int, path: Any) -> None:
    chosen = [r for r in rows if r["threads"] == threads]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    names = sorted({(r["N"], r["gridsize"]) for r in chosen})
    kinds = [("unrolled", "fp32"), ("unrolled", "bf16"), ("cnn", "fp32"), ("cnn", "bf16")]
    for k, (kind, hatch) in enumerate(zip(kinds, ("", "//", "", ".."), strict=True)):
        found = {(r["N"], r["gridsize"]): r for r in chosen if (r["architecture"], r["precision"]) == kind}
        axes.bar(
            np.arange(len(names)) + 0.2 * (k - 1.5),
            [found[n]["frames_per_second"] for n in names],
            0.2,
            label=" ".join(kind),
            hatch=hatch,
            color="0.35" if k < 2 else "0.8",
            edgecolor="k",
        )
    axes.set_xticks(range(len(names)), [f"N {n}, gridsize {g}" for n, g in names])
    axes.set(ylabel="frames per second, stitched", yscale="log")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
