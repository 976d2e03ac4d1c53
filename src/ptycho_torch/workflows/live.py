"""A live reconstruction as a whole job: from a stream to the folder that an offline reconstruction writes."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.config import ExecutionConfig, InferenceConfig, validate
from ptycho_torch.device import device_of
from ptycho_torch.errors import ConfigError, DataError, Interrupted
from ptycho_torch.files import ensure_output_dir, require_new, write_text_atomic
from ptycho_torch.live.engines import FlatEngine, LearnedEngine, RegionEngine
from ptycho_torch.live.growing import Growing, GrowingOptions
from ptycho_torch.live.intake import Cutting, Intake
from ptycho_torch.live.opening import sources_of
from ptycho_torch.live.options import LiveConfig
from ptycho_torch.live.orientation import Orientation
from ptycho_torch.live.outputs import Hdf5Output, Output, Outputs, PvaOutput, ZmqOutput
from ptycho_torch.live.server import Page
from ptycho_torch.live.session import Ending, Session
from ptycho_torch.live.spool import Spool, SpoolFrames
from ptycho_torch.model import default_probe
from ptycho_torch.report.tables import json_text
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Geometry, Scan, read_probe, write_scan
from ptycho_torch.scan.intake import Found, Request, scan_of
from ptycho_torch.training.stopping import Stopping
from ptycho_torch.workflows.inference import Listeners, ReconstructionOutputs, reconstruct_to
from ptycho_torch.workflows.solving import Network, network_of

__all__ = ["LiveInputs", "LiveOutputs", "live_to", "scan_of_session"]

logger = logging.getLogger(__name__)
_FRAMES: Final = "frames"
"""Folder, in that of the outputs, where frames are kept until the end."""
_REPORT: Final = "live.json"


@dataclass
class LiveInputs:
    """What a live session knows beside the stream.

    Attributes
    ----------
    bundle : path, optional
        Default: the one that ships with the package.
    probe : path, optional
        File with a probe guess; default: a disk.
    measurement : str
        ``auto``, ``amplitude`` or ``counts``; see :func:`ptycho_torch.scan.open_scan`.
    geometry : Geometry, optional
        What turns pixels into metres.
    product : bool
        Also write ``product.h5``.
    """

    bundle: str | Path | None = None
    probe: Path | None = None
    measurement: str = "auto"
    geometry: Geometry | None = None
    product: bool = False


@dataclass
class LiveOutputs:
    """What a live session leaves: the offline reconstruction, and the account of all that was received."""

    reconstruction: ReconstructionOutputs
    account: dict[str, Any]
    files: dict[str, Path] = field(default_factory=dict)


def live_to(
    output_dir: str | Path,
    source: str,
    config: LiveConfig | None = None,
    inputs: LiveInputs | None = None,
    inference: InferenceConfig | None = None,
    execution: ExecutionConfig | None = None,
    *,
    began: Callable[[Session, str | None], None] | None = None,
    listeners: Listeners | None = None,
) -> LiveOutputs:
    """Reconstruct a scan while it is measured; at the end, all of it as ``reconstruct`` does.

    Frames are kept in ``output_dir/frames`` until the result is written. A job that ends before goes on with them
    when it is begun again with the same folder.

    Parameters
    ----------
    output_dir : str or Path
    source : str
        Address of the frames.
    config : LiveConfig, optional
    inputs : LiveInputs, optional
    inference, execution : optional
        Of the last pass; see :func:`~ptycho_torch.workflows.inference.reconstruct_to`.
    began : callable, optional
        Called with the session and the page's address, None without one.
    listeners : Listeners, optional
        Of the last pass.

    Returns
    -------
    LiveOutputs

    Raises
    ------
    PtychoError
        When the stream cannot be read, or nothing in it can be used.
    Interrupted
        By a signal; frames are kept.
    """
    config, inputs = config or LiveConfig(), inputs or LiveInputs()
    execution = execution or ExecutionConfig()
    validate(config)
    validate(execution, "execution.")
    if inputs.product and inputs.geometry is None:
        raise ConfigError("--product requires --pixel-size, --energy and --distance")
    inference = copy.copy(inference or InferenceConfig())
    inference.uncertainty |= config.uncertainty
    network = network_of(inputs.bundle, device_of(execution.accelerator))
    probe = None if inputs.probe is None else read_probe(inputs.probe)
    folder = ensure_output_dir(output_dir)
    require_new(
        [folder / _REPORT, folder / "scan.npz", folder / "live.h5"], *([inputs.probe] if inputs.probe else [])
    )
    session, spool = _session(folder, source, config, inputs, network, probe)
    outputs = Outputs(session.growing.canvas, _ways(folder, config), session.intake.say, config.interval)
    page = Page(session, config.host, config.port) if config.page else None
    with _shown(page, outputs), contextlib.ExitStack() as kept:
        kept.callback(spool.close)
        if began is not None:
            began(session, None if page is None else page.url)
        _until_complete(session, folder)
        scan = scan_of_session(session, inputs, source)
        done = reconstruct_to(
            folder, scan, inputs.bundle, inference, execution,
            product=inputs.geometry if inputs.product and inputs.geometry else False,
            listeners=listeners,
        )  # fmt: skip
        made = _recorded(session, scan, done, folder, config)
        kept.pop_all()
        spool.close(remove=True)
        _show_result(session, done.whole())
        _linger(page, config.linger)
    return made


def scan_of_session(session: Session, inputs: LiveInputs, source: str) -> Scan:
    """Return the frames of a session that have positions, by number, as a scan.

    Raises
    ------
    DataError
        When there are none.
    """
    intake, orientation = session.intake, session.growing.orientation
    pairs = intake.pairs()
    if not pairs:
        raise DataError(
            f"{source}: expected frames with positions, found {intake.pairing.frames.received} frames and"
            f" {intake.pairing.positions.received} positions, none of the same number; nothing to reconstruct"
        )
    slots = np.array([pair.slot for pair in pairs], dtype=np.int64)
    places = np.array([(pair.x, pair.y) for pair in pairs], dtype=np.float64)
    frames = SpoolFrames(intake.spool, slots, orientation)
    given = session.growing.probe_given
    found = Found(
        frames,
        places,
        geometry=inputs.geometry,
        probe=None if given is None else np.asarray(given),
        bad_pixels=None if intake.bad is None else orientation.turn(intake.bad),
    )
    request = Request(measurement=inputs.measurement, require_probe=False)
    return scan_of(found, source, "live", request)


def _session(
    folder: Path,
    source: str,
    config: LiveConfig,
    inputs: LiveInputs,
    network: Network,
    probe: NDArray[np.complex64] | None,
) -> tuple[Session, Spool]:
    pixel = None if inputs.geometry is None else inputs.geometry.pixel_m[0]
    scale = config.scale(pixel)
    if config.orientation != "auto":
        Orientation.named(config.orientation)
    engine: RegionEngine = FlatEngine()
    if config.solving:
        if network.solver is None:
            raise ConfigError(
                f"{network.name}: expected a bundle that solves regions, found one that predicts groups;"
                " give --no-solving to use it for the last pass alone"
            )
        engine = LearnedEngine(network.solver)
    sources = sources_of(source, config)
    spool = Spool(folder / _FRAMES)
    cutting = Cutting(config.crop, config.middle(), None if probe is None else int(probe.shape[-1]))
    intake = Intake(spool, cutting, scale=scale, most_waiting=config.max_waiting, first=config.first_number)
    # Without solving nothing tells one orientation from another.
    orientation = "as-is" if config.orientation == "auto" and not config.solving else config.orientation
    options = GrowingOptions(orientation=orientation, update_probe=config.solving)
    growing = Growing(intake, engine, default_probe if probe is None else probe, options)
    ending = Ending(config.frames, config.patience, config.silence)
    return Session(intake, growing, sources, ending), spool


def _ways(folder: Path, config: LiveConfig) -> list[Output]:
    ways: list[Output] = []
    if config.to_zmq is not None:
        ways.append(ZmqOutput(config.to_zmq))
    if config.to_pva is not None:
        ways.append(PvaOutput(config.to_pva))
    if config.to_hdf5:
        ways.append(Hdf5Output(folder / "live.h5"))
    return ways


@contextlib.contextmanager
def _shown(page: Page | None, outputs: Outputs) -> Iterator[None]:
    """Page and outputs while something goes on."""
    try:
        if page is not None:
            page.start()
        outputs.start()
        yield
    finally:
        outputs.close()
        if page is not None:
            page.close()


def _until_complete(session: Session, folder: Path) -> None:
    """Run the session; the first signal ends it, and frames stay for another run."""
    with Stopping() as stopping:
        stopping.defer(session.stop)
        session.run()
    if stopping.number is not None:
        count = session.intake.spool.count
        raise Interrupted(
            stopping.number,
            f"interrupted: {count} frames are kept in {folder / _FRAMES}; the same command goes on with them",
        )


def _recorded(
    session: Session, scan: Scan, done: ReconstructionOutputs, folder: Path, config: LiveConfig
) -> LiveOutputs:
    facts = session.facts()
    frames = facts["frames"]
    said = [text for _, text in facts.pop("said")]
    used = len(done.whole().positions)
    account = {
        **facts,
        "used_in_last_pass": used,
        "unaccounted": frames["received"] - frames["refused"] - used,
        "said": said,
    }
    files = dict(done.files)
    if config.save_scan:
        files["scan"] = folder / "scan.npz"
        write_scan(scan, files["scan"], measurement="counts" if scan.counts_known else "amplitude")
    files["account"] = folder / _REPORT
    write_text_atomic(files["account"], json_text(account))
    return LiveOutputs(done, account, files)


def _show_result(session: Session, rec: Reconstruction) -> None:
    sigma = None
    if rec.sigma_amplitude is not None and rec.sigma_phase is not None:
        sigma = np.stack([rec.sigma_amplitude, rec.sigma_phase])
    session.growing.canvas.replace(rec.object, rec.weight, rec.origin_xy, sigma)
    session.result = {
        "residual of the result": rec.residual,
        "of frames withheld": rec.residual_withheld,
        "solver": rec.solver,
    }
    session.stage = "done"


def _linger(page: Page | None, seconds: float) -> None:
    """Let viewers see the end, if there are any."""
    import time

    if page is not None and page.seen and time.monotonic() - page.seen < 30:
        time.sleep(seconds)
