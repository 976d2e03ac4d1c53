"""What a file is: a scan, a bundle or a result, in plain values; and what ``reconstruct`` would do with a scan."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptycho_torch.bundle.inspect import inspect_bundle
from ptycho_torch.errors import ScanError, ScanNotFoundError, printable
from ptycho_torch.files.archive import Archive
from ptycho_torch.files.regular import open_regular, similar
from ptycho_torch.result import Reconstruction, load_reconstruction
from ptycho_torch.scan import Scan, open_scan
from ptycho_torch.solvers import LearnedOptions
from ptycho_torch.solvers.start import flat_start
from ptycho_torch.workflows.solving import (
    PROBE_FRAMES,
    PROBE_SWEEPS,
    polishing,
    starts_flat,
    with_probe,
)

__all__ = ["Described", "describe", "plan_of"]

_TRANSFORMS: Final = {"sweep": 15.0, "iteration": 60.0}
"""Cost of a frame in one of :mod:`~ptycho_torch.solvers.epie`'s sweeps, and in one iteration of the learned solver,
in Fourier transforms of a frame. Measured with benchmarks/info_cost.py on one thread."""
_TILE_BYTES: Final = 60
"""Memory that a pixel of frames takes while it is solved for; see :class:`LearnedOptions`."""
_CANVAS_BYTES: Final = 120
_PROGRAM_BYTES: Final = 500_000_000
"""Python, torch and the networks themselves."""


@dataclass(frozen=True)
class Described:
    """What was found.

    Attributes
    ----------
    kind : {"scan", "bundle", "result"}
    facts : dict
        Plain values by name, for tables and JSON.
    content : Scan, Reconstruction or None
        For a picture; None for a bundle.
    """

    kind: str
    facts: dict[str, Any]
    content: Scan | Reconstruction | None


def describe(path: str | Path, **reading: Any) -> Described:
    """Say what a file is.

    Parameters
    ----------
    path : str or Path
        A scan, a bundle or its folder, a reconstruction, or a folder with a ``reconstruction.npz``.
    **reading
        How a scan is read; see :func:`~ptycho_torch.scan.open_scan`.

    Returns
    -------
    Described

    Raises
    ------
    ScanError, BundleError
        When it is none of these, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise ScanNotFoundError(
            f"{printable(path, 1000)}: there is no such file; give a scan, a bundle or a reconstruction{similar(path)}"
        )
    if path.is_dir() and (path / "reconstruction.npz").is_file():
        path = path / "reconstruction.npz"
    kind = _kind(path)
    if kind == "bundle":
        return Described("bundle", {"kind": "bundle", **inspect_bundle(path)}, None)
    if kind == "result":
        rec = load_reconstruction(path)
        return Described("result", {"kind": "result", "path": str(path), **_result_facts(rec)}, rec)
    scan = open_scan(path, require_probe=False, **reading)
    return Described("scan", {"kind": "scan", "path": str(path), **_scan_facts(scan)}, scan)


def _kind(path: Path) -> str:
    """``bundle`` for a folder or an archive with a manifest, ``result`` for an NPZ with an object and its weight."""
    if path.is_dir():
        return "bundle"
    try:
        with open_regular(path) as stream:
            if stream.read(2) != b"PK":
                return "scan"
    except OSError as error:
        raise ScanError(f"{printable(path, 1000)}: cannot be read ({error.strerror or error})") from error
    try:
        with Archive(path) as archive:
            if all(key in archive for key in ("object", "weight", "origin_xy")):
                return "result"
    except ScanError:
        pass  # the readers below say what is wrong with it
    if path.suffix == ".zip":
        return "bundle"
    return "scan"


def _result_facts(rec: Reconstruction) -> dict[str, Any]:
    return {
        "object_shape": list(rec.object.shape),
        "probe_shape": list(rec.probe.shape),
        "origin_xy": rec.origin_xy.tolist(),
        "measured_share": float(rec.measured().mean()),
        **rec.facts(),
    }


def _scan_facts(scan: Scan) -> dict[str, Any]:
    source = scan.source
    facts: dict[str, Any] = {
        "format": source.format if source else None,
        "sha256": source.sha256 if source else None,
        "frames": scan.n_frames,
        "N": scan.N,
        "stored_as": source.measurement if source else None,
        "why": source.measurement_why if source else None,
        "photons_per_frame": scan.mean_power if scan.counts_known else None,
        "mean_power": scan.mean_power,
        "probe_modes": scan.n_modes,
        "good_pixels": 1.0 if scan.good_pixels is None else float(scan.good_pixels.mean()),
        "object_in_file": scan.object_guess is not None,
        "runs": {str(number): count for number, count in scan.runs.items()},
        **_geometry(scan),
    }
    facts["plan"] = plan_of(scan) if not scan.runs else None
    return facts


def _geometry(scan: Scan) -> dict[str, Any]:
    """Extent, steps and overlap of the positions, object pixels; pixel size in metres where it is known."""
    extent = np.ptp(scan.positions, axis=0) + scan.N
    facts: dict[str, Any] = {"extent_xy": [round(float(v), 1) for v in extent], "step": None, "overlap": None}
    if scan.n_frames > 1:
        step = float(np.median(cKDTree(scan.positions).query(scan.positions, k=2)[0][:, 1]))
        width = scan.N if scan.probe is None else _width(scan.probe)
        facts |= {
            "step": step,
            "probe_width": None if scan.probe is None else width,
            "overlap": max(0.0, 1 - step / width),
        }
    if scan.geometry is not None:
        facts |= {"pixel_m": list(scan.geometry.pixel_m), "energy_ev": scan.geometry.energy_ev}
    return facts


def _width(probe: NDArray[np.complex64]) -> float:
    """Diameter of the disk whose even light has the probe's power and its mean square."""
    light = np.square(np.abs(probe)).sum(0, dtype=np.float64)
    return float(2 * np.sqrt(light.sum() ** 2 / np.square(light).sum() / np.pi))


def plan_of(scan: Scan) -> dict[str, Any]:
    """Say what ``reconstruct`` would do with a scan, and about what that costs on this machine's processor.

    Parameters
    ----------
    scan : Scan
        Of one run.

    Returns
    -------
    dict
        ``steps``: in words; ``seconds``: without reading the file, within a factor of two or so, from a
        Fourier transform that is timed now; ``bytes``: of memory at most.
    """
    flat, learned = starts_flat(scan), LearnedOptions()
    sweeps = polishing(photons=scan.photons_per_pixel).sweeps
    frame = _TRANSFORMS["sweep"] * sweeps
    steps = [f"{sweeps} iterative sweeps"]
    if flat:
        steps.insert(0, "a flat object")
    else:
        share = min(1.0, PROBE_FRAMES / scan.n_frames)
        frame += _TRANSFORMS["iteration"] * learned.sweeps + _TRANSFORMS["sweep"] * PROBE_SWEEPS * share
        found = [
            f"{PROBE_SWEEPS} sweeps for the probe",
            f"{learned.sweeps} iterations of the pretrained solver",
        ]
        steps = found + steps
    modes = max(1, scan.n_modes)
    seconds = frame * scan.n_frames * modes * _seconds_of_transform(scan.N)
    tile = min(learned.tile_pixels, scan.n_frames * scan.N**2 * modes)
    height, width = flat_start(with_probe(scan)).object.shape
    return {
        "steps": steps,
        "seconds": float(f"{seconds:.2g}"),
        "bytes": int(float(f"{_PROGRAM_BYTES + _TILE_BYTES * tile + _CANVAS_BYTES * height * width:.2g}")),
        "command": f"ptychopinn reconstruct {Path(scan.source.path).name if scan.source else 'SCAN'}",
    }


def _seconds_of_transform(size: int, count: int = 32) -> float:
    """Seconds of one transform of a frame there and back, the shortest of a few tries."""
    wave = torch.zeros(count, size, size, dtype=torch.complex64)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        torch.fft.ifft2(torch.fft.fft2(wave))
        times.append(time.perf_counter() - began)
    return min(times) / (2 * count)
