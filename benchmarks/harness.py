"""What every benchmark shares: machine and versions, the command, JSON out, a table out."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptycho_torch.training.trained import Trained

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Folder with the measured data, beside the project; ``--shared`` names another."""


def parser(description: str | None, shared: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has: ``--quick --seed --threads --output --shared``."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="a short run, under two minutes, to see it work")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=None, help="CPU threads; default: as torch chooses")
    made.add_argument(
        "--output", type=Path, default=Path("benchmark_results"), help="folder for JSON and figures"
    )
    if shared:
        made.add_argument("--shared", type=Path, default=SHARED, help="folder with data/")
    return made


def machine() -> dict[str, Any]:
    """CPU, cores, memory, GPU if torch sees one, and the versions of what matters."""
    import torch

    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
        if Path("/proc/cpuinfo").exists()
        else iter(()),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("ptychopinn", "torch", "lightning", "numpy", "scipy", "scikit-image")
        },
    }


def whole(trained: Trained) -> Trained:
    """Return what training made; ends the benchmark where a signal cut it short, which is no result."""
    if trained.interrupted:
        raise SystemExit(f"interrupted by signal {trained.signal}: no result is kept")
    return trained


def keep(
    name: str, arguments: argparse.Namespace, results: Any, by: Sequence[str] = (), pivot: Sequence[str] = ()
) -> Path:
    """Writes ``{output}/{name}.json``: results with command, seed, machine, versions and date.

    Rows that agree in the columns ``by`` are runs of one case with different seeds; ``pivot`` names the columns
    that go down, across, and are shown, as ``tables.py`` has them.
    """
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    record = {
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "seed": arguments.seed,
        "threads": arguments.threads,
        "machine": machine(),
        "load_average": os.getloadavg()[0],
        "by": list(by),
        "pivot": list(pivot),
        "results": results,
    }
    path.write_text(json.dumps(record, indent=2, default=float) + "\n")
    return path


def over_seeds(
    rows: Sequence[Mapping[str, Any]], by: Sequence[str], of: Sequence[str]
) -> list[dict[str, Any]]:
    """Means of the columns ``of`` over rows that agree in ``by``, how many they are, and ``spread``.

    That is the standard deviation of the first of ``of``; 0 for a single row.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row)
    found = []
    for key, mine in groups.items():
        means = {name: statistics.fmean(row[name] for row in mine) for name in of}
        spread = statistics.stdev(row[of[0]] for row in mine) if len(mine) > 1 else 0.0
        found.append({**dict(zip(by, key, strict=True)), "seeds": len(mine), **means, "spread": spread})
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned text, columns in the order of the first row."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[_shown(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells
    )


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
