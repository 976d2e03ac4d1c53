"""Generators: networks or unrolled solvers that propose object patches from frames.

Adding one is a new file with a class decorated by :func:`register`, listed in ``_FILES``. A
generator is built from a :class:`~ptycho_torch.config.ModelConfig` and offers

    propose(x, offsets, probe, mask=None, region=None) -> Proposal

with ``x`` (B, C, N, N) normalised amplitudes, ``offsets`` (B, C, 1, 2) pixels, ``probe``
(modes, N, N) complex, ``mask`` (N, N) bool of good pixels and ``region`` the side of the group's
common region (None: as small as this batch allows).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final, NamedTuple

from torch import Tensor, nn

from ptycho_torch.config import ModelConfig
from ptycho_torch.errors import ConfigError, printable

__all__ = ["Proposal", "available", "build", "register"]


class Proposal(NamedTuple):
    """What a generator proposes for a batch of groups, all complex.

    ``object``: (B, C, N, N), one patch per frame, or (B, 1, N, N), one object per group centred at
    its mean position; ``patches``: (B, C, N, N), what lies under each frame.
    """

    object: Tensor
    patches: Tensor


_FILES: Final[dict[str, str]] = {"unrolled": "unrolled", "cnn": "cnn"}
_REGISTRY: Final[dict[str, Callable[[ModelConfig], nn.Module]]] = {}


def register(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: makes ``config.model.architecture == name`` build this class."""

    def add(cls: type[nn.Module]) -> type[nn.Module]:
        _REGISTRY[name] = cls
        return cls

    return add


def available() -> list[str]:
    """Names that :func:`build` knows, without importing their files."""
    return sorted(set(_FILES) | set(_REGISTRY))


def build(config: ModelConfig) -> nn.Module:
    """The generator that ``config.architecture`` names, with fresh weights.

    Raises :class:`~ptycho_torch.errors.ConfigError` for an unknown name.
    """
    name = config.architecture
    if name not in _REGISTRY and name in _FILES:
        importlib.import_module(f"{__name__}.{_FILES[name]}")
    if name not in _REGISTRY:
        raise ConfigError(
            f"architecture: expected one of {', '.join(available())}, found {printable(repr(name), 60)}"
        )
    return _REGISTRY[name](config)
