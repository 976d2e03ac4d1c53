"""From frames to the stitched object: groups stream through the model into the canvas."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from ptycho_torch.scan.rereading import EachOnce
from ptycho_torch.solvers.start import provenance_of

__all__ = ["normalised_groups", "reconstruct"]

logger = logging.getLogger(__name__)


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
    """Reconstruct the object of a scan with a trained model.

    Parameters
    ----------
    model : DiffractionToObject, str or Path
        A model, or the path of a bundle.
    scan : Scan, str or Path
        Its frames are normalised by their own mean power, so a scan of another exposure is fine: its
        object is the same, and its counts are predicted.
    batch_size : int
        Groups at a time.
    n_groups : int, optional
        Most groups; every frame is in one at least.
    neighbor_count : int
        Nearest neighbours from which a group's members are drawn.
    seed : int
        Seed of the grouping.
    device : str or torch.device, optional
        Default: where the model is.
    bf16 : bool
        Networks compute in bfloat16.
    progress : callable, optional
        Called with groups done and groups in all.

    Returns
    -------
    Reconstruction
        One global phase is free; amplitudes are relative to its probe, which is in the unit of the scan's
        frames: ``|F(probe * object)|^2`` predicts their counts.

    Raises
    ------
    DataError
        When the scan's frames are not the model's size.

    Examples
    --------
    >>> from ptycho_torch.config import ModelConfig
    >>> from ptycho_torch.model import build_pair
    >>> from ptycho_torch.physics.units import normalise_probe
    >>> from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
    >>> obj = make_object("grf", 64, 0)
    >>> scan = simulate_scan(obj, make_probe("zoneplate", 32), make_positions("grid", obj.shape, 32, step=8))
    >>> small = ModelConfig(N=32, unrolled_width=4, unrolled_iterations=1)
    >>> model = build_pair(small, normalise_probe(scan.probe), 1.0)[1]
    >>> reconstruct(model, scan).object.shape
    (64, 64)
    """
    model, scan = _opened(model, scan)
    if device is not None:
        model = model.to(device)
    config, core = model.config, model.core
    groups = _grouped(scan, config, n_groups, neighbor_count, seed)
    began = time.monotonic()
    normalisation = scan.normalisation
    canvas = Canvas(scan.positions, config.N, core.stitching_weight(), device=core.log_scale.device)
    model.eval()
    with _arithmetic(core.generator, bf16), torch.inference_mode():
        for done in _stitched(canvas, core, scan, groups, np.float32(normalisation), batch_size):
            if progress is not None:
                progress(done, len(groups.index))
    obj, weights = canvas.finish()
    seconds = time.monotonic() - began
    logger.info("reconstructed %d frames in %.2f s", scan.n_frames, seconds)
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
        info={
            "groups": len(groups.index),
            "frames_per_second": round(groups.index.size / seconds, 1),
        },
    )


@dataclass(frozen=True)
class _Groups:
    """Frames (G, C), their offsets (G, C, 2), the groups' centres (G, 2), and the side of a common region."""

    index: NDArray[np.int64]
    offsets: NDArray[np.float64]
    centres: NDArray[np.float64]
    region: int


def _opened(model: Any, scan: Scan | str | Path) -> tuple[Any, Scan]:
    if isinstance(model, str | Path):
        from ptycho_torch.model_manager import load_torch_bundle

        model, _ = load_torch_bundle(model)
    if not isinstance(scan, Scan):
        scan = open_scan(scan)
    scan.require_one_run()
    size = model.config.N
    if size != scan.N:
        name = scan.source.path if scan.source is not None else "scan"
        raise DataError(
            f"{name}: frames: expected {size}x{size}, what the model was trained for, found {scan.N}x{scan.N}; "
            "use a bundle for this size, or crop or bin the frames"
        )
    scan.require_one_run()
    return model, scan


def _grouped(scan: Scan, config: Any, n_groups: int | None, neighbor_count: int, seed: int) -> _Groups:
    index = group_neighbours(
        scan.positions,
        config.gridsize,
        neighbor_count=neighbor_count,
        n_groups=n_groups,
        seed=seed,
        scan_index=scan.scan_index,
    )
    offsets, centres = group_offsets(scan.positions, index)
    alone = index.shape[1] == 1
    region = config.N if alone else region_size(torch.from_numpy(np.asarray(offsets)), config.N)
    return _Groups(index, np.asarray(offsets), centres, region)


@contextmanager
def _arithmetic(generator: Any, bf16: bool) -> Iterator[None]:
    """A generator's networks compute in bfloat16, or not, for a while."""
    before = generator.bf16
    generator.bf16 = bf16
    try:
        yield
    finally:
        generator.bf16 = before


def _stitched(
    canvas: Canvas, core: Any, scan: Scan, groups: _Groups, factor: np.float32, batch_size: int
) -> Iterator[int]:
    """Add all groups' objects to the canvas; yield how many groups are done after each batch."""
    where, size, members = canvas.device, scan.N, groups.index.shape[1]
    mask = None if scan.good_pixels is None else torch.from_numpy(scan.good_pixels).to(where)

    parts = list(stretches(len(groups.index), batch_size))
    reader = EachOnce(scan.frames, [groups.index[part] for part in parts])

    def read(part: slice) -> tuple[slice, Tensor, Tensor]:
        chosen = groups.index[part]
        frames = reader.read(part.start // batch_size) * factor
        x = torch.from_numpy(frames).view(*chosen.shape, size, size)
        shift = torch.from_numpy(groups.offsets[part].astype(np.float32)).unsqueeze(2)
        if where.type == "cuda":  # pinned, so that the copy runs beside the computation
            x, shift = x.pin_memory(), shift.pin_memory()
        return part, x, shift

    for part, x, shift in one_ahead(read, parts):
        x, shift = x.to(where, non_blocking=True), shift.to(where, non_blocking=True)
        objects = core.propose(x, shift, mask, groups.region).object
        each = objects.shape[1] == members
        at = scan.positions[groups.index[part]] if each else groups.centres[part][:, None]
        canvas.add(objects, torch.from_numpy(np.ascontiguousarray(at)).to(where))
        yield part.stop
