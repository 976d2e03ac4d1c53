"""Checking a configuration, and moving it between dataclasses, plain dicts and YAML.

The declarations of :mod:`ptycho_torch.config.schema` (types, ranges, choices) are the only source: an
error names the dotted field, what was expected and found. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ptycho_torch.config.yamlfile import read_yaml
from ptycho_torch.errors import ConfigError, brief, printable

__all__ = [
    "config_fields",
    "from_dict",
    "load_yaml",
    "set_field",
    "to_dict",
    "to_yaml",
    "validate",
]

T = TypeVar("T")


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """Types of a dataclass's fields; evaluating annotations takes longer than everything else here."""
    return get_type_hints(cls)


def config_fields(cls: type[Any], prefix: str = "") -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    """Return every leaf field of a configuration.

    Parameters
    ----------
    cls : type
        A dataclass; nested ones are opened.
    prefix : str
        Put before each name.

    Returns
    -------
    dict
        Dotted name to (type, dataclass field).

    Examples
    --------
    >>> from ptycho_torch.config import TrainingConfig
    >>> config_fields(TrainingConfig)["model.gridsize"][1].metadata["ge"]
    1
    """
    hints = _hints(cls)  # type: ignore[arg-type]
    found: dict[str, tuple[Any, dataclasses.Field[Any]]] = {}
    for item in dataclasses.fields(cls):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind):
            found |= config_fields(kind, f"{prefix}{item.name}.")  # type: ignore[arg-type]
        else:
            found[prefix + item.name] = (kind, item)
    return found


def _describe(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(repr(v) for v in get_args(kind))
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(a) for a in get_args(kind))
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return "null" if kind is type(None) else names.get(kind, str(kind))


def _convert(value: Any, kind: Any) -> Any:
    """``value`` as ``kind``; ``TypeError`` where it does not fit. Booleans are never numbers."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        for option in sorted(get_args(kind), key=lambda a: a is not type(None)):
            try:
                return _convert(value, option)
            except TypeError:
                continue
        raise TypeError
    if origin is Literal:
        if isinstance(value, str) and value in get_args(kind):
            return value
        raise TypeError
    if kind is type(None):
        if value is None:
            return None
    elif kind is bool:
        if isinstance(value, bool):
            return value
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if hasattr(value, "__index__") and not isinstance(value, bool) and getattr(value, "ndim", 0) == 0:
            return int(value.__index__())
        if isinstance(value, float) and value.is_integer():  # as scripts for the older program write them
            return int(value)
    elif kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                raise TypeError from None
        if getattr(value, "ndim", None) == 0 and getattr(getattr(value, "dtype", None), "kind", "") in "fiu":
            return float(value)
        if isinstance(value, str):  # YAML 1.1 reads 1e9 as text
            try:
                return float(value)
            except ValueError:
                raise TypeError from None
    elif kind is Path:
        if isinstance(value, str | Path) and str(value):
            return Path(value)
    elif kind is str and isinstance(value, str):
        return value
    raise TypeError


def _check(name: str, value: Any, kind: Any, item: dataclasses.Field[Any], where: str) -> Any:
    try:
        value = _convert(value, kind)
    except TypeError:
        raise ConfigError(f"{where}{name}: expected {_describe(kind)}, found {brief(value, 80)}") from None
    if isinstance(value, int | float) and not isinstance(value, bool):
        meta = item.metadata
        limits = []
        if isinstance(value, float) and not math.isfinite(
            value
        ):  # whole numbers may be longer than any float
            limits.append("finite")
        if "ge" in meta and value < meta["ge"]:
            limits.append(f"at least {meta['ge']}")
        if "gt" in meta and not value > meta["gt"]:
            limits.append(f"above {meta['gt']}")
        if "le" in meta and value > meta["le"]:
            limits.append(f"at most {meta['le']}")
        if "multiple_of" in meta and value % meta["multiple_of"]:
            limits.append(f"a multiple of {meta['multiple_of']}")
        if limits:
            raise ConfigError(f"{where}{name}: expected a value {' and '.join(limits)}, found {brief(value)}")
    return value


def validate(config: Any, where: str = "") -> None:
    """Check every field of a configuration against its declaration.

    Parameters
    ----------
    config : object
        Paths given as text and whole numbers given for floats are converted in place.
    where : str
        Opens messages.

    Raises
    ------
    ConfigError
        Naming the first field that does not fit.

    Examples
    --------
    >>> from ptycho_torch.config import TrainingConfig
    >>> validate(TrainingConfig(batch_size=0))
    Traceback (most recent call last):
        ...
    ptycho_torch.errors.ConfigError: batch_size: expected a value at least 1, found 0
    """
    hints = _hints(type(config))  # type: ignore[arg-type]
    for item in dataclasses.fields(config):
        value, kind = getattr(config, item.name), hints[item.name]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, kind):  # type: ignore[arg-type]
                raise ConfigError(f"{where}{item.name}: expected {kind}, found {type(value).__name__}")
            validate(value, f"{where}{item.name}.")
        else:
            setattr(config, item.name, _check(item.name, value, kind, item, where))


def _nearest(key: str, known: list[str]) -> str:
    leaves = {k.rsplit(".", 1)[-1]: k for k in known} | {k: k for k in known}
    close = difflib.get_close_matches(key, list(leaves), n=1, cutoff=0.0)
    return leaves[close[0]] if close else known[0]


def set_field(config: Any, name: str, value: Any, where: str = "", shown: str | None = None) -> None:
    """Set a field by its dotted name, checked.

    Parameters
    ----------
    config : object
        A configuration.
    name : str
        Such as ``model.N`` or ``learning_rate``.
    value : object
    where : str
        Opens messages.
    shown : str, optional
        What messages call the field where its name is not what the user wrote.

    Raises
    ------
    ConfigError
        For an unknown name, and a value of the wrong type or out of range.

    Examples
    --------
    >>> from ptycho_torch.config import TrainingConfig
    >>> config = TrainingConfig()
    >>> set_field(config, "model.N", 128)
    >>> config.model.N
    128
    """
    known = config_fields(type(config))
    if name not in known:
        raise ConfigError(
            f"{where}{printable(name)}: unknown key; did you mean {_nearest(name, list(known))!r}?"
        )
    kind, item = known[name]
    *parents, leaf = name.split(".")
    for parent in parents:
        config = getattr(config, parent)
    setattr(config, leaf, _check(shown or name, value, kind, item, where))


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "", base: T | None = None) -> T:
    """Make a configuration from keys and values.

    Parameters
    ----------
    cls : type
        Its dataclass.
    data : mapping
        Nested or dotted keys.
    where : str
        Opens messages.
    base : object, optional
        What is changed; default: the defaults.

    Returns
    -------
    object of ``cls``

    Raises
    ------
    ConfigError
        Naming the key that is unknown, or whose value is of the wrong type or out of range.

    Examples
    --------
    >>> from ptycho_torch.config import TrainingConfig
    >>> from_dict(TrainingConfig, {"seed": 3, "model": {"gridsize": 2}}).model.gridsize
    2
    """
    config = cls() if base is None else base
    if not isinstance(data, Mapping):
        opening = f"{where[:-1]}: " if where.endswith(".") else where
        raise ConfigError(f"{opening}expected keys and values, found {brief(data)}")
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    nested = {f.name for f in fields if dataclasses.is_dataclass(getattr(config, f.name))}

    def walk(part: Mapping[str, Any], prefix: str) -> None:
        for key, value in part.items():
            if not isinstance(key, str):
                raise ConfigError(f"{where}{prefix}{brief(key)}: expected a name as key")
            if not prefix and key in nested:
                if not isinstance(value, Mapping):
                    raise ConfigError(f"{where}{key}: expected keys and values, found {brief(value)}")
                walk(value, f"{key}.")
            else:
                set_field(config, prefix + key, value, where)

    walk(data, "")
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain values.

    Parameters
    ----------
    config : object

    Returns
    -------
    dict
        Paths are text.

    Examples
    --------
    >>> from ptycho_torch.config import TrainingConfig
    >>> to_dict(TrainingConfig(seed=3))["seed"]
    3
    """
    plain: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        plain[item.name] = str(value) if isinstance(value, Path) else value
    return plain


def load_yaml(cls: type[T], path: str | Path, base: T | None = None) -> T:
    """Read a YAML file into a configuration.

    Parameters
    ----------
    cls : type
        Its dataclass.
    path : str or Path
    base : object, optional
        What is changed; default: the defaults.

    Returns
    -------
    object of ``cls``

    Raises
    ------
    ConfigError
        Naming file and key.

    Examples
    --------
    >>> from ptycho_torch.config import TrainingConfig
    >>> _ = Path("c.yaml").write_text("batch_size: 3")
    >>> load_yaml(TrainingConfig, "c.yaml").batch_size
    3
    """
    return from_dict(cls, read_yaml(path), where=f"{path}: ", base=base)


def to_yaml(config: Any, **sections: Any) -> str:
    """Return a configuration as YAML text that :func:`load_yaml` reads back.

    Parameters
    ----------
    config : object
    **sections
        Further configurations, each under its name.

    Returns
    -------
    str

    Examples
    --------
    >>> from ptycho_torch.config import TrainingConfig
    >>> "seed: 3" in to_yaml(TrainingConfig(seed=3))
    True
    """
    import yaml

    whole = to_dict(config) | {name: to_dict(section) for name, section in sections.items()}
    return str(yaml.safe_dump(whole, sort_keys=False))
