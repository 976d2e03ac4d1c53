"""Handing a reconstruction over to pty-chi's iterative engines, and taking the result back.

pty-chi (Argonne National Laboratory) is the optional extra ``iterative``. Its patches are centred
between pixels, (N-1)/2 from their corner, and its far field is N times the orthonormal one, so a position
moves by half a pixel on the way and the probe is divided by N.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch

from ptycho_torch.errors import ConfigError, DependencyError
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.solvers.epie import canvas_of, prepared

__all__ = ["ENGINES", "check_engine", "refine_with_ptychi"]

_log = logging.getLogger(__name__)

ENGINES: Final = {
    "lsqml": "LSQMLOptions",
    "epie": "EPIEOptions",
    "dm": "DMOptions",
    "raar": "RAAROptions",
}
"""Engines by the name that :func:`refine_with_ptychi` takes, and their options in pty-chi."""


def refine_with_ptychi(
    rec: Reconstruction,
    scan: Scan,
    *,
    engine: str = "lsqml",
    epochs: int = 20,
    batch_size: int = 96,
    update_probe: bool = True,
    update_positions: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Reconstruction:
    """The reconstruction after ``epochs`` of one of pty-chi's engines, started from it.

    ``engine``: one of :data:`ENGINES`; ``progress`` is called with the epoch and pty-chi's own loss.
    The result lies on the same canvas; its ``info`` names engine, epochs and time. The settings are
    pty-chi's defaults. Raises :class:`~ptycho_torch.errors.ConfigError` for an unknown engine,
    :class:`~ptycho_torch.errors.DependencyError` where pty-chi cannot be imported, and
    :class:`~ptycho_torch.errors.DataError` when the scan is not the one reconstructed.
    """
    api, task_of = check_engine(engine)
    frames, probe, start, mine, theirs = prepared(rec, scan)
    origin, _ = canvas_of(rec.positions, scan.N)
    scale = float(rec.info.get("intensity_scale", 1.0))
    counts = (np.asarray(frames[:]) * np.float32(scale)) ** 2
    places = rec.positions - origin - 0.5 * (scan.N % 2 == 0)

    options = getattr(api, ENGINES[engine])()
    options.object_options.determine_position_origin_coords_by = api.ObjectPosOriginCoordsMethods.SPECIFIED
    options.object_options.position_origin_coords = np.zeros(2)
    options.probe_options.optimizable = update_probe
    options.probe_position_options.optimizable = update_positions
    reconstructor = options.reconstructor_options
    reconstructor.num_epochs, reconstructor.batch_size = epochs, batch_size
    reconstructor.random_seed = seed
    gpu = torch.device(device).type == "cuda"
    reconstructor.default_device = api.Devices.GPU if gpu else api.Devices.CPU
    if engine == "lsqml":
        reconstructor.rescale_probe_intensity_in_first_epoch = False

    began = time.monotonic()
    data = {
        "diffraction_data": counts,
        "object_data": start[None],
        "probe_data": (probe * (scale / scan.N))[None].astype(np.complex64),
        "probe_position_x_px": places[:, 0].astype(np.float32),
        "probe_position_y_px": places[:, 1].astype(np.float32),
        "valid_pixel_mask": scan.good_pixels,
    }
    with _torch_defaults(), task_of(options, **data) as task:
        for epoch in range(epochs):
            task.run(1)
            if progress is not None:
                progress(epoch + 1, float(task.reconstructor.loss_tracker.table["loss"].iloc[-1]))
        found = task.get_data_to_cpu("object", as_numpy=True)[0]
        waves = task.get_data_to_cpu("probe", as_numpy=True)[0]
        x = task.get_probe_positions_x(as_numpy=True)
        y = task.get_probe_positions_y(as_numpy=True)
    obj = rec.object.copy()
    obj[theirs] = np.where(rec.weight[theirs] > 0, found[mine], 0)
    positions = rec.positions
    if update_positions:
        positions = np.stack([x, y], 1).astype(np.float64) + origin + 0.5 * (scan.N % 2 == 0)
    info = {
        **rec.info,
        "refined_by": f"pty-chi {engine}",
        "refined_sweeps": epochs,
        "refined_seconds": round(time.monotonic() - began, 3),
    }
    info.pop("residual", None)
    _log.info("pty-chi %s: %d epochs in %.1f s", engine, epochs, info["refined_seconds"])
    return replace(
        rec, object=obj, probe=(waves * scan.N).astype(np.complex64), positions=positions, info=info
    )


def check_engine(engine: str) -> tuple[Any, Any]:
    """pty-chi's options module and task class; raises as :func:`refine_with_ptychi` does when they cannot be had."""
    if engine not in ENGINES:
        raise ConfigError(f"engine: expected one of {', '.join(ENGINES)}, found {engine!r}")
    try:
        import ptychi.api as api
        from ptychi.api.task import PtychographyTask
    except (ImportError, RuntimeError) as error:  # torchvision of another torch raises RuntimeError
        raise DependencyError(
            f"pty-chi: expected to import it, found {type(error).__name__}: {error}; "
            "install it with pip install 'ptychopinn[iterative]'"
        ) from error
    return api, PtychographyTask


@contextmanager
def _torch_defaults() -> Iterator[None]:
    """Leaves torch's default device and type as they were; pty-chi sets both for the whole process."""
    device, kind = torch.get_default_device(), torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_device(device)
        torch.set_default_dtype(kind)
