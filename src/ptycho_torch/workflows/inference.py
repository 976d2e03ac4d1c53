"""Reconstruction as a whole job: from a bundle and a scan to a folder with the object, pictures and numbers."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_torch.config import ExecutionConfig, InferenceConfig, validate
from ptycho_torch.device import device_of
from ptycho_torch.errors import ConfigError, DataError
from ptycho_torch.files import ensure_output_dir, require_new, write_bytes_atomic, write_text_atomic
from ptycho_torch.reconstruction.predict import reconstruct as predict
from ptycho_torch.report.figures import figure_png, reconstruction_figure, scan_figure
from ptycho_torch.report.html import Section, write_report
from ptycho_torch.report.tables import json_text
from ptycho_torch.result import Reconstruction, save_reconstruction
from ptycho_torch.scan import Geometry, Scan, open_scan
from ptycho_torch.scan.product import Product, write_product
from ptycho_torch.solvers import SOLVERS, LearnedOptions, Progress, Solver, SolverOptions
from ptycho_torch.solvers.residual import residual
from ptycho_torch.training.prepare import subsample
from ptycho_torch.workflows.records import described
from ptycho_torch.workflows.solving import (
    Network,
    judged,
    kept_back,
    network_of,
    polishing,
    read_once,
    solve,
    starts_flat,
    with_probe,
)

__all__ = ["Listeners", "ReconstructionOutputs", "Refinement", "reconstruct_to"]

logger = logging.getLogger(__name__)
_OUTPUTS = ("reconstruction.npz", "metrics.json", "product.h5", "reconstruction.png", "report.html")
_EFFORT = {"quick": 5, "normal": 10, "thorough": 16}
"""Iterations of the learned solver; pretraining knows at most seven, and more make the image worse."""
_PATIENCE = {"quick": 0.5, "normal": 1.0, "thorough": 3.0}
"""Factor on the sweeps that follow by themselves."""


@dataclass
class Refinement:
    """What goes on from the network's image.

    Attributes
    ----------
    solver : str
        Name in :data:`ptycho_torch.solvers.SOLVERS`.
    options : SolverOptions, optional
        Of the class that the solver names; default: its defaults.
    """

    solver: str = "epie"
    options: SolverOptions | None = None


@dataclass
class Listeners:
    """Who is told how far it is.

    Attributes
    ----------
    groups : callable, optional
        Called with groups done and groups in all.
    sweep : callable, optional
        Called with the sweep that is done and its residual.
    """

    groups: Progress | None = None
    sweep: Progress | None = None


@dataclass
class ReconstructionOutputs:
    """What a job leaves.

    Attributes
    ----------
    reconstruction : Reconstruction
    files : dict of str to Path
        All files by name.
    metrics : dict
        What ``metrics.json`` says.
    warnings : list of str
        What could not be drawn.
    """

    reconstruction: Reconstruction
    files: dict[str, Path]
    metrics: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Job:
    """What is asked for, checked, before anything is computed or written."""

    network: Network
    scan: Scan
    hidden: NDArray[np.bool_]
    config: InferenceConfig
    execution: ExecutionConfig
    solver: Solver | None
    flat: bool
    geometry: Geometry | None
    device: str

    @property
    def name(self) -> str:
        return str(described(self.scan).get("name", "scan"))


def reconstruct_to(
    output_dir: str | Path,
    scan: Scan | str | Path,
    bundle: str | Path | None = None,
    config: InferenceConfig | None = None,
    execution: ExecutionConfig | None = None,
    *,
    refinement: Refinement | None = None,
    product: bool | Geometry = False,
    listeners: Listeners | None = None,
) -> ReconstructionOutputs:
    """Reconstruct a scan and keep the result in a folder.

    Writes ``reconstruction.npz``, ``metrics.json`` and, where asked, ``product.h5``; then
    ``reconstruction.png`` and ``report.html``. A picture or report that fails is a warning: the numbers
    are on disk by then.

    Parameters
    ----------
    output_dir : str or Path
    scan : Scan, str or Path
    bundle : str or Path, optional
        Default: the one that ships with the package, which needs no training.
    config : InferenceConfig, optional
    execution : ExecutionConfig, optional
    refinement : Refinement, optional
        Solve on from the network's image. Default: the network alone; with the shipped bundle and
        ``config.polish`` some sweeps of ``epie``.
    product : bool or Geometry
        Also write ``product.h5``, which ptychodus opens, with the scan's geometry or the one given.
    listeners : Listeners, optional

    Returns
    -------
    ReconstructionOutputs

    Raises
    ------
    PtychoError
        When something that was given cannot be used; nothing is written then.

    Examples
    --------
    >>> from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
    >>> obj = make_object("grf", 64, 0)
    >>> scan = simulate_scan(obj, make_probe("zoneplate", 32), make_positions("grid", obj.shape, 32, step=8))
    >>> done = reconstruct_to("image", scan, config=InferenceConfig(effort="quick"))
    >>> sorted(path.name for path in done.files.values())
    ['metrics.json', 'reconstruction.npz', 'reconstruction.png', 'report.html']
    """
    listeners = listeners or Listeners()
    job = _job(scan, bundle, config or InferenceConfig(), execution or ExecutionConfig(), refinement, product)
    folder = ensure_output_dir(output_dir)
    source = None if job.scan.source is None else job.scan.source.path
    require_new(
        [folder / name for name in _OUTPUTS], *(p for p in (source, bundle) if p and Path(p).is_file())
    )
    if job.execution.threads is not None:
        torch.set_num_threads(job.execution.threads)
    result = _image(job, refinement, listeners)
    metrics = {**result.facts(), "scan": described(job.scan), "shape": list(result.object.shape)}
    done = ReconstructionOutputs(result, {}, metrics)
    _save(done, job, folder)
    _draw(done, job, folder)
    return done


def _job(
    scan: Scan | str | Path,
    bundle: str | Path | None,
    config: InferenceConfig,
    execution: ExecutionConfig,
    refinement: Refinement | None,
    product: bool | Geometry,
) -> _Job:
    validate(config)
    validate(execution, "execution.")
    device = device_of(execution.accelerator)
    solver = None if refinement is None else SOLVERS.get(refinement.solver)(device)
    network = network_of(bundle, device)
    scan = scan if isinstance(scan, Scan) else open_scan(scan, require_probe=False)
    scan.require_one_run()
    seed = config.seed if config.subsample_seed is None else config.subsample_seed
    scan = subsample(scan, config.n_subsample, seed)
    geometry = product if isinstance(product, Geometry) else scan.geometry
    if product and geometry is None:
        raise DataError(
            f"{described(scan).get('name', 'scan')}: a product is in metres: expected a scan that says its "
            "pixel size, found one in pixels; give pixel size, energy and distance"
        )
    wanted = geometry if product else None
    # A network that was trained elsewhere has seen no frame of this scan; a solver is to miss a few.
    share = 0.0 if network.solver is None else config.withhold
    hidden = kept_back(scan, share, config.seed)
    scan = read_once(scan, hidden)
    flat = config.start == "flat" or (config.start == "auto" and bundle is None and starts_flat(scan))
    if refinement is None and bundle is None and config.polish:
        solver = SOLVERS.get("epie")(device)
    if flat and solver is None:
        if config.start == "flat":
            raise ConfigError(
                "--start flat: nothing would be solved; give --refine N, or leave out --no-polish"
            )
        flat = False
    return _Job(network, scan, hidden, config, execution, solver, flat, wanted, device)


def _image(job: _Job, refinement: Refinement | None, listeners: Listeners) -> Reconstruction:
    """The network's image, refined where asked, and R of the frames that were used and of those that were not."""
    seen = job.scan.select(~job.hidden) if job.hidden.any() else job.scan
    patience = _PATIENCE[job.config.effort]
    options = polishing(job.flat, patience) if refinement is None else refinement.options
    if job.flat and job.solver is not None:
        result = job.solver.solve(with_probe(seen), None, options, listeners.sweep)
        return judged(result, job.scan, job.hidden, job.device)
    result = _network(job, seen, listeners)
    if job.solver is not None:
        before = residual(result, seen, device=job.device)
        result = job.solver.solve(seen, result, options, listeners.sweep)
        result = replace(result, info={**result.info, "residual_before_refinement": before})
    provenance = {**result.provenance, "bundle": job.network.name}
    return judged(replace(result, provenance=provenance), job.scan, job.hidden, job.device)


def _network(job: _Job, seen: Scan, listeners: Listeners) -> Reconstruction:
    bf16 = job.execution.precision == "bf16"
    if job.network.solver is not None:
        options = LearnedOptions(sweeps=_EFFORT[job.config.effort], bf16=bf16, seed=job.config.seed)
        return solve(seen, job.network, options, device=job.device, progress=listeners.groups)
    return predict(
        job.network.model,
        seen,
        batch_size=job.config.batch_size,
        n_groups=job.config.n_groups,
        neighbor_count=job.config.neighbor_count,
        seed=job.config.seed,
        bf16=bf16,
        progress=listeners.groups,
    )


def _save(done: ReconstructionOutputs, job: _Job, folder: Path) -> None:
    """Write the numbers."""
    files, rec = done.files, done.reconstruction
    files["reconstruction"] = save_reconstruction(rec, folder / "reconstruction.npz")
    if job.geometry is not None:
        files["product"] = folder / "product.h5"
        parts = rec.object, rec.origin_xy, rec.positions, rec.probe
        write_product(Product.of(*parts, job.geometry, job.name, json_text(done.metrics)), files["product"])
    files["metrics"] = folder / "metrics.json"
    write_text_atomic(files["metrics"], json_text(done.metrics))


def _draw(done: ReconstructionOutputs, job: _Job, folder: Path) -> None:
    """Write picture and report; a failure is a warning."""
    try:
        title = f"{job.name}, {job.scan.n_frames} frames"
        picture = figure_png(reconstruction_figure(done.reconstruction, title))
        write_bytes_atomic(folder / "reconstruction.png", picture)
        done.files["figure"] = folder / "reconstruction.png"
        caption = "Amplitude and phase, masked where nothing was measured"
        scan_picture = figure_png(scan_figure(job.scan))
        sections = [
            Section("Object", "", done.metrics, [(caption, picture)]),
            Section("Scan", "", {}, [("Positions, mean frame, probe guess", scan_picture)]),
        ]
        write_report(folder / "report.html", f"Reconstruction of {job.name}", sections)
        done.files["report"] = folder / "report.html"
    except Exception as error:  # whatever drawing raises, the numbers are written and stay
        text = f"{folder}: the numbers are written, the picture or report is not: {type(error).__name__}: {error}"
        logger.warning(text)
        done.warnings.append(text)
