"""What ``reconstruct`` is asked for besides the network's image, as flags in groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptycho_torch.config import config_fields, from_dict, opt
from ptycho_torch.errors import ConfigError

if TYPE_CHECKING:
    from ptycho_torch.scan import Geometry
    from ptycho_torch.workflows.inference import Refinement

__all__ = ["PiecesConfig", "ProductConfig", "RefiningConfig"]

_POSITION_SWEEPS = 60


@dataclass
class RefiningConfig:
    """Iterative refinement of the network's image."""

    refine: int | None = opt(
        None, "sweeps of iterative refinement afterwards; default: see --polish; with --model: none", ge=0
    )
    refine_minutes: float | None = opt(None, "maximum refinement time, in minutes; requires --refine", gt=0)
    refine_positions: bool = opt(False, "refine the positions as well; without --refine: in 60 sweeps")
    hold_probe: int | None = opt(
        None,
        "sweeps that keep the guess of the probe as it is, for a probe that is well known; requires --refine"
        " or --refine-positions",
        ge=1,
    )
    engine: str | None = opt(
        None,
        "refine with another solver than our own 'epie'; pty-chi's (extra 'iterative') are"
        " lsqml, dm, raar, ptychi-epie; requires --refine",
    )

    @property
    def sweeps(self) -> int:
        """How many are asked for; positions take a while to find."""
        if self.refine is None and self.refine_positions and self.engine is None:
            return _POSITION_SWEEPS
        return self.refine or 0

    def refinement(self) -> Refinement | None:
        """Return what is asked for, in the options of the solver that is named; None where nothing is.

        Raises
        ------
        ConfigError
            When a flag requires another, or is none of that solver's.
        """
        if not self.sweeps:
            if self.engine or self.refine_minutes is not None:
                raise ConfigError("--refine-minutes and --engine require --refine N")
            if self.hold_probe is not None:
                raise ConfigError("--hold-probe requires --refine N or --refine-positions")
            if self.refine_positions:
                raise ConfigError("--refine-positions takes sweeps: leave out --refine 0, or raise it")
            return None
        from ptycho_torch.solvers import SOLVERS
        from ptycho_torch.workflows.inference import Refinement

        solver = self.engine or "epie"
        kind = SOLVERS.get(solver).Options
        wanted: dict[str, Any] = {"sweeps": self.sweeps, "update_positions": self.refine_positions}
        if self.refine_minutes is not None:
            if "minutes" not in config_fields(kind):
                raise ConfigError(
                    f"--refine-minutes cannot be used with --engine {solver}, which runs a fixed number of epochs"
                )
            wanted["minutes"] = self.refine_minutes
        if self.hold_probe is not None:
            if "probe_after" not in config_fields(kind):
                raise ConfigError(f"--hold-probe cannot be used with --engine {solver}")
            wanted["probe_after"] = self.hold_probe
        return Refinement(solver, from_dict(kind, wanted))


@dataclass
class ProductConfig:
    """A product for ptychodus, and lengths that the scan does not say."""

    product: bool = opt(False, "also write product.h5, which ptychodus opens")
    pixel_size: float | None = opt(None, "object pixel size in metres, if SCAN does not say it", gt=0)
    energy: float | None = opt(None, "photon energy in eV; requires --pixel-size", gt=0)
    distance: float | None = opt(
        None, "distance from object to detector in metres; requires --pixel-size", gt=0
    )

    def wanted(self) -> bool | Geometry:
        """Return whether a product is asked for, or the geometry that it gets."""
        if self.pixel_size is None and self.energy is None and self.distance is None:
            return self.product
        if self.pixel_size is None or self.energy is None or self.distance is None or not self.product:
            raise ConfigError(
                "--pixel-size, --energy and --distance require each other and --product; give all of them"
            )
        from ptycho_torch.scan import Geometry

        return Geometry(self.energy, self.distance, (self.pixel_size, self.pixel_size))


@dataclass
class PiecesConfig:
    """Memory and processes for large scans."""

    memory: str | None = opt(
        None,
        "memory to plan with, such as 8GiB, for all processes of this machine together; a larger scan is"
        " solved in pieces; default: half of what is free",
    )
    processes: int = opt(1, "processes of this machine that share the scan", ge=1, le=1024)
    resume: bool = opt(False, "go on with a reconstruction in pieces that was ended")
