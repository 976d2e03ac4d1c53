"""Handing a reconstruction over to pty-chi's iterative engines, and taking the result back.

pty-chi (Argonne National Laboratory) is the optional extra ``iterative``. Its patches are centred
between pixels, (N-1)/2 from their corner, and its far field is N times the orthonormal one, so a position
moves by half a pixel on the way and the probe is divided by N.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch

from ptycho_torch.errors import ConfigError, DependencyError, TrainingError
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.solvers import SOLVERS
from ptycho_torch.solvers.base import Progress, Solver
from ptycho_torch.solvers.options import EngineOptions, FixedProbeOptions, SolverOptions
from ptycho_torch.solvers.start import Problem, flat_start, problem_of

__all__ = ["PtychiSolver"]

logger = logging.getLogger(__name__)
_MARGIN = 2
"""Pixels around a patch that pty-chi's interpolation may reach."""


class PtychiSolver(Solver):
    """One of pty-chi's engines, at pty-chi's defaults.

    ``progress`` gets pty-chi's own loss, and the result's ``residual`` is None: measure it.
    """

    Options: ClassVar[type[EngineOptions]] = EngineOptions
    name: ClassVar[str]
    """What the registry calls it."""
    settings: ClassVar[str]
    """Its options' class in ``ptychi.api``."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        self._api, self._task = _import()

    def solve(
        self,
        scan: Scan,
        start: Reconstruction | None = None,
        options: SolverOptions | None = None,
        progress: Progress | None = None,
    ) -> Reconstruction:
        options = self._checked(self.Options() if options is None else options, EngineOptions)
        begin = flat_start(scan) if start is None else start
        problem = problem_of(scan, begin, _MARGIN, self.device)
        began = time.monotonic()
        half = 0.5 * (scan.N % 2 == 0)
        with _torch_defaults(), self._task(self._engine(options, scan), **_data(problem, scan)) as task:
            for sweep in range(options.sweeps):
                task.run(1)
                if progress is not None:
                    progress(sweep + 1, float(task.reconstructor.loss_tracker.table["loss"].iloc[-1]))
            found = task.get_data_to_cpu("object", as_numpy=True)[0]
            waves = task.get_data_to_cpu("probe", as_numpy=True)[0]
            x = task.get_probe_positions_x(as_numpy=True)
            y = task.get_probe_positions_y(as_numpy=True)
        if not (np.isfinite(found).all() and np.isfinite(waves).all()):
            raise TrainingError(
                f"pty-chi {self.name}: diverged within {options.sweeps} epochs; take fewer, or another engine"
            )
        positions = begin.positions
        if options.update_positions:
            positions = np.stack([x, y], 1).astype(np.float64) + problem.placed.origin_xy + half
        seconds = round(time.monotonic() - began, 3)
        logger.info("pty-chi %s: %d epochs in %.1f s", self.name, options.sweeps, seconds)
        return problem.result(
            found,
            waves * (scan.N / problem.scale),
            positions,
            solver=self.name,
            residual=None,
            residual_withheld=None,
            residuals=(),
            sweeps=options.sweeps,
            seconds=seconds,
        )

    def _engine(self, options: EngineOptions, scan: Scan) -> Any:
        api = self._api
        engine = getattr(api, self.settings)()
        engine.object_options.determine_position_origin_coords_by = api.ObjectPosOriginCoordsMethods.SPECIFIED
        engine.object_options.position_origin_coords = np.zeros(2)
        engine.probe_options.optimizable = options.update_probe
        engine.probe_position_options.optimizable = options.update_positions
        run = engine.reconstructor_options
        run.num_epochs, run.random_seed = options.sweeps, options.seed
        # Where an engine uses all frames at once, a chunk changes the time that takes and nothing else; pty-chi's
        # own, one frame, takes fifty times as long.
        setattr(run, "chunk_length" if hasattr(run, "chunk_length") else "batch_size", options.batch_size)
        gpu = torch.device(self.device).type == "cuda"
        run.default_device = api.Devices.GPU if gpu else api.Devices.CPU
        return engine


@SOLVERS.register("lsqml")
class Lsqml(PtychiSolver):
    """Maximum likelihood with least-squares steps."""

    name, settings = "lsqml", "LSQMLOptions"

    def _engine(self, options: EngineOptions, scan: Scan) -> Any:
        engine = super()._engine(options, scan)
        # The probe comes with the power of the frames already.
        engine.reconstructor_options.rescale_probe_intensity_in_first_epoch = False
        return engine


@SOLVERS.register("dm")
class DifferenceMap(PtychiSolver):
    """Difference map."""

    name, settings = "dm", "DMOptions"


@SOLVERS.register("raar")
class Raar(PtychiSolver):
    """Relaxed averaged alternating reflections, with the probe as it is.

    pty-chi 2.2 divides by the light alone, undamped; with the probe free, that leaves even a known object.
    """

    name, settings = "raar", "RAAROptions"
    Options = FixedProbeOptions

    def _engine(self, options: EngineOptions, scan: Scan) -> Any:
        if options.update_probe:
            raise ConfigError(
                "update_probe: pty-chi's RAAR diverges with the probe free; leave it off, or use lsqml"
            )
        return super()._engine(options, scan)


@SOLVERS.register("ptychi-epie")
class PtychiEpie(PtychiSolver):
    """pty-chi's ePIE."""

    name, settings = "ptychi-epie", "EPIEOptions"


def _data(problem: Problem, scan: Scan) -> dict[str, Any]:
    places = problem.start.positions - problem.placed.origin_xy - 0.5 * (scan.N % 2 == 0)
    return {
        "diffraction_data": np.square(np.asarray(scan.frames[:], dtype=np.float32)),
        "object_data": problem.object[None],
        "probe_data": (problem.probe * (problem.scale / scan.N))[None].astype(np.complex64),
        "probe_position_x_px": places[:, 0].astype(np.float32),
        "probe_position_y_px": places[:, 1].astype(np.float32),
        "valid_pixel_mask": scan.good_pixels,
    }


def _import() -> tuple[Any, Any]:
    """pty-chi's options module and task class."""
    try:
        import ptychi.api as api
        from ptychi.api.task import PtychographyTask
    except (ImportError, RuntimeError) as error:  # torchvision of another torch raises RuntimeError
        raise DependencyError(
            f"pty-chi cannot be imported ({type(error).__name__}: {error}); "
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
