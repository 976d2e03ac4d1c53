"""The intensity scale of a bundle: which value is written, and which one holds where parts differ.

It stands in a bundle twice, as ``intensity_scale`` in the params and as ``core.log_scale`` in the
weights. Both are written from one value; on reading they are compared. Imports no torch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ptycho_torch.compat import parameters
from ptycho_torch.errors import BundleError, brief

__all__ = ["LOG_SCALE", "Agreement", "agree", "same_scale", "scale_to_write"]

LOG_SCALE: Final = "core.log_scale"
"""Entry of a state dict that holds the logarithm of the scale."""

_TOLERANCE: Final = 1e-5
"""Of the logarithm: float32 rounds it to half of this at the ends of its range."""

Fail = Callable[[str | None, str], BundleError]


def same_scale(first: float, second: float) -> bool:
    """Whether two scales are one, but for the rounding of a float32 logarithm.

    >>> same_scale(123.0, 123.00001), same_scale(1.0, 3.0)
    (True, False)
    """
    return abs(math.log(first) - math.log(second)) <= _TOLERANCE


def scale_to_write(
    argument: float | None, model: Any, flat: Mapping[str, Any], fail: Fail
) -> tuple[float, str]:
    """The first value that exists, and where it came from.

    Parameters
    ----------
    argument
        What the caller asks for.
    model
        The model whose trained value is next, or None.
    flat
        The flat configuration, whose own ``intensity_scale`` is next, before the global one and 1.0.
    fail
        Makes the error from a member's name and a reason.

    Returns
    -------
    tuple
        A positive float, and one of 'argument', 'model', 'config', 'global', 'default'.

    Raises
    ------
    BundleError
        For a value that is no positive number within single precision.
    """
    offered = {
        "argument": argument,
        "model": _trained(model, fail),
        "config": flat.get("intensity_scale"),
        "global": parameters.cfg.get("intensity_scale"),
        "default": 1.0,
    }
    source = next(name for name, value in offered.items() if value is not None)
    scale = _checked(offered[source], source, fail)
    if source == "model" and offered["config"] is not None:
        asked = _checked(offered["config"], "config", fail)
        if not same_scale(asked, scale):
            warnings.warn(
                f"intensity_scale: {asked:.6g} in the configuration, but the model was trained with {scale:.6g}, "
                "which is written; to write the other one, give it as intensity_scale=",
                UserWarning,
                stacklevel=3,
            )
    return scale, source


def _trained(model: Any, fail: Fail) -> Any:
    try:
        return getattr(model, "intensity_scale", None)
    except Exception as error:  # a property of somebody else's class may raise anything
        raise fail("params.dill", f"intensity_scale (model): cannot be read ({brief(error, 200)})") from error


def _checked(value: Any, source: str, fail: Fail) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise fail(
            "params.dill", f"intensity_scale ({source}): expected a number, found {type(value).__name__}"
        ) from None
    if not (math.isfinite(number) and number > 0):
        raise fail(
            "params.dill", f"intensity_scale ({source}): expected a positive finite number, found {number}"
        )
    with np.errstate(over="ignore", under="ignore"):
        kept = float(np.exp(np.float32(math.log(number))))
    if not (math.isfinite(kept) and kept > 0):
        raise fail(
            "params.dill", f"intensity_scale ({source}): {number} is beyond single precision (1e-38 to 3e38)"
        )
    return number


@dataclass(frozen=True)
class Agreement:
    """The scale that holds. ``note``: what differed, for one warning, or None; ``from_params``: the
    model's own value is the wrong one."""

    scale: float
    note: str | None = None
    from_params: bool = False


def agree(params: Mapping[str, Any], trained: float, sidecar: Mapping[str, Any] | None) -> Agreement:
    """Settle the scale of a bundle's params against the one in its weights.

    An argument that was given on saving is the truth for both, where ``sidecar`` (``bundle.json``)
    records one; otherwise the model's trained value is.

    >>> agree({"intensity_scale": 1.0}, 3.0, None).scale
    3.0
    """
    written = params.get("intensity_scale")
    if written is None:
        return Agreement(trained)
    if same_scale(written, trained):
        return Agreement(float(written))
    record = (sidecar or {}).get("intensity_scale")
    given = isinstance(record, Mapping) and record.get("source") == "argument"
    taken, why = (
        (written, "it was given when saving") if given else (trained, "the model was trained with it")
    )
    note = (
        f"intensity_scale: {written:.6g} in params, {trained:.6g} in the weights; {taken:.6g} is taken, "
        f"since {why}"
    )
    return Agreement(float(taken), note, given)
