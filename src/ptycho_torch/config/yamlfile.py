"""YAML files read without trusting them: small, flat, and without references to earlier parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ptycho_torch.errors import ConfigError, printable
from ptycho_torch.files.regular import open_regular

__all__ = ["read_yaml"]

_MAX_BYTES = 256 << 10
_MAX_DEPTH = 16
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError)
"""What the library raises on values such as a date in month 13."""


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the keys and values of a YAML file.

    Parameters
    ----------
    path
        A regular file of at most 256 KiB.

    Returns
    -------
    dict
        Plain values by key.

    Raises
    ------
    ConfigError
        When it cannot be read, is too large, nested too deeply, or uses aliases (a few lines of them
        describe gigabytes), or when it holds something else than keys and values.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("c.yaml").write_text("model:\\n  gridsize: 2")
    >>> read_yaml("c.yaml")
    {'model': {'gridsize': 2}}
    """
    import yaml

    shown = printable(path, 1000)
    try:
        with open_regular(path) as stream:
            raw = stream.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise ConfigError(f"{shown}: expected a configuration of at most {_MAX_BYTES} bytes, found more")
        text = raw.decode("utf-8-sig")
        _check_shape(text, shown)
        data = yaml.safe_load(text)
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ConfigError(f"{shown}: no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read ({error.strerror or printable(error)})") from error
    except (yaml.YAMLError, *_UNREADABLE) as error:
        raise ConfigError(f"{shown}: not readable as YAML: {_said(error)}") from error
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise ConfigError(f"{shown}: expected keys and values, found {type(data).__name__}")
    return dict(data)


def _said(error: Exception) -> str:
    """The reason in one line; of the library's own errors, the problem and where it is."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem and mark is not None:
        return printable(f"{problem} in line {mark.line + 1}, column {mark.column + 1}")
    return printable(" ".join(str(error).split()))


def _check_shape(text: str, shown: str) -> None:
    """Events come one by one, without the recursion that building values needs."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{shown}: line {line}: aliases (*{printable(event.anchor, 40)}) are not read; "
                              "write the value out")  # fmt: skip
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                raise ConfigError(f"{shown}: line {line}: values nested deeper than {_MAX_DEPTH}; "
                                  "a configuration has sections, and fields in them")  # fmt: skip
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
