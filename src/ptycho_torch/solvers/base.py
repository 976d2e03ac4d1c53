"""What a solver is: the base class and its contract. Needs no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ptycho_torch.config import validate
from ptycho_torch.errors import ConfigError
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.solvers.options import SolverOptions

if TYPE_CHECKING:
    import torch

__all__ = ["Progress", "Solver"]

Kind = TypeVar("Kind", bound=SolverOptions)

Progress = Callable[[int, float], None]
"""Called with the sweep that is done, and the residual or what else the solver minimises."""


class Solver(ABC):
    """Turns a scan into an object.

    A subclass names its settings in :attr:`Options`, implements :meth:`solve`, and is made known by
    ``SOLVERS.register``.

    Parameters
    ----------
    device : str or torch.device
        Where it computes.

    Raises
    ------
    DependencyError
        When something that the solver needs is not installed: before any frame is read.
    """

    Options: ClassVar[type[SolverOptions]] = SolverOptions
    """Dataclass of the settings that :meth:`solve` takes."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = device

    def _checked(self, options: SolverOptions | None, kind: type[Kind]) -> Kind:
        """Return the options that :meth:`solve` got, or the defaults, with every value in its range."""
        options = kind() if options is None else options
        if not isinstance(options, kind):
            raise ConfigError(f"options: expected {kind.__name__}, found {type(options).__name__}")
        validate(options)
        return options

    @abstractmethod
    def solve(
        self,
        scan: Scan,
        start: Reconstruction | None = None,
        options: SolverOptions | None = None,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Return the object of a scan.

        Parameters
        ----------
        scan : Scan
        start : Reconstruction, optional
            Where to begin: its object, probe and positions, which stay as they are. Default: nothing,
            that is a flat object, the scan's positions and its probe guess.
        options : SolverOptions, optional
            Of the class :attr:`Options`; default: its defaults.
        progress : callable, optional
            Called after each sweep.

        Returns
        -------
        Reconstruction
            On the canvas of ``start``; 0 where it has no weight. Its probe is in the unit of the scan's
            frames: ``|F(probe * object)|`` predicts them. ``solver``, ``sweeps`` and ``seconds`` say what
            was done; ``residual`` is R if the solver measured it, else None.

        Raises
        ------
        ConfigError
            For options out of range.
        DataError
            When the scan is not the one of ``start``, or has no probe and ``start`` is None.
        """
