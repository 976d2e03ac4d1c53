"""Solvers: what turns frames, positions and a probe into an object.

``SOLVERS.get("epie")`` is a class; ``SOLVERS.get("epie")(device).solve(scan)`` a reconstruction. Another
distribution adds one by an entry point in the group ``ptychopinn.solvers``. Importing needs no torch.
"""

from __future__ import annotations

from typing import Final

from ptycho_torch.registry import Registry
from ptycho_torch.solvers.base import Progress, Solver
from ptycho_torch.solvers.options import EngineOptions, LearnedOptions, RefineOptions, SolverOptions

__all__ = [
    "SOLVERS",
    "EngineOptions",
    "LearnedOptions",
    "Progress",
    "RefineOptions",
    "Solver",
    "SolverOptions",
]

_PTYCHI = "ptycho_torch.solvers.ptychi"

SOLVERS: Final = Registry[type[Solver]](
    "solver",
    "ptychopinn.solvers",
    {
        "epie": "ptycho_torch.solvers.epie",
        "dm": _PTYCHI,
        "learned": "ptycho_torch.solvers.learned",
        "lsqml": _PTYCHI,
        "ptychi-epie": _PTYCHI,
        "raar": _PTYCHI,
    },
)
"""Solvers by name: the package's own ``learned`` and ``epie``, and pty-chi's engines."""
