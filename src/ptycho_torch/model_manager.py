"""Saving, loading and building models, under the name that other programs import. Imports without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ptycho_torch.bundle.load import load_torch_bundle
from ptycho_torch.bundle.save import save_torch_bundle
from ptycho_torch.errors import ConfigError, DependencyError

if TYPE_CHECKING:
    from ptycho_torch.model import Autoencoder, DiffractionToObject

__all__ = ["create_torch_model_with_gridsize", "load_torch_bundle", "save_torch_bundle"]


def create_torch_model_with_gridsize(
    gridsize: int,
    N: int,
    params: Mapping[str, Any] | None = None,
    *,
    params_dict: Mapping[str, Any] | None = None,
) -> tuple[Autoencoder, DiffractionToObject]:
    """Build the architecture that ``params`` describe, without trained weights.

    Parameters
    ----------
    gridsize, N
        Edge of a group in frames, and of a frame in pixels; they go before what ``params`` say.
    params
        Flat snapshot of a bundle; its ``probe`` and ``intensity_scale`` are used where present.
    params_dict
        The same, by the older program's keyword.

    Returns
    -------
    autoencoder : Autoencoder
    diffraction_to_obj : DiffractionToObject

    Raises
    ------
    ConfigError
        A ``ValueError``, for a value of the wrong type or out of range.
    DependencyError
        Without torch.

    Examples
    --------
    >>> autoencoder, diffraction_to_obj = create_torch_model_with_gridsize(1, 64, params_dict={"model_type": "pinn"})
    >>> diffraction_to_obj.config.gridsize
    1
    """
    if params is not None and params_dict is not None:
        raise ConfigError("params, params_dict: two names for the same; give one of them")
    try:
        from ptycho_torch.model import create_torch_model_with_gridsize as create
    except ImportError as error:
        raise DependencyError("building a model needs torch: pip install torch") from error
    return create(gridsize, N, params if params_dict is None else params_dict)
