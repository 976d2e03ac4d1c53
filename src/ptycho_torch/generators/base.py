"""What every generator owes: objects from groups of frames, and what may be trusted of them.

Imported by every generator's file; :mod:`ptycho_torch.generators` finds the files by name.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple, TypeVar

from torch import Tensor, nn

from ptycho_torch.config import ModelConfig, set_field, validate
from ptycho_torch.errors import ConfigError, printable

__all__ = ["Generator", "Proposal", "options_of"]

T = TypeVar("T")


class Proposal(NamedTuple):
    """What a generator proposes for a batch of groups, all complex.

    Attributes
    ----------
    object : Tensor
        (B, C, N, N), one patch per frame, or (B, 1, N, N), one object per group centred at its mean position.
    patches : Tensor
        (B, C, N, N), what lies under each frame.
    """

    object: Tensor
    patches: Tensor


def options_of(config: ModelConfig, kind: type[T]) -> T:
    """Read a generator's own options out of a model's configuration.

    Parameters
    ----------
    config : ModelConfig
        Its fields of the same names are taken, and what ``config.generator_options`` says of the others.
    kind : type
        A dataclass whose fields are declared with :func:`ptycho_torch.config.opt`.

    Returns
    -------
    object of ``kind``
        Checked against its declarations.

    Raises
    ------
    ConfigError
        For a name that is no option, and a value of the wrong type or out of range.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from ptycho_torch.config import ModelConfig, opt
    >>> @dataclass
    ... class Options:
    ...     depth: int = opt(2, "layers", ge=1)
    >>> options_of(ModelConfig(generator_options="depth=5"), Options)
    Options(depth=5)
    """
    options = kind()
    names = {field.name for field in dataclasses.fields(options)}  # type: ignore[arg-type]
    for name in names & {field.name for field in dataclasses.fields(config)}:
        setattr(options, name, getattr(config, name))
    for part in filter(None, (text.strip() for text in config.generator_options.split(","))):
        name, equals, value = (text.strip() for text in part.partition("="))
        if not equals:
            raise ConfigError(
                f"generator_options: expected name=value, found {printable(repr(part), 60)}; separate several by commas"
            )
        set_field(options, name, _plain(value), where="generator_options: ")
    validate(options, "model.")
    return options


def _plain(text: str) -> Any:
    """Text as the nearest Python value; types and ranges are checked where it is set."""
    known: dict[str, Any] = {"none": None, "null": None, "true": True, "false": False}
    if text.lower() in known:
        return known[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


class Generator(nn.Module, abc.ABC):
    """Base of all generators. A subclass has :meth:`propose` and says what differs from the defaults here.

    Parameters
    ----------
    config : ModelConfig
        What the model is; ``self.options`` are the generator's own, of the class ``Options``.

    Attributes
    ----------
    Options : type
        Dataclass of the generator's own options, each with default, help and range.
    offset_sign : int
        1 where callers of a trained model give offsets as member minus group mean, -1 where they give
        the opposite, as those of the TensorFlow program do. :meth:`propose` always gets member minus
        mean: the models' own call turns the sign, and nothing else does.
    bf16 : bool
        Whether the networks compute in bfloat16. Physics stays in float32.
    """

    Options: ClassVar[type[Any]]
    offset_sign: ClassVar[int] = 1
    bf16: bool = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.options = options_of(config, self.Options)

    @abc.abstractmethod
    def propose(
        self,
        x: Tensor,
        offsets: Tensor,
        probe: Tensor,
        mask: Tensor | None = None,
        region: int | None = None,
    ) -> Proposal:
        """Propose objects for groups of frames.

        Parameters
        ----------
        x : Tensor
            (B, C, N, N) normalised amplitudes.
        offsets : Tensor
            (B, C, 1, 2) = (x, y), member minus group mean, pixels.
        probe : Tensor
            (modes, N, N) complex.
        mask : Tensor, optional
            (N, N) bool, True where a detector pixel is good.
        region : int, optional
            Side of the groups' common region; default: as small as this batch allows.

        Returns
        -------
        Proposal
            Amplitudes relative to ``probe``; one global phase per group is free.
        """

    def trust(self) -> Tensor | None:
        """Return (N, N) weights, 0 where an object's pixel is worth nothing on a canvas; None: all are."""
        return None

    @classmethod
    def trusts_all(cls, config: ModelConfig) -> bool:
        """Return whether every pixel of a patch may be trusted, so that patches can be merged in training."""
        return True

    @classmethod
    def headroom(cls, config: ModelConfig) -> float:
        """Return the factor on the probe that keeps the object within what the network can say.

        Under a normalised probe the object's mean amplitude is about 1; a network that ends there needs a
        brighter probe, in whose gauge the object is darker.
        """
        return 1.0

    @classmethod
    def completed(cls, config: ModelConfig) -> ModelConfig:
        """Return the configuration with what it leaves to training filled in."""
        return config
