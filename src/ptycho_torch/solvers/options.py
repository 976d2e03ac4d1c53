"""Settings of solvers, each with its help text, range and default. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ptycho_torch.config import opt

__all__ = ["EngineOptions", "FixedProbeOptions", "LearnedOptions", "RefineOptions", "SolverOptions"]


@dataclass
class SolverOptions:
    """What every solver understands.

    Examples
    --------
    >>> from ptycho_torch.config import config_fields
    >>> sorted(config_fields(SolverOptions))
    ['sweeps', 'update_positions', 'update_probe']
    """

    sweeps: int = opt(20, "maximum number of passes over all frames", ge=1, le=100_000)
    update_probe: bool = opt(True, "solve for the probe as well")
    update_positions: bool = opt(False, "solve for the positions as well")


@dataclass
class RefineOptions(SolverOptions):
    """Settings of the package's own iterative solver, :mod:`ptycho_torch.solvers.epie`."""

    minutes: float | None = opt(None, "maximum time in minutes; default: as long as the sweeps take", ge=0)
    seed: int = opt(0, "seed of the order of the frames", ge=0)
    tolerance: float = opt(1e-4, "stop when the residual falls by less than this part in five sweeps", ge=0)
    batch_size: int = opt(8, "frames in a mini-batch", ge=1)
    step: float | None = opt(
        None, "step of the object; default: 1 from a flat object and where positions move, else 0.5", gt=0
    )
    probe_step: float | None = opt(None, "step of the probe; default: as step", gt=0)
    settling: float | None = opt(
        5.0,
        "sweeps after which steps have halved, so that noise is averaged; where positions move, sweeps of the"
        " last third; none: steps stay",
        gt=0,
    )
    momentum: float = opt(
        0.9, "largest share of a sweep's change that is carried into the next one; 0: none", ge=0, le=0.99
    )
    damping: float = opt(0.2, "alpha in the denominators, relative to their maximum", gt=0)
    probe_after: int | None = opt(
        None, "sweeps before the probe moves; default: 1 from a flat object, else 0", ge=0
    )
    positions_after: int | None = opt(
        None, "sweeps before positions move; default: 5 from a flat object, else 1", ge=0
    )

    @property
    def settles_from(self) -> int:
        """Sweep from which steps fall: while positions are on their way, the object has to give way to them.

        Examples
        --------
        >>> RefineOptions(sweeps=60).settles_from, RefineOptions(sweeps=60, update_positions=True).settles_from
        (0, 40)
        """
        return 2 * self.sweeps // 3 if self.update_positions else 0

    def share_of_step(self, sweep: int) -> float:
        """Return what is left of the steps in a sweep, counted from 0.

        Examples
        --------
        >>> RefineOptions().share_of_step(0), RefineOptions().share_of_step(5), RefineOptions(settling=None).share_of_step(5)
        (1.0, 0.5, 1.0)
        """
        if self.settling is None:
            return 1.0
        return 1 / (1 + max(0, sweep - self.settles_from) / self.settling)

    def resolved(self, flat: bool) -> RefineOptions:
        """Return a copy whose defaults are filled in, for a flat object or for one that is known already.

        Examples
        --------
        >>> RefineOptions().resolved(flat=True).step, RefineOptions(step=0.2).resolved(flat=True).probe_step
        (1.0, 0.2)
        """
        # An object at wrong positions has much to change.
        step = self.step if self.step is not None else (1.0 if flat or self.update_positions else 0.5)

        def after(value: int | None, from_flat: int, else_: int) -> int:
            return value if value is not None else (from_flat if flat else else_)

        return replace(
            self,
            step=step,
            probe_step=step if self.probe_step is None else self.probe_step,
            probe_after=after(self.probe_after, 1, 0),
            positions_after=after(self.positions_after, 5, 1),
        )


@dataclass
class EngineOptions(SolverOptions):
    """Settings of pty-chi's engines; all others are pty-chi's defaults."""

    seed: int = opt(0, "seed of the order of the frames", ge=0)
    batch_size: int = opt(96, "frames in a mini-batch", ge=1)


@dataclass
class FixedProbeOptions(EngineOptions):
    """Settings of an engine that takes the probe as it is.

    Examples
    --------
    >>> FixedProbeOptions().update_probe
    False
    """

    update_probe: bool = opt(False, "find the probe, too; this engine refuses it")


@dataclass
class LearnedOptions(SolverOptions):
    """Settings of the learned solver, :mod:`ptycho_torch.solvers.learned`."""

    sweeps: int = opt(10, "iterations; each uses all frames twice", ge=1, le=1000)
    tile_pixels: int = opt(
        1 << 24, "pixels of frames solved together, at most; each takes about 60 bytes of memory", ge=1
    )
    halo: float = opt(1.0, "border in which a tile sees its neighbours' frames, in frame sizes", ge=0, le=16)
    bf16: bool = opt(False, "networks compute in bfloat16")
