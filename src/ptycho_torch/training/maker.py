"""From a scan to what adaptation draws from: frames held back, the image and probe of the others."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.bundle.shipped import solver_of
from ptycho_torch.config import TrainingConfig
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.model import Autoencoder, DiffractionToObject, build_pair, default_probe
from ptycho_torch.processes import current
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.scan.tiling import innermost
from ptycho_torch.solvers import SOLVERS, LearnedOptions, RefineOptions
from ptycho_torch.solvers.learned import Learned
from ptycho_torch.solvers.probe_guess import nearer_guess
from ptycho_torch.training.callbacks import Watch
from ptycho_torch.training.material import Material
from ptycho_torch.training.prepare import measure, overlaps, with_modes

__all__ = ["Maker"]

logger = logging.getLogger(__name__)
_IMAGE_PIXELS = 768 * 64 * 64
"""Pixels of frames from which the image of all frames is made, at least 64 frames."""
_PROBE_SWEEPS = 10
_STANDS_STILL = 0.02
"""Part by which R falls in five sweeps below which the image is good enough to learn from."""


@dataclasses.dataclass
class Maker:
    """Makes the image and probe of each scan, with the solver as it is before adaptation."""

    config: TrainingConfig
    weights: dict[str, Tensor]
    device: torch.device
    watch: Watch
    residuals: list[float] = dataclasses.field(default_factory=list)

    def solver(self) -> RegionSolver:
        """The network that adaptation begins with."""
        solver = solver_of(self._pair(default_probe(self.config.model.N), 1.0, {})[1])
        assert solver is not None
        return solver

    def _pair(
        self, probe: NDArray[Any], scale: float, params: dict[str, Any]
    ) -> tuple[Autoencoder, DiffractionToObject]:
        model = dataclasses.replace(self.config.model, probe_modes=len(probe))
        made = build_pair(model, probe, scale, params)
        made[0].core.generator.load_state_dict(self.weights)
        return made

    def pair(self, scan: Scan, material: Material) -> tuple[Autoencoder, DiffractionToObject]:
        """The models that are saved, with the probe and scale of the first scan."""
        measured = measure(scan, self.config)
        params = {"amplitude_normalisation": measured.normalisation}
        return self._pair(material.probe, measured.intensity_scale, params)

    def material(self, scan: Scan, share: float, first: bool = False) -> Material:
        """What there is to draw from in a scan; ``share`` of its frames are held back from all steps.

        The ``first`` scan's probe gets as many modes as the model is to have.
        """
        scan.require_one_run()
        modes = self.config.model.probe_modes if first else None
        guess = scan.probe
        if guess is None:
            logger.warning("the scan has no probe: starting from a disk of radius N/4")
            guess = default_probe(scan.N, modes or 1)
        scan = dataclasses.replace(scan, probe=guess)
        if self._trains_probe:
            guess = current().shared(lambda: nearer_guess(scan, self.device).probe)
        guess = with_modes(guess, modes or len(guess))
        scan = dataclasses.replace(scan, probe=guess)
        held = np.zeros(scan.n_frames, dtype=bool)
        count = min(max(round(share * scan.n_frames), 1 if share else 0), scan.n_frames // 4)
        held[np.random.default_rng([self.config.seed, 7]).choice(scan.n_frames, count, replace=False)] = True
        # Every process would find the same but for rounding, which differs between machines.
        rec = current().shared(lambda: self._image(scan, held)) if overlaps(scan, scan.N) else None
        return Material.of(scan, guess, held, rec)

    @property
    def _trains_probe(self) -> bool:
        return self.config.probe != "fixed" and self.config.probe_trainable

    def _image(self, scan: Scan, held: NDArray[np.bool_]) -> Reconstruction:
        """The image of frames in the middle, as it is made in use: some sweeps for the probe, the learned solver,
        sweeps until they stand still."""
        able = np.flatnonzero(~held)
        most = max(64, _IMAGE_PIXELS // scan.N**2)
        part = scan.select(able[innermost(scan.positions[able], most)])
        trains = self._trains_probe
        epie = SOLVERS.get("epie")(self.device)
        if trains:
            part = dataclasses.replace(
                part, probe=epie.solve(part, None, RefineOptions(sweeps=_PROBE_SWEEPS)).probe
            )
        first = Learned(self.device, self.solver()).solve(part, None, LearnedOptions(update_probe=trains))
        options = RefineOptions(
            sweeps=self.config.probe_sweeps,
            step=1.0,
            update_probe=trains,
            seed=self.config.seed,
            tolerance=_STANDS_STILL,
        )

        def told(sweep: int, residual: float) -> None:
            self.residuals.append(float(residual))
            if self.watch.on_probe is not None:
                self.watch.on_probe(sweep, residual)

        return epie.solve(part, first, options, told)
