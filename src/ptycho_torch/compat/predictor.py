"""``predict`` on channels-last arrays, and the stitching of what it gives.

A region solver's frames are solved once more when their places on the canvas are known, all of them together.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_torch.bundle.shipped import solver_of
from ptycho_torch.compat.layout import from_channels_last, to_channels_last
from ptycho_torch.compat.parameters import cfg
from ptycho_torch.compat.raw_data import OnCanvas, RawData
from ptycho_torch.config import InferenceConfig
from ptycho_torch.errors import DataError
from ptycho_torch.generators.region import solve_groups
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.physics.patches import crop, merge, region_size
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.reconstruction.stitching import Canvas
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.scan.product import HALF_PIXEL
from ptycho_torch.solvers import SOLVERS

__all__ = [
    "Orientation",
    "Patches",
    "Predictor",
    "Together",
    "image_of",
    "reassemble_position",
    "stitched_as_older",
]

logger = logging.getLogger(__name__)


class Patches(np.ndarray):
    """Predicted objects that remember how much each pixel is to be trusted: ``weight`` (N, N), or None."""

    weight: NDArray[np.float32] | None = None
    together: Together | None = None

    def __array_finalize__(self, source: Any) -> None:
        self.weight = getattr(source, "weight", None)
        self.together = getattr(source, "together", None)


@dataclass(frozen=True)
class Together:
    """The frames behind patches of a region solver, to be solved together by :func:`reassemble_position`.

    ``frames``: (B, C, N, N) normalised amplitudes. ``offsets``: (B, C, 2), member minus group mean. ``probe``:
    (modes, N, N). ``ends``: first and last patch, as predicted.
    """

    solver: RegionSolver
    frames: NDArray[np.float32]
    offsets: NDArray[np.float64]
    probe: NDArray[np.complex64]
    ends: NDArray[np.complex64]

    def fits(self, patches: NDArray[Any]) -> bool:
        """Whether patches are still those that were predicted."""
        return len(patches) == len(self.frames) and np.array_equal(np.asarray(patches)[[0, -1]], self.ends)

    def solve(self, centres: NDArray[np.float64]) -> Reconstruction:
        """The image of all frames, their groups at ``centres`` (B, 2)."""
        places = (centres[:, None] + self.offsets).reshape(-1, 2)
        _, first = np.unique(places.round(3), axis=0, return_index=True)  # a frame may be in several groups
        frames = self.frames.reshape(-1, *self.frames.shape[-2:])[first]
        scan = Scan(frames=frames, positions=places[first], probe=self.probe)
        return image_of(scan, self.solver)


def image_of(scan: Scan, solver: RegionSolver) -> Reconstruction:
    """Return the image of a scan with a region solver from memory: the network's, then sweeps.

    Parameters
    ----------
    scan : Scan
        Its probe is where the solver begins.
    solver : RegionSolver
    """
    from ptycho_torch.workflows.solving import Network, polishing, solve

    device = str(solver.start.device)
    image = solve(scan, Network(solver, None, None, "from memory"), device=device)
    return SOLVERS.get("epie")(device).solve(scan, image, polishing())


class Predictor:
    """A model with the older program's ``predict``; ``module`` is the model itself.

    A model of pretraining, which knows no scan, takes frames of any size and the probe of ``params.cfg``.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def _probe(self, size: int) -> torch.Tensor:
        """The probe for frames of ``size`` pixels, (modes, N, N): the model's own, or the one that a script has set."""
        core = self.module.core
        knows_a_scan = self.module.params.get("amplitude_normalisation") is not None
        expected = core.config.N if knows_a_scan else 0
        if solver_of(self.module) is None or size == expected:
            return core.probe.detach()
        given = cfg.get("probe")
        if given is None or np.shape(given)[-1] != size:
            raise DataError(
                f"probe: set one of {size} x {size} pixels with ptycho.probe.set_probe_guess first"
            )
        waves = np.asarray(given, dtype=np.complex64).reshape(-1, size, size)
        if np.array_equal(waves, core.probe.detach().cpu().numpy()):
            logger.warning("no probe was set: starting from a disk; ptycho.probe.set_probe_guess sets one")
        return torch.from_numpy(normalise_probe(waves)).to(core.log_scale.device)

    def predict(self, inputs: Sequence[Any], batch_size: int = 32, verbose: Any = None) -> Patches:
        """Objects (B, N, N, 1) complex64 of ``[X, offsets]``, each around its group's mean position.

        ``X``: (B, N, N, C) normalised amplitude times the intensity scale; ``offsets``: (B, 1, 2, C), group mean
        minus member, pixels. A model that gives one object per frame has those of a group merged, weighted
        by the illumination. Raises :class:`~ptycho_torch.errors.DataError` on other shapes.
        """
        if len(inputs) != 2:
            raise DataError(f"inputs: expected [X, offsets], found {len(inputs)} arrays")
        core = self.module.core
        x, offsets = from_channels_last(np.asarray(inputs[0]), np.asarray(inputs[1]))
        if solver_of(self.module) is not None:
            return self._by_regions(x, -offsets, batch_size)
        where, sign = core.log_scale.device, -core.offset_sign
        self.module.eval()
        with torch.inference_mode():
            parts = [
                self._merged(
                    self.module(
                        x[i : i + batch_size].to(where), sign * offsets[i : i + batch_size].to(where)
                    ),
                    -offsets[i : i + batch_size].to(where),
                )
                for i in range(0, len(x), batch_size)
            ]
        patches = to_channels_last(torch.cat(parts)).cpu().numpy().view(Patches)
        patches.weight = core.stitching_weight().cpu().numpy()
        return patches

    __call__ = predict

    def _by_regions(self, x: torch.Tensor, offsets: torch.Tensor, batch_size: int) -> Patches:
        """Each group alone, from (B, C, N, N) and offsets (B, C, 1, 2), member minus mean, for now."""
        solver = solver_of(self.module)
        assert solver is not None
        probe = self._probe(x.shape[-1])
        where, weight = probe.device, probe.abs().square().sum(0)
        frames = x / self.module.intensity_scale
        parts = []
        with torch.inference_mode():
            for part, shifts in zip(frames.split(batch_size), offsets.split(batch_size), strict=True):
                shifts = shifts.to(where)
                objects = solve_groups(solver, part.to(where), shifts, probe).object
                parts.append(self._merged(objects, shifts, weight))
        patches = to_channels_last(torch.cat(parts)).cpu().numpy().view(Patches)
        patches.weight = weight.cpu().numpy()
        patches.together = Together(
            solver,
            frames.numpy(),
            offsets[:, :, 0].double().numpy(),
            probe.cpu().numpy(),
            np.array(patches[[0, -1]]),
        )
        return patches

    def _merged(
        self, objects: torch.Tensor, offsets: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, 1, N, N) from (B, C, N, N) at ``offsets`` (B, C, 1, 2), member minus group mean."""
        if objects.shape[1] == 1:
            return objects
        size, shifts = objects.shape[-1], offsets[:, :, 0]
        region = region_size(shifts.abs().max(), size)
        weight = self.module.core.stitching_weight() if weight is None else weight
        whole = merge(objects, weight, shifts, region)
        return crop(whole, torch.zeros_like(shifts[:, :1]), size)


def reassemble_position(patches: Any, offsets: Any, M: int = 20) -> NDArray[np.complex64]:
    """One object (H, W, 1) complex64 from predicted ones (B, N, N, 1) at ``offsets`` (B, 1, 2, 1) = (x, y) pixels.

    Patches of :meth:`Predictor.predict` are weighted by the illumination; others by their central
    ``M`` x ``M`` pixels. Those of a region solver, unchanged, are solved together instead. Positions that come with
    the canvas of an object guess give an object of that size, pixel on pixel; others the smallest that holds all
    patches. Pixels that nothing reached are 0.

    On such a canvas a patch's middle, between its pixels N/2 - 1 and N/2, lies at its position: that is how
    ptychodus (``ptychodus.api.object``, ``interpolate``) counts object pixels, half a pixel less than this package.
    """
    objects = np.asarray(patches)
    places = np.asarray(offsets, dtype=np.float64)
    if objects.ndim != 4 or places.shape != (len(objects), 1, 2, objects.shape[-1]):
        raise DataError(
            f"patches, offsets: expected (B, N, N, C) and (B, 1, 2, C), found {objects.shape} and {places.shape}"
        )
    size = objects.shape[1]
    weight = getattr(patches, "weight", None)
    if weight is None:
        weight = np.zeros((size, size), np.float32)
        inner = slice(max(0, (size - M) // 2), (size - M) // 2 + M)
        weight[inner, inner] = 1
    positions = np.moveaxis(places[:, 0], -1, 1)
    wanted = offsets.canvas if isinstance(offsets, OnCanvas) else None
    if wanted is not None:
        positions = positions + HALF_PIXEL
    together = getattr(patches, "together", None)
    if together is not None and together.fits(objects):
        image = together.solve(positions[:, 0])
        whole = image.object
        if wanted is not None:
            whole = _placed(whole, image.origin_xy, wanted)
        return whole[..., None]
    canvas = Canvas(positions, size, weight)
    order = np.lexsort((positions[:, 0, 0], np.round(positions[:, 0, 1])))
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        canvas.add(torch.from_numpy(np.moveaxis(objects[part], -1, 1).astype(np.complex64)), positions[part])
    obj, _ = canvas.finish()
    if wanted is not None:
        obj = _placed(obj, canvas.origin_xy, wanted)
    return obj[..., None]


def _placed(
    obj: NDArray[np.complex64], origin: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.complex64]:
    """The object on a canvas whose pixel [0, 0] lies at (0, 0); what lies outside is cut off."""
    out = np.zeros(shape, np.complex64)
    x, y = (int(v) for v in origin)
    rows = slice(max(0, y), min(shape[0], y + obj.shape[0]))
    columns = slice(max(0, x), min(shape[1], x + obj.shape[1]))
    out[rows, columns] = obj[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    return out


@dataclass(frozen=True)
class Orientation:
    """How an image is put together where a scan's axes point elsewhere: the sign of the group positions'
    x and y changed, patches transposed; ``M`` as :func:`reassemble_position` takes it."""

    flip_x: bool = False
    flip_y: bool = False
    transpose: bool = False
    M: int = 20

    @property
    def changes(self) -> bool:
        """Whether anything is flipped or transposed."""
        return self.flip_x or self.flip_y or self.transpose


def stitched_as_older(
    model: Any, scan: Scan, settings: InferenceConfig, orientation: Orientation
) -> NDArray[np.complex64]:
    """The object (H, W) of a scan by the older program's steps, which hold everything in memory.

    Groups are predicted as they are; then patches are transposed and positions flipped, and put together.
    """
    data = RawData.of(scan).generate_grouped_data(
        scan.N, K=settings.neighbor_count, gridsize=model.config.gridsize, seed=settings.seed
    )
    x = data["X_full"] * np.float32(model.intensity_scale)
    patches = Predictor(model).predict([x, data["coords_relative"]], batch_size=settings.batch_size)
    if orientation.transpose:
        weight = patches.weight
        patches = np.swapaxes(patches, 1, 2)
        patches.weight = None if weight is None else weight.T
    signs = np.where([orientation.flip_x, orientation.flip_y], -1.0, 1.0)
    # A plain array: mirrored positions lie on no object guess's canvas.
    places = np.array(data["coords_offsets"]) * signs[:, None]
    return reassemble_position(patches, places, orientation.M)[..., 0]
