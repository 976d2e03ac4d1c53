"""Configuration of pretraining. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ptycho_torch.config.schema import opt

__all__ = ["PretrainOptions"]


@dataclass
class PretrainOptions:
    """How long and how fast the solver is pretrained on simulations.

    The learning rate is constant until the last ``cooldown`` steps and falls to zero over them.
    """

    steps: int = opt(9_000, "total number of steps", ge=1)
    cooldown: int = opt(5_800, "last steps, over which the learning rate falls to zero", ge=1)
    learning_rate: float = opt(5e-4, "learning rate of AdamW", gt=0, le=1)
    warmup: int = opt(200, "first steps, over which the learning rate rises", ge=1)
    clip: float = opt(1.0, "maximum gradient norm", gt=0)
    averaging: float = opt(
        0.998, "decay of the running average of the weights, which is what is kept", ge=0, le=0.99999
    )
    init: str | None = opt(None, "bundle to begin from; default: new weights")
    seed: int = opt(0, "seed of weights and examples", ge=0, le=2**32 - 1)
    save_every: int = opt(250, "steps between saved states", ge=1)
    device: str = opt("cpu", "'cpu' or 'cuda'")
