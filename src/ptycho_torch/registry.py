"""Named things that others may add to: scan formats, generators, solvers.

A :class:`Registry` holds one kind of thing by name. There is one way in: a module decorates what it
offers with :meth:`Registry.register`. The package's own modules are named in the registry, and another
distribution names its module in an entry point, so nothing is imported before it is asked for::

    # in another distribution's pyproject.toml
    [project.entry-points."ptychopinn.generators"]
    mine = "my_package.generator"

Imports no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from ptycho_torch.errors import ConfigError, printable

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name, each imported when it is first asked for.

    Parameters
    ----------
    kind : str
        What the things are, as messages call them: ``"scan format"``.
    group : str
        Entry-point group in which other distributions name their modules.
    homes : mapping of str to str
        The package's own names, each with the module that registers it.

    Examples
    --------
    >>> shapes = Registry[type]("shape", "example.shapes", {})
    >>> @shapes.register("disk")
    ... class Disk: ...
    >>> shapes.names(), shapes.get("disk") is Disk
    (['disk'], True)
    """

    def __init__(self, kind: str, group: str, homes: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._homes = dict(homes)
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Make the class or function that is decorated known under ``name``; see :meth:`add`."""

        def decorate(item: T) -> T:
            self.add(name, item, str(getattr(item, "__module__", "")))
            return item

        return decorate

    def add(self, name: str, item: T, module: str) -> None:
        """Make ``item``, made in ``module``, known under ``name``.

        Raises
        ------
        ConfigError
            When the name is taken, also by a module of the package that is not loaded yet.
        """
        home = self._homes.get(name, module)
        if name in self._items or module != home:
            raise ConfigError(
                f"{self.kind} {printable(repr(name), 60)}: expected a name that is free,"
                f" found one that {home} has; register under another name"
            )
        self._items[name] = item

    def names(self) -> list[str]:
        """Names that :meth:`get` knows, sorted; nothing is imported."""
        return sorted({*self._homes, *self._items, *self._others})

    def __contains__(self, name: object) -> bool:
        return name in self._homes or name in self._items or name in self._others

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def get(self, name: str) -> T:
        """Return what is registered under ``name``; its module is imported if need be.

        Raises
        ------
        ConfigError
            When nothing has the name, two distributions claim it, or the module that should
            register it does not.
        """
        claims = self._others.get(name, [])
        if len(claims) > 1 or (claims and name in self._homes):
            owners = [self._homes[name]] if name in self._homes else []
            owners += [_origin(point) for point in claims]
            raise ConfigError(
                f"{self.kind} {printable(repr(name), 60)}: expected one owner of the name,"
                f" found {printable(' and '.join(owners))}; uninstall one"
            )
        if name not in self._items:
            module = claims[0].module if claims else self._homes.get(name)
            if module is None:
                raise ConfigError(
                    f"{self.kind}: expected one of {', '.join(self.names())},"
                    f" found {printable(repr(name), 60)}"
                )
            self._load(name, module)
        return self._items[name]

    def items(self) -> list[tuple[str, T]]:
        """Every name with what is registered under it, sorted by name; all modules are imported."""
        return [(name, self.get(name)) for name in self.names()]

    def _load(self, name: str, module: str) -> None:
        before = dict(self._items)
        try:
            importlib.import_module(module)
        except BaseException:
            self._items = before  # or a second attempt would find its own name taken
            raise
        if name not in self._items:
            raise ConfigError(f"{self.kind} {printable(repr(name), 60)}: {module} does not register it")

    @cached_property
    def _others(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            found.setdefault(point.name, []).append(point)
        return found


def _origin(point: EntryPoint) -> str:
    return f"{point.value} of {point.dist.name}" if point.dist else point.value
