"""From a scan to what training starts with: normalisation, scale, probe."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.config import TrainingConfig
from ptycho_torch.errors import ConfigError
from ptycho_torch.generators import generator_class
from ptycho_torch.model import default_probe
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.scan import Scan
from ptycho_torch.scan.tiling import innermost
from ptycho_torch.solvers.epie import refine
from ptycho_torch.solvers.options import RefineOptions

__all__ = ["Illumination", "Measured", "illuminate", "measure", "overlaps", "subsample", "with_modes"]

logger = logging.getLogger(__name__)
_REFINE_FRAMES = 512


@dataclass(frozen=True)
class Measured:
    """Two factors of a scan's frames: ``normalisation`` f and ``intensity_scale`` s, see
    :mod:`ptycho_torch.physics.units`.
    """

    normalisation: float
    intensity_scale: float


@dataclass(frozen=True)
class Illumination:
    """What training starts from: ``probe`` (modes, N, N), and ``residuals`` of its refinement, empty where
    there was none.

    The probe is normalised, and brighter by the generator's headroom.
    """

    probe: NDArray[np.complex64]
    residuals: list[float]


def measure(scan: Scan, config: TrainingConfig) -> Measured:
    """Measure what brings a scan's frames to the model's unit, and from there to counts. Reads every frame once."""
    normalisation = scan.normalisation
    if scan.counts_known:
        return Measured(normalisation, 1 / normalisation)
    return Measured(normalisation, float(np.sqrt(config.nphotons)) / (scan.N / 2))


def subsample(scan: Scan, count: int | None, seed: int, sequential: bool = False) -> Scan:
    """``count`` frames of a scan, drawn with ``seed`` or the first ones; all when ``count`` is None."""
    if count is None or count >= len(scan.positions):
        return scan
    if sequential:
        return scan.select(np.arange(count))
    return scan.select(np.sort(np.random.default_rng(seed).choice(len(scan.positions), count, replace=False)))


def with_modes(probe: NDArray[Any], modes: int) -> NDArray[np.complex64]:
    """The probe cut or extended to ``modes`` modes; new ones are tilted copies of the first at 2 % of its power."""
    have = len(probe)
    if modes <= have:
        return np.asarray(probe[:modes], dtype=np.complex64)
    axis = np.arange(probe.shape[-1]) - probe.shape[-1] // 2
    extra = [
        probe[0] * (axis[:, None] if m % 2 else axis[None, :]) ** (1 + (m - have) // 2)
        for m in range(have, modes)
    ]
    first = np.sqrt(np.sum(np.abs(probe[0]) ** 2))
    extra = [e * (np.sqrt(0.02) * first / np.sqrt(np.sum(np.abs(e) ** 2))) for e in extra]
    return np.concatenate([probe, np.stack(extra)]).astype(np.complex64)


def illuminate(
    scan: Scan,
    config: TrainingConfig,
    measured: Measured,
    device: str = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Illumination:
    """Find the probe that training starts from, refined on the frames if ``config.probe`` says so.

    The probe is refined on at most 512 neighbouring frames, with an object that is thrown away: the
    network then starts from an illumination that explains the data.
    """
    probe = normalise_probe(_guess(scan, config))
    residuals: list[float] = []
    if config.probe == "refine" and config.probe_trainable and overlaps(scan, scan.N):
        chosen = innermost(scan.positions, _REFINE_FRAMES)
        frames = np.asarray(scan.frames[chosen], dtype=np.float32) * np.float32(measured.normalisation)
        refined = refine(
            frames,
            scan.positions[chosen],
            probe,
            # A probe found with these steps serves the network better: benchmarks/NOTES.md.
            RefineOptions(
                sweeps=config.probe_sweeps,
                damping=0.1,
                settling=10.0,
                batch_size=16,
                momentum=0.0,
                seed=config.seed,
            ),
            good_pixels=scan.good_pixels,
            device=device,
            progress=progress,
        )
        if not np.isfinite(refined.residuals[-1]):
            raise ConfigError("probe: refinement diverged; use --probe trainable or check the probe guess")
        probe, residuals = normalise_probe(refined.probe), refined.residuals
    headroom = generator_class(config.model).headroom(config.model)
    return Illumination(probe * np.float32(headroom), residuals)


def _guess(scan: Scan, config: TrainingConfig) -> NDArray[np.complex64]:
    if scan.probe is not None:
        return with_modes(scan.probe, config.model.probe_modes or len(scan.probe))
    logger.warning("the scan has no probe: starting from a disk of radius N/4")
    return default_probe(scan.N, config.model.probe_modes or 1)


def overlaps(scan: Scan, size: int) -> bool:
    """Return whether frames overlap enough (neighbours within N/2) for a probe to be told from an object."""
    from scipy.spatial import cKDTree

    if len(scan.positions) < 9:
        logger.info("probe not refined: fewer than 9 frames")
        return False
    distance = float(np.median(cKDTree(scan.positions).query(scan.positions, k=3)[0][:, 2]))
    if distance > size / 2:
        logger.info("probe not refined: neighbours are %.0f px apart, more than N/2", distance)
        return False
    return True
