"""A long scan on the disk: memory, time against its length, several processes, kills.

    python benchmarks/scale.py                              # up to 100,000 frames of 128 x 128; hours on two cores
    python benchmarks/scale.py --quick                      # 250 and 1,000 frames of 64 x 64, three kills
    python benchmarks/scale.py --frames 1000 5000 20000 --sweeps 1 --kills 20

Scans are simulated and kept as uint16 in HDF5 (``--work``), then reconstructed by the command ``reconstruct``. Memory
is that of all its processes together, asked for five times a second: PSS, which counts a shared page once, as the
limit of a control group does, and RSS, which counts it in each process. Times are CPU seconds of all processes, so that
other work on the machine does not show, and wall-clock seconds, in which it does.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from harness import keep, parser, table
from ptycho_torch.bundle.shipped import load_solver, shipped_bundle
from ptycho_torch.files.memory import bytes_of
from ptycho_torch.result import Reconstruction, load_reconstruction
from ptycho_torch.scan import open_scan
from ptycho_torch.scan.tiling import cut_tiles
from ptycho_torch.simulation import make_object, make_probe
from ptycho_torch.solvers import LearnedOptions
from ptycho_torch.solvers.frames import frames_of
from ptycho_torch.solvers.learned import RegionObject, solve_learned

PARTS = ("lengths", "processes", "kills", "cut")
_SWEEP = re.compile(r"sweep (\d+): R \S+, (\S+) s in all")


def make_scan(path: Path, count: int, size: int, step: float, photons: float, seed: int) -> Path:
    """Write a simulated scan: a raster with jitter over a smooth object, photon counts as uint16."""
    side = int(np.ceil(np.sqrt(count)))
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)[:count] * step
    positions = np.rint(grid + rng.uniform(-1, 1, grid.shape) * step / 6 + size // 2 + step).astype(int)
    edge = int(positions.max()) + size
    # A large smooth object out of one of moderate size, mirrored at its edges.
    part = make_object("grf", min(edge, 1024), seed)
    obj = torch.from_numpy(np.pad(part, ((0, edge - len(part)),) * 2, mode="symmetric").astype(np.complex64))
    probe = torch.from_numpy(make_probe("zoneplate", size).astype(np.complex64))[0]
    noise = torch.Generator().manual_seed(seed)
    with h5py.File(path, "w") as file:
        frames = file.create_dataset(
            "patterns", (count, size, size), np.uint16, chunks=(min(16, count), size, size)
        )
        for first in range(0, count, 256):
            corners = positions[first : first + 256] - size // 2
            patches = torch.stack([obj[y : y + size, x : x + size] for x, y in corners.tolist()])
            power = torch.fft.fftshift(torch.fft.fft2(patches * probe), dim=(-2, -1)).abs().square()
            if not first:
                scale = photons / float(power.sum((1, 2)).mean())
            counts = torch.poisson(power * scale, generator=noise).clamp_max(65535)
            frames[first : first + 256] = counts.numpy().astype(np.uint16)
        file["probe_position_x_px"], file["probe_position_y_px"] = positions.T.astype(float)
        file["probe"] = probe.numpy()[None]
    return path


def tree(pid: int) -> list[int]:
    """A process and all that it has started."""
    try:
        kids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(found for kid in kids for found in tree(int(kid)))]


def held(pids: list[int]) -> tuple[int, int]:
    """PSS and RSS of processes, bytes."""
    sums = [0, 0]
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        for k, name in enumerate(("Pss", "Rss")):
            found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
            sums[k] += int(found[1]) << 10 if found else 0
    return sums[0], sums[1]


def command(scan: Path, folder: Path, sweeps: int, *more: str) -> list[str]:
    words = ["reconstruct", str(scan), "-o", str(folder), "--start", "flat", "--refine", str(sweeps)]
    return [sys.executable, "-m", "ptycho_torch", *words, *more]


def image_of(folder: Path) -> Reconstruction:
    """The image in a folder, whichever file it is in."""
    files = (folder / f"reconstruction.{ending}" for ending in ("npz", "h5"))
    return load_reconstruction(next(path for path in files if path.exists()))


def run(words: list[str], watched: Callable[[subprocess.Popen[str]], None] | None = None) -> dict[str, Any]:
    """Run a command; what it took."""
    before, began, peaks = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), [0, 0]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None:
        peaks = [max(pair) for pair in zip(peaks, held(tree(process.pid)), strict=True)]
        if watched is not None:
            watched(process)
        time.sleep(0.2)
    said = process.stderr.read() if process.stderr else ""
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ends = [0.0, *(float(seconds) for _, seconds in _SWEEP.findall(said))]
    return {
        "status": process.returncode,
        "seconds": time.monotonic() - began,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_pss_mib": peaks[0] / 2**20,
        "peak_rss_mib": peaks[1] / 2**20,
        "sweep_seconds": np.diff(ends).tolist(),
        "said": said if process.returncode else "",
    }


def lengths(arguments: argparse.Namespace, size: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Memory and time against the number of frames; the exponent of the time that is not spent on starting.

    By two processes, which solve in pieces whatever the length: one would solve a short scan at once.
    """
    rows = []
    empty = make_scan(arguments.work / "empty.h5", 16, size, arguments.step, 1e5, arguments.seed)
    several = ["--processes", "2", "--memory", arguments.memory]
    start = run(command(empty, arguments.work / "image", 1, *several))
    for count in arguments.frames:
        scan = arguments.work / f"scan-{count}.h5"
        began = time.monotonic()
        make_scan(scan, count, size, arguments.step, 1e5, arguments.seed)
        made = time.monotonic() - began
        found = run(command(scan, arguments.work / f"image-{count}", arguments.sweeps, *several))
        work = found["cpu_seconds"] - start["cpu_seconds"]
        rows.append(
            {
                "frames": count,
                "made_seconds": made,
                "gib": scan.stat().st_size / 2**30,
                **found,
                "work_cpu_seconds": work,
                "frame_sweeps_per_cpu_second": count * arguments.sweeps / work,
            }
        )
        print(table([{k: v for k, v in rows[-1].items() if k not in ("said", "sweep_seconds")}]), flush=True)
        if found["status"]:
            print(found["said"])
    log = np.log([[row["frames"], row["work_cpu_seconds"]] for row in rows])
    summary = {
        "start_cpu_seconds": start["cpu_seconds"],
        "exponent": float(np.polyfit(log[:, 0], log[:, 1], 1)[0]),
    }
    return rows, summary


def processes(arguments: argparse.Namespace, count: int) -> list[dict[str, Any]]:
    """The same scan by one, two and four processes."""
    scan, rows, first = arguments.work / f"scan-{count}.h5", [], None
    for number in arguments.processes:
        folder = arguments.work / f"image-by-{number}"
        # One process solves a scan that fits at once: with its part of the memory alone it goes in pieces, too.
        most = max(arguments.processes)
        memory = ["--memory", str(bytes_of(arguments.memory) * number // most)]
        words = command(scan, folder, arguments.sweeps, *memory, "--processes", str(number))
        found = run(words)
        image = image_of(folder) if not found["status"] else None
        difference, cells = None, None if image is None else image.info.get("cells")
        if image is not None and cells:  # what fits is solved at once, which is another order of batches
            first = first or image
            difference = float(np.abs(image.object - first.object).max())
        rows.append({"processes": number, "cells": cells, **found, "largest_difference": difference})
        print(table([{k: v for k, v in rows[-1].items() if k not in ("said", "sweep_seconds")}]), flush=True)
    return rows


def kills(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
    """One run that is killed again and again, each time going on with another number of processes."""
    rng = np.random.default_rng(arguments.seed)
    scan = make_scan(arguments.work / "kills.h5", 1200, min(size, 32), 5.0, 1e4, arguments.seed)
    straight, folder = arguments.work / "straight", arguments.work / "killed"
    sweeps = max(4, arguments.kills)
    if run(command(scan, straight, sweeps, "--processes", "2"))["status"]:
        raise SystemExit("the run that nobody killed failed")
    state, rows = folder / "reconstruct.state", []

    def pieces() -> set[str]:
        return {f"{p.parent.name}/{p.name}" for p in state.glob("*/*.npz")}

    def sweep(names: set[str]) -> int:
        return max([0, *(int(name[6:10]) for name in names if name.startswith("sweep"))])

    for kill in range(arguments.kills):
        number = int(rng.integers(2, 5))
        before, wait = pieces(), float(rng.uniform(0, 0.5))
        words = command(scan, folder, sweeps, "--processes", str(number), *(["--resume"] if kill else []))
        process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        while process.poll() is None and pieces() <= before:
            time.sleep(0.02)
        time.sleep(wait)
        ranks = [pid for pid in tree(process.pid)[1:] if Path(f"/proc/{pid}").exists()][:number]
        victim = int(rng.integers(len(ranks))) if ranks else -1
        times = {p: p.stat().st_mtime_ns for p in state.glob(f"sweep-{sweep(before):04d}/*.npz")}
        if ranks:
            os.kill(ranks[victim], signal.SIGKILL)
        began = time.monotonic()
        process.communicate(timeout=300)
        redone = [p.name for p, t in times.items() if p.exists() and p.stat().st_mtime_ns != t]
        left = [pid for pid in ranks if Path(f"/proc/{pid}").exists()]
        rows.append(
            {
                "processes": number,
                "victim": victim,
                "status": process.returncode,
                "seconds_to_end": time.monotonic() - began,
                "left_behind": len(left),
                "pieces_kept": len(pieces()),
                "sweep": sweep(pieces()),
                "redone": len(redone),
            }
        )
        print(rows[-1], flush=True)
    last = run(command(scan, folder, sweeps, "--processes", "3", "--resume"))
    one, other = image_of(straight), image_of(folder)
    return {
        "rows": rows,
        "status": last["status"],
        "largest_difference": float(np.abs(one.object - other.object).max()),
        "resumed": sum(row["status"] == 1 and not row["left_behind"] for row in rows),
    }


def timed(*given: Any) -> tuple[RegionObject, float]:
    """What ``solve_learned`` finds, and its CPU seconds."""
    began = time.process_time()
    return solve_learned(*given), time.process_time() - began


def cut(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """How much the learned solver's image depends on the cut into tiles, and what the halo costs."""
    solver, options, rows = load_solver(shipped_bundle()), LearnedOptions(sweeps=5), []
    count = 400 if arguments.quick else 900
    for step in (10.0,) if arguments.quick else (5.0, 10.0, 20.0):
        path = make_scan(arguments.work / f"cut-{step}.h5", count, 64, step, 1e6, arguments.seed)
        scan = open_scan(path)
        frames, probe = frames_of(scan), scan.probe
        assert probe is not None

        whole, alone = timed(solver, frames, probe, replace(options, tile_pixels=count * 64**2))
        lit = whole.weight > 0.1 * whole.weight.max()
        for halo in (0.5, 0.75, 1.0, 1.5):
            most = -(-count // 4)
            found, took = timed(solver, frames, probe, replace(options, halo=halo, tile_pixels=most * 64**2))
            apart = float(
                np.linalg.norm((found.object - whole.object)[lit]) / np.linalg.norm(whole.object[lit])
            )
            tiles = len(cut_tiles(frames.positions, 64, most, halo * 64))
            rows.append(
                {"step": step, "tiles": tiles, "halo": halo, "difference": apart, "cost": took / alone}
            )
        print(table(rows[-4:]), flush=True)
    return rows


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row for the table: seconds of the first and the last sweep in place of all, and nothing that was said."""
    kept = {key: value for key, value in row.items() if key not in ("said", "sweep_seconds")}
    sweeps = row["sweep_seconds"]
    return {**kept, "first_sweep_seconds": sweeps[0], "last_sweep_seconds": sweeps[-1]} if sweeps else kept


def main() -> None:
    made = parser(__doc__, shared=False)
    made.add_argument("--frames", type=int, nargs="+", default=None)
    made.add_argument("--size", type=int, default=None, help="edge of a frame; default 128, quick 64")
    made.add_argument("--step", type=float, default=12.0, help="pixels between frames")
    made.add_argument("--sweeps", type=int, default=2)
    made.add_argument("--memory", default="2GiB")
    made.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    made.add_argument("--kills", type=int, default=None, help="default 20, quick 3")
    made.add_argument(
        "--work", type=Path, default=Path(), help="folder for scans and images, which are removed at the end"
    )
    made.add_argument("--only", choices=PARTS, nargs="+", default=None)
    arguments = made.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads or 1)
    size = arguments.size or (64 if arguments.quick else 128)
    arguments.frames = arguments.frames or ([250, 1000] if arguments.quick else [1000, 10_000, 100_000])
    arguments.kills = (3 if arguments.quick else 20) if arguments.kills is None else arguments.kills
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.work = Path(tempfile.mkdtemp(prefix="scale-", dir=arguments.work))
    parts = arguments.only or PARTS
    about = {"size": size, "step": arguments.step, "sweeps": arguments.sweeps, "memory": arguments.memory}
    if "lengths" in parts:
        rows, summary = lengths(arguments, size)
        print(summary)
        print(keep("scale-lengths", arguments, {**about, **summary, "rows": list(map(plain, rows))}))
    if "processes" in parts:
        count = arguments.frames[-1]
        if not (arguments.work / f"scan-{count}.h5").exists():
            make_scan(arguments.work / f"scan-{count}.h5", count, size, arguments.step, 1e5, arguments.seed)
        rows = processes(arguments, count)
        print(keep("scale-processes", arguments, {**about, "rows": list(map(plain, rows))}))
    if "kills" in parts:
        print(keep("scale-kills", arguments, kills(arguments, size)))
    if "cut" in parts:
        print(keep("scale-cut", arguments, {"rows": cut(arguments)}))
    shutil.rmtree(arguments.work)


if __name__ == "__main__":
    main()
