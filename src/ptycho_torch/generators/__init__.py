"""Generators: networks or unrolled solvers that propose object patches from frames.

Adding one is a new file with a subclass of :class:`Generator` decorated by :func:`register`, named in
``_HOMES`` here or, in another distribution, in the entry-point group ``ptychopinn.generators``::

    @register("mine")
    class Mine(Generator):
        Options = MyOptions                       # a dataclass; set as --generator-options name=value,...

        def propose(self, x, offsets, probe, mask=None, region=None):
            patches = ...                         # (B, C, N, N) complex
            return Proposal(patches, patches)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from ptycho_torch.config import ModelConfig
from ptycho_torch.errors import ConfigError
from ptycho_torch.generators.base import Generator, Proposal
from ptycho_torch.registry import Registry

__all__ = ["Generator", "Proposal", "available", "build", "generator_class", "register"]

_HOMES: Final = {name: f"{__name__}.{name}" for name in ("unrolled", "cnn")}
_REGISTRY: Final[Registry[type[Generator]]] = Registry("architecture", "ptychopinn.generators", _HOMES)
_Class = TypeVar("_Class", bound=type[Generator])


def register(name: str) -> Callable[[_Class], _Class]:
    """Make ``config.model.architecture == name`` build the class that is decorated.

    Parameters
    ----------
    name : str
        One that is free.

    Returns
    -------
    callable
        A decorator that returns the class as it is.

    Raises
    ------
    ConfigError
        When the name is taken, or the class is no :class:`Generator`.

    Examples
    --------
    >>> register("unrolled")(Generator)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ptycho_torch.errors.ConfigError: architecture 'unrolled': expected a name that is free, found ...
    """

    def add(cls: _Class) -> _Class:
        if not (isinstance(cls, type) and issubclass(cls, Generator)):
            raise ConfigError(f"architecture {name!r}: expected a subclass of Generator, found {cls!r}")
        _REGISTRY.register(name)(cls)
        return cls

    return add


def available() -> list[str]:
    """Return the names that :func:`build` knows, without importing their files.

    Returns
    -------
    list of str

    Examples
    --------
    >>> {"cnn", "unrolled"} <= set(available())
    True
    """
    return _REGISTRY.names()


def generator_class(config: ModelConfig) -> type[Generator]:
    """Return the class that ``config.architecture`` names.

    Parameters
    ----------
    config : ModelConfig

    Returns
    -------
    type
        A subclass of :class:`Generator`.

    Raises
    ------
    ConfigError
        For an unknown name.

    Examples
    --------
    >>> from ptycho_torch.config import ModelConfig
    >>> generator_class(ModelConfig(architecture="cnn", amp_activation="softplus")).offset_sign
    -1
    """
    return _REGISTRY.get(config.architecture)


def build(config: ModelConfig) -> Generator:
    """Return the generator that ``config.architecture`` names, with fresh weights.

    Parameters
    ----------
    config : ModelConfig

    Returns
    -------
    Generator

    Raises
    ------
    ConfigError
        For an unknown name, or options that do not fit it.

    Examples
    --------
    >>> build(ModelConfig(N=32, unrolled_width=4)).options.unrolled_width
    4
    """
    return generator_class(config)(config)
