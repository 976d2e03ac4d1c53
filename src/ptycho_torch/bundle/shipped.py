"""The bundle that ships with the package: weights pretrained on simulations, for scans nobody has trained on."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ptycho_torch.errors import BundleError

if TYPE_CHECKING:
    from ptycho_torch.generators.region_solver import RegionSolver

__all__ = ["load_solver", "shipped_bundle", "solver_of"]


def shipped_bundle() -> Path:
    """Return the path of the bundle inside the package."""
    return Path(str(files("ptycho_torch") / "weights" / "wts.h5.zip"))


def solver_of(model: object) -> RegionSolver | None:
    """Return the region solver inside a loaded model, or None for a model of another kind."""
    return getattr(model.core.generator, "regions", None)  # type: ignore[attr-defined, no-any-return]


def load_solver(bundle: str | Path | None = None) -> RegionSolver:
    """Return the region solver of a bundle, ready to use.

    Parameters
    ----------
    bundle : path, optional
        Default: the one that ships with the package.

    Raises
    ------
    BundleError
        When the bundle cannot be opened, or holds another kind of model.
    """
    from ptycho_torch.bundle.contents import read_bundle
    from ptycho_torch.bundle.rebuild import load_model

    path = shipped_bundle() if bundle is None else Path(bundle)
    with read_bundle(path) as opened:
        solver = solver_of(load_model(opened, "diffraction_to_obj").module)
    if solver is None:
        raise BundleError(
            f"{path}: holds no region solver; models made by 'train' before it work on frame sizes of their own"
        )
    return solver
