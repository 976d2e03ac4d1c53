"""From frames to the stitched object: groups stream through the model into the canvas."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.errors import DataError
from ptycho_torch.physics.patches import region_size
from ptycho_torch.reconstruction.stitching import Canvas
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan, group_neighbours, group_offsets, open_scan
from ptycho_torch.scan.prefetch import one_ahead, stretches
from ptycho_torch.solvers.start import provenance_of

__all__ = ["normalised_groups", "reconstruct"]

_log = logging.getLogger(__name__)


def normalised_groups(
    scan: Scan, gridsize: int, neighbor_count: int = 7, n_groups: int | None = None, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Groups of a scan as arrays: normalised frames (G, C, N, N), offsets (G, C, 1, 2), centres (G, 2).

    Everything at once in memory: for a few groups; :func:`reconstruct` streams.
    """
    groups = group_neighbours(
        scan.positions, gridsize, neighbor_count=neighbor_count, n_groups=n_groups, seed=seed
    )
    offsets, centres = group_offsets(scan.positions, groups)
    frames = np.asarray(scan.frames[groups.reshape(-1)], dtype=np.float32).reshape(
        *groups.shape, scan.N, scan.N
    )
    frames = frames * np.float32(scan.normalisation)
    return frames, offsets[:, :, None].astype(np.float32), centres


def reconstruct(
    model: Any,
    scan: Scan | str | Path,
    *,
    batch_size: int = 32,
    n_groups: int | None = None,
    neighbor_count: int = 7,
    seed: int = 0,
    device: str | torch.device | None = None,
    bf16: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Reconstruction:
    """Reconstructs the object of a scan with a trained model.

    ``model``: a ``DiffractionToObject`` or the path of a bundle; ``scan``: a scan or its path.
    Frames are normalised by their own mean power, so a scan of another exposure is fine: its object
    is the same, and its counts are predicted. Every
    frame is used at least once; ``n_groups`` limits how many groups are. ``progress`` is called
    with groups done and groups in all.

    The result's gauge: one global phase is free; amplitudes are relative to the result's ``probe``,
    which is in sqrt(counts): ``|F(probe * object)|^2`` predicts counts. Raises
    :class:`~ptycho_torch.errors.DataError` when the scan's frames are not the model's size.
    """
    if isinstance(model, str | Path):
        from ptycho_torch.model_manager import load_torch_bundle

        model, _ = load_torch_bundle(model)
    if not isinstance(scan, Scan):
        scan = open_scan(scan)
    config, core = model.config, model.core
    name = scan.source.path if scan.source is not None else "scan"
    if scan.N != config.N:
        raise DataError(
            f"{name}: frames: expected {config.N}x{config.N}, what the model was trained for, found {scan.N}x{scan.N}; "
            "use a bundle for this size, or crop or bin the frames"
        )
    scan.require_one_run()
    if device is not None:
        model = model.to(device)
    where = core.log_scale.device
    groups = group_neighbours(
        scan.positions,
        config.gridsize,
        neighbor_count=neighbor_count,
        n_groups=n_groups,
        seed=seed,
        scan_index=scan.scan_index,
    )
    offsets, centres = group_offsets(scan.positions, groups)
    members = groups.shape[1]
    region = region_size(torch.from_numpy(np.asarray(offsets)), config.N) if members > 1 else config.N
    began = time.monotonic()
    normalisation = scan.normalisation
    mask = None if scan.good_pixels is None else torch.from_numpy(scan.good_pixels).to(where)
    canvas = Canvas(scan.positions, config.N, core.stitching_weight(), device=where)
    model.eval()
    before = core.generator.bf16
    core.generator.bf16 = bf16

    def read(part: slice) -> tuple[slice, Tensor, Tensor]:
        chosen = groups[part]
        frames = np.asarray(scan.frames[chosen.reshape(-1)], dtype=np.float32) * np.float32(normalisation)
        x = torch.from_numpy(frames).view(*chosen.shape, config.N, config.N)
        shift = torch.from_numpy(np.asarray(offsets[part], dtype=np.float32)).unsqueeze(2)
        if where.type == "cuda":  # pinned, so that the copy runs beside the computation
            x, shift = x.pin_memory(), shift.pin_memory()
        return part, x, shift

    try:
        with torch.inference_mode():
            for part, x, shift in one_ahead(read, stretches(len(groups), batch_size)):
                x, shift = x.to(where, non_blocking=True), shift.to(where, non_blocking=True)
                objects = core.propose(x, shift, mask, region).object
                at = scan.positions[groups[part]] if objects.shape[1] == members else centres[part][:, None]
                canvas.add(objects, torch.from_numpy(np.ascontiguousarray(at)).to(where))
                if progress is not None:
                    progress(part.stop, len(groups))
    finally:
        core.generator.bf16 = before
    obj, weights = canvas.finish()
    seconds = time.monotonic() - began
    _log.info("reconstructed %d frames in %.2f s", len(scan.positions), seconds)
    scale = 1 / normalisation
    return Reconstruction(
        object=obj,
        weight=weights,
        origin_xy=canvas.origin_xy,
        positions=scan.positions,
        probe=(core.probe.detach() * scale).cpu().numpy().astype(np.complex64),
        intensity_scale=scale,
        solver=config.architecture,
        seconds=round(seconds, 4),
        provenance=provenance_of(scan, seed=seed, architecture=config.architecture, gridsize=config.gridsize),
        info={"groups": len(groups), "frames_per_second": round(groups.size / seconds, 1)},
    )
