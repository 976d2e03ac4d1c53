"""Which device to compute on."""

from __future__ import annotations

import torch

from ptycho_torch.errors import ConfigError, printable

__all__ = ["device_of"]


def device_of(accelerator: str) -> str:
    """Name the torch device that ``accelerator`` means on this machine.

    Parameters
    ----------
    accelerator : str
        ``auto`` (a GPU where torch can use one, else the CPU), ``cpu``, or ``gpu`` (also ``cuda``).

    Returns
    -------
    str
        ``cpu`` or ``cuda``.

    Raises
    ------
    ConfigError
        For any other name, or where a GPU is asked for and torch has none.

    Examples
    --------
    >>> device_of("cpu")
    'cpu'
    """
    name = accelerator.lower()
    if name == "cpu":
        return "cpu"
    if name not in ("auto", "gpu", "cuda"):
        raise ConfigError(
            f"accelerator: expected 'auto', 'cpu' or 'gpu', found {printable(repr(accelerator), 60)}"
        )
    if torch.cuda.is_available():
        return "cuda"
    if name == "auto":
        return "cpu"
    raise ConfigError("accelerator: torch finds no GPU that it can use; use 'cpu' or 'auto'")
