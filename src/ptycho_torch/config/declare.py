"""The declaration of one configuration field: default, help, range. Imports no torch."""

from __future__ import annotations

from dataclasses import field
from typing import Any

__all__ = ["opt"]


def opt(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    multiple_of: int | None = None,
    carried: bool = False,
    usual: tuple[Any, ...] | None = None,
) -> Any:
    """Declare a dataclass field with help text and range.

    Parameters
    ----------
    default : object
        Its default.
    help : str
        What the command line says of it, with its unit.
    ge, gt, le, multiple_of : number, optional
        At least, above, at most, a multiple of.
    carried : bool
        Whether other programs alone know the field: it is kept in configuration and bundle for them, has no
        effect on this package, and is no flag.
    usual : tuple, optional
        For a field that decides the shapes of weights: values to try where a file's weights do not fit.

    Returns
    -------
    dataclasses.Field
        What stands behind the equals sign in a dataclass.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Options:
    ...     depth: int = opt(2, "layers", ge=1)
    >>> Options().depth
    2
    """
    meta = {
        "help": help,
        "ge": ge,
        "gt": gt,
        "le": le,
        "multiple_of": multiple_of,
        "carried": carried,
        "usual": usual,
    }
    return field(default=default, metadata={k: v for k, v in meta.items() if v is not None})
