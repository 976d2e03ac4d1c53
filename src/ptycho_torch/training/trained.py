"""What a training run returns, however it trained."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ptycho_torch.config import TrainingConfig
from ptycho_torch.model import Autoencoder, DiffractionToObject

__all__ = ["Trained"]


@dataclass
class Trained:
    """A trained pair, sharing weights, and how it came about. ``signal``: the one that ended it early, if any."""

    autoencoder: Autoencoder
    diffraction_to_obj: DiffractionToObject
    config: TrainingConfig
    history: list[dict[str, float]]
    best: float
    seconds: float
    signal: int | None = None
    probe_residuals: list[float] = field(default_factory=list)

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the run early."""
        return self.signal is not None

    @property
    def models(self) -> dict[str, torch.nn.Module]:
        """The pair as ``save_torch_bundle`` takes it."""
        return {"autoencoder": self.autoencoder, "diffraction_to_obj": self.diffraction_to_obj}
