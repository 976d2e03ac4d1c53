"""Command-line flags out of configuration dataclasses: one flag a field, checked by the same declaration."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import typer

from ptycho_torch.config import config_fields, set_field

__all__ = ["apply_flags", "with_fields"]

_ANY_SEED = 2**32 - 1
"""A bound that says nothing to a user."""
_SECTIONS = {"model.": "Model", "execution.": "Execution"}


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _metavar(kind: Any) -> str:
    parts = _parts(kind)
    names: dict[Any, str] = {int: "INTEGER", float: "NUMBER", Path: "PATH", str: "TEXT", type(None): "none"}
    shown = ["|".join(get_args(p)) if get_origin(p) is Literal else names.get(p, str(p)) for p in parts]
    return "|".join(shown)


def _reader(kind: Any) -> Callable[[str], Any]:
    """Text of a flag as the nearest Python value; ranges and choices are checked where it is set."""
    parts = _parts(kind)

    def read(text: str) -> Any:
        if type(None) in parts and text.lower() in ("none", "null"):
            return _UNSET
        for number in (int, float):
            if number in parts:
                try:
                    return number(text)
                except ValueError:
                    continue
        return text

    return read


class _Unset:
    """'none' on the command line, told apart from a flag that was not given."""


_UNSET = _Unset()


def _facts(default: Any, meta: Mapping[str, Any]) -> str:
    """Default and range of a field in words; a default that the help text explains is not said twice."""
    shown = "on" if default is True else "off" if default is False else default
    told = default is None and "default:" in meta.get("help", "")
    facts = [] if told else [f"default: {'none' if default in (None, '') else shown}"]
    for key, words in (
        ("ge", "at least"),
        ("gt", "above"),
        ("le", "at most"),
        ("multiple_of", "a multiple of"),
    ):
        if key in meta and meta[key] < _ANY_SEED:
            facts.append(f"{words} {meta[key]}")
    return "; ".join(facts)


def _flag(name: str, kind: Any, item: Any, section: str) -> inspect.Parameter:
    leaf = _leaf(name)
    spelled = "--" + leaf.replace("_", "-")
    default = item.default if not callable(item.default_factory) else None  # type: ignore[misc]
    text = item.metadata.get("help", "")
    # Brackets are markup to the library that prints the help; unescaped, they and what is in them vanish.
    facts = _facts(default, item.metadata)
    text = (f"{text} [{facts}]" if facts else text).replace("[", r"\[")
    annotation: Any
    if kind is bool:
        option = typer.Option(
            f"{spelled}/--no-{spelled[2:]}", help=text, rich_help_panel=section, show_default=False
        )
        annotation = bool | None
    else:
        option = typer.Option(
            spelled,
            help=text,
            rich_help_panel=section,
            show_default=False,
            parser=_reader(kind),
            metavar=_metavar(kind),
        )
        annotation = Any | None
    option.default = None
    return inspect.Parameter(leaf, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)


def with_fields(*configs: tuple[type[Any], str, Collection[str]]) -> Callable[[Any], Any]:
    """Gives a command one flag for every field of the configurations that has an effect.

    Each of ``configs`` is (class, help section, names of fields to leave out). The command's last
    parameter, ``flags``, gets those that were given as ``{field: value}``.
    """

    def decorate(command: Any) -> Any:
        signature = inspect.signature(command, eval_str=True)
        kept = [p for p in signature.parameters.values() if p.name != "flags"]
        flags: list[inspect.Parameter] = []
        for cls, section, left_out in configs:
            for name, (kind, item) in config_fields(cls).items():
                if name not in left_out and not item.metadata.get("carried"):
                    panel = next((v for k, v in _SECTIONS.items() if name.startswith(k)), section)
                    flags.append(_flag(name, kind, item, panel))
        names = [p.name for p in flags]
        doubled = {n for n in names if names.count(n) > 1} | ({p.name for p in kept} & set(names))
        if doubled:
            raise ValueError(f"two flags of one name: {', '.join(sorted(doubled))}")

        def run(**values: Any) -> Any:
            given = {k: values.pop(k) for k in names}
            return command(
                **values,
                flags={k: None if v is _UNSET else v for k, v in given.items() if v is not None},
            )

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*kept, *flags)]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def apply_flags(config: Any, flags: Mapping[str, Any]) -> None:
    """Sets those flags that are fields of ``config``, checked. Raises ``ConfigError``."""
    for name in config_fields(type(config)):
        leaf = _leaf(name)
        if leaf in flags:
            set_field(config, name, flags[leaf], shown=f"--{leaf.replace('_', '-')}")
