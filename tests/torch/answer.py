"""A generator that says what a test wants to hear, so that losses can be asked about known answers."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ptycho_torch.config import ModelConfig
from ptycho_torch.generators import Generator, Proposal


@dataclasses.dataclass
class NoOptions:
    """It has none."""


class Answer(Generator):
    """Its patches are ``answer``, complex; ``seen`` and ``told`` are the frames and the rest of what it was asked."""

    Options = NoOptions

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.answer = torch.zeros(1, 1, 1, 1, dtype=torch.complex64)
        self.seen: Tensor | None = None
        self.told: dict[str, Any] = {}

    def propose(self, x: Tensor, offsets: Tensor, probe: Tensor, **more: Any) -> Proposal:
        self.seen, self.told = x, {"offsets": offsets, "probe": probe, **more}
        return Proposal(self.answer, self.answer)
