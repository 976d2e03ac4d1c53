"""Reconstruction as a whole job: from a bundle and a scan to a folder with the object, pictures and numbers."""

from __future__ import annotations

import contextlib
import dataclasses
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
from ptycho_torch.files.memory import memory_capped, memory_limit
from ptycho_torch.reconstruction.predict import reconstruct as predict
from ptycho_torch.report.figures import figure_png, reconstruction_figure, scan_figure, uncertainty_figure
from ptycho_torch.report.html import Section, write_report
from ptycho_torch.report.tables import json_text
from ptycho_torch.result import Reconstruction, save_reconstruction
from ptycho_torch.scan import Geometry, Scan, open_scan
from ptycho_torch.scan.product import Product, write_product
from ptycho_torch.solvers import SOLVERS, LearnedOptions, Progress, RefineOptions, Solver, SolverOptions
from ptycho_torch.solvers.epie import Epie
from ptycho_torch.solvers.residual import residual
from ptycho_torch.training.prepare import subsample
from ptycho_torch.uncertainty.sigma import with_sigma
from ptycho_torch.workflows.records import described
from ptycho_torch.workflows.run_folder import RunFolder
from ptycho_torch.workflows.solving import (
    Network,
    judged,
    kept_back,
    network_of,
    only_noise_is_left,
    polishing,
    read_once,
    solve,
    starts_flat,
    with_guess,
    with_probe,
)
from ptycho_torch.workflows.tiled import (
    CANVAS_NAME,
    STATE_NAME,
    PieceJob,
    Pieces,
    Solved,
    fits,
    solve_in_pieces,
)

__all__ = ["Listeners", "Pieces", "ReconstructionOutputs", "Refinement", "reconstruct_to", "sweeps_at_most"]

logger = logging.getLogger(__name__)
_OVERFITS = (
    "Frames that were withheld are explained much worse than those that were used: the image overfits. It holds what"
    " is in its own frames only, such as their noise. Fewer sweeps, more overlap, more photons or better positions"
    " help."
)
_OUTPUTS = ("reconstruction.npz", "metrics.json", "product.h5", "reconstruction.png", "report.html")
_EFFORT = {"quick": 5, "normal": 10, "thorough": 16}
"""Iterations of the learned solver. Pretraining has four to ten; late ones converge, so more come nearer."""
_PATIENCE = {"quick": 0.5, "normal": 1.0, "thorough": 3.0}
"""Factor on the sweeps that follow by themselves."""


def sweeps_at_most(config: InferenceConfig) -> int:
    """Return how many sweeps follow by themselves, unless photons are few.

    Examples
    --------
    >>> sweeps_at_most(InferenceConfig()), sweeps_at_most(InferenceConfig(effort="thorough"))
    (30, 90)
    """
    return polishing(_PATIENCE[config.effort]).sweeps


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
    reconstruction : Reconstruction, optional
        None on all processes but the first, and where its canvas is larger than memory: then it is in a file.
    files : dict of str to Path
        All files by name.
    metrics : dict
        What ``metrics.json`` says.
    warnings : list of str
        What could not be drawn.
    """

    reconstruction: Reconstruction | None
    files: dict[str, Path]
    metrics: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def whole(self) -> Reconstruction:
        """Return the reconstruction. Raises :class:`DataError` where it is not in memory."""
        if self.reconstruction is None:
            raise DataError(
                "the reconstruction is not in memory here: expected its canvas to fit, found it in"
                f" {self.files.get('reconstruction', 'the first process')}"
            )
        return self.reconstruction


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
    pieces: Pieces | None = None,
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
    pieces : Pieces, optional
        Memory and processes. A scan that does not fit, or that several processes share, is solved in pieces;
        where its canvas is larger than memory, ``reconstruction.h5`` takes the place of the NPZ.

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
    listeners, pieces = listeners or Listeners(), pieces or Pieces()
    config, execution = config or InferenceConfig(), execution or ExecutionConfig()
    with memory_capped(pieces.share):
        job = _job(scan, bundle, config, execution, refinement, product)
        source = None if job.scan.source is None else job.scan.source.path
        inputs = [p for p in (source, bundle) if p and Path(p).is_file()]
        if job.execution.threads is not None:
            torch.set_num_threads(job.execution.threads)
        if _in_pieces(job, Path(output_dir), pieces):
            return _solved_in_pieces(job, refinement, Path(output_dir), pieces, listeners, inputs)
        folder = ensure_output_dir(output_dir)
        require_new([folder / name for name in _OUTPUTS], *inputs)
        return _solved_at_once(job, refinement, folder, listeners)


def _solved_at_once(
    job: _Job, refinement: Refinement | None, folder: Path, listeners: Listeners
) -> ReconstructionOutputs:
    job.scan = read_once(job.scan, job.hidden)
    result = _image(job, refinement, listeners)
    metrics = {**result.facts(), "scan": described(job.scan), "shape": list(result.object.shape)}
    done = ReconstructionOutputs(result, {}, metrics)
    _save(done, job, folder)
    _draw(done, job, folder)
    return done


def _in_pieces(job: _Job, folder: Path, pieces: Pieces) -> bool:
    """Whether a scan is solved in pieces: it is large, several processes share it, or it was begun so."""
    several = pieces.group.size > 1
    going_on = pieces.resume and (folder / STATE_NAME).exists()
    # The same for all processes: what is free may be something else by the time that the next one looks.
    memory = memory_limit() // (1 if pieces.memory is not None else 2)
    large = several or going_on or not fits(job.scan, not job.flat, memory)
    if several and job.network.solver is None:
        raise ConfigError(
            f"--model {job.network.name}: expected one process for a model that predicts frame by frame,"
            f" found {pieces.group.size}"
        )
    return large and job.network.solver is not None  # others go through any number of frames, one by one


def _solved_in_pieces(
    job: _Job,
    refinement: Refinement | None,
    output_dir: Path,
    pieces: Pieces,
    listeners: Listeners,
    inputs: list[str | Path],
) -> ReconstructionOutputs:
    """Solve a large scan, and write what fits into memory as ever, the rest piece by piece."""
    patience, given = _PATIENCE[job.config.effort], None if refinement is None else refinement.options
    options = polishing(patience, job.scan.photons_per_pixel) if refinement is None else given
    bf16 = job.execution.precision == "bf16"
    learned = LearnedOptions(_EFFORT[job.config.effort], _solves_probe(refinement), bf16=bf16)
    piece_job = PieceJob(
        job.network,
        job.scan,
        job.hidden,
        None if job.flat else learned,
        job.solver,
        None if job.solver is None else options,
        job.device,
        job.config.start == "auto" and isinstance(job.solver, Epie),
    )
    with contextlib.ExitStack() as held:

        def begin() -> None:
            held.enter_context(RunFolder(output_dir).held())
            require_new([output_dir / name for name in (*_OUTPUTS, CANVAS_NAME)], *inputs)

        pieces.group.shared(begin)
        solved = solve_in_pieces(piece_job, output_dir, pieces, (listeners.groups, listeners.sweep))
        done = ReconstructionOutputs(None, {}, {})
        if solved is not None:
            done = _written(solved, job, output_dir)
            solved.store.remove()
        pieces.group.wait()
    return done


def _written(solved: Solved, job: _Job, folder: Path) -> ReconstructionOutputs:
    """Write what was solved in pieces."""
    small = solved.small
    result = solved.reconstruction(1 if small else 1 + max(solved.shape) // 2048)
    metrics = {**result.facts(), "scan": described(job.scan), "shape": list(solved.shape)}
    done = ReconstructionOutputs(result, {}, metrics)
    if small:
        _save(done, job, folder)
        (folder / CANVAS_NAME).unlink(missing_ok=True)
    else:
        done.files["reconstruction"] = solved.moved_to(folder / CANVAS_NAME)
        (folder / "reconstruction.npz").unlink(missing_ok=True)
        if job.geometry is not None:
            done.files["product"] = solved.product(
                folder / "product.h5", job.geometry, job.name, json_text(metrics)
            )
        done.files["metrics"] = folder / "metrics.json"
        write_text_atomic(done.files["metrics"], json_text(metrics))
    _draw(done, job, folder)
    return done if small else dataclasses.replace(done, reconstruction=None)


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
            f"{described(scan).get('name', 'scan')}: a product is in metres, and this scan in pixels: "
            "give pixel size, energy and distance"
        )
    wanted = geometry if product else None
    # A network that was trained elsewhere has seen no frame of this scan; a solver is to miss a few.
    share = 0.0 if network.solver is None else config.withhold
    hidden = kept_back(scan, share, config.seed)
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
    """The image with what is asked for, and R of the frames that were used and of those that were not."""
    seen = job.scan.select(~job.hidden) if job.hidden.any() else job.scan
    given = None if refinement is None else refinement.options
    seen, facts = with_guess(seen, job.network, given, job.device)
    result = _solved(job, seen, refinement, listeners)
    result = replace(result, info={**result.info, **facts})
    if job.config.uncertainty:
        result = with_sigma(
            result, seen, lambda scan: _solved(job, scan, refinement, Listeners()), device=job.device
        )
    return judged(result, job.scan, job.hidden, job.device)


def _solved(job: _Job, seen: Scan, refinement: Refinement | None, listeners: Listeners) -> Reconstruction:
    """The network's image, refined where asked."""
    patience = _PATIENCE[job.config.effort]
    options = polishing(patience, seen.photons_per_pixel) if refinement is None else refinement.options
    if job.flat and job.solver is not None:
        return job.solver.solve(with_probe(seen), None, options, listeners.sweep)
    result = _network(job, seen, listeners, _solves_probe(refinement))
    left = refinement is not None or not only_noise_is_left(result, seen, job.device)
    if job.solver is not None and left:
        before = residual(result, seen, device=job.device)
        result = job.solver.solve(seen, result, options, listeners.sweep)
        result = replace(result, info={**result.info, "residual_before_refinement": before})
    return replace(result, provenance={**result.provenance, "bundle": job.network.name})


def _solves_probe(refinement: Refinement | None) -> bool:
    """Whether the network may change the probe: not where the sweeps after it are to begin with the guess."""
    options = None if refinement is None else refinement.options
    return not (isinstance(options, RefineOptions) and options.probe_after)


def _network(job: _Job, seen: Scan, listeners: Listeners, update_probe: bool) -> Reconstruction:
    bf16 = job.execution.precision == "bf16"
    if job.network.solver is not None:
        options = LearnedOptions(_EFFORT[job.config.effort], update_probe, bf16=bf16)
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
    files, rec = done.files, done.whole()
    files["reconstruction"] = save_reconstruction(rec, folder / "reconstruction.npz")
    if job.geometry is not None:
        files["product"] = folder / "product.h5"
        parts = rec.object, rec.origin_xy, rec.positions, rec.probe
        made = Product.of(*parts, job.geometry, job.name, json_text(done.metrics))
        sigmas = rec.sigma_amplitude, rec.sigma_phase
        write_product(replace(made, sigma_amplitude=sigmas[0], sigma_phase=sigmas[1]), files["product"])
    files["metrics"] = folder / "metrics.json"
    write_text_atomic(files["metrics"], json_text(done.metrics))


def _draw(done: ReconstructionOutputs, job: _Job, folder: Path) -> None:
    """Write picture and report; a failure is a warning."""
    try:
        title = f"{job.name}, {job.scan.n_frames} frames"
        rec = done.whole()
        picture = figure_png(reconstruction_figure(rec, title))
        write_bytes_atomic(folder / "reconstruction.png", picture)
        done.files["figure"] = folder / "reconstruction.png"
        caption = "Amplitude and phase, masked where nothing was measured"
        scan_picture = figure_png(scan_figure(job.scan))
        pictures = [(caption, picture)]
        if rec.sigma_phase is not None:
            pictures.append(("Error bars", figure_png(uncertainty_figure(rec))))
        sections = [
            Section("Object", _OVERFITS if rec.overfits else "", done.metrics, pictures),
            Section("Scan", "", {}, [("Positions, mean frame, probe guess", scan_picture)]),
        ]
        write_report(folder / "report.html", f"Reconstruction of {job.name}", sections)
        done.files["report"] = folder / "report.html"
    except Exception as error:  # whatever drawing raises, the numbers are written and stay
        text = f"{folder}: the numbers are written, the picture or report is not: {type(error).__name__}: {error}"
        logger.warning(text)
        done.warnings.append(text)
