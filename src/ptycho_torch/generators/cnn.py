"""The convolutional generator of the PtychoPINN papers: one encoder, two decoders.

    o_c = a_c exp(i phi_c),      object = sum_c T(-r_c) o_c / (sum_c T(-r_c) m + 0.001)

with ``a`` and ``phi`` from the two heads, ``m`` one on the central N/2 x N/2 square and zero around it,
and T the bilinear translation of :mod:`ptycho_torch.physics.bilinear`. Laid out so that weights of
the TensorFlow program fit and give the same numbers; two of its habits are not kept: offsets are
relative to their own group, never to the mean over a batch, and a batch of any size stays a batch.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from ptycho_torch.config import CnnOptions, ModelConfig
from ptycho_torch.generators import Generator, Proposal, register
from ptycho_torch.generators.cnn_layers import Encoder, Head
from ptycho_torch.physics.bilinear import sampling_matrix, translate

__all__ = ["CnnGenerator"]

_EPSILON: Final = 0.001
"""Added to the number of members that cover a pixel; part of what trained weights rely on."""


@register("cnn")
class CnnGenerator(Generator):
    """Objects from one pass of a convolutional network.

    ``object_big``: all members predict a patch each and the patches are merged into one object per
    group, (B, 1, N, N); otherwise one object is predicted per group. ``offset_sign``: callers of a trained
    model give offsets as those of the TensorFlow program do, group mean minus member.

    Outside the central square nothing covers a pixel of a merged object: its value there is divided
    by 0.001 alone. ``trusted`` (N, N) is 1 where a value is worth anything on a canvas.
    """

    Options = CnnOptions
    options: CnnOptions
    offset_sign: ClassVar[int] = -1
    border: Tensor
    trusted: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.amplitude = Head(config, phase=False)
        self.phase = Head(config, phase=True)
        quarter = config.N // 4
        # Filled and not computed: arithmetic on torch's meta device, where models are built to be
        # compared with a file, would import a compiler and take a second.
        inside = (slice(quarter, -quarter), slice(quarter, -quarter))
        border, trusted = torch.ones(config.N, config.N), torch.zeros(config.N, config.N)
        border[inside] = 0
        trusted[... if self.trusts_all(config) else inside] = 1
        self.register_buffer("border", border, persistent=False)
        self.register_buffer("trusted", trusted, persistent=False)

    @classmethod
    def trusts_all(cls, config: ModelConfig) -> bool:
        """Return whether the network predicts the border of its patches, and from one frame alone."""
        return not config.object_big and (config.probe_big or not config.pad_object)

    @classmethod
    def headroom(cls, config: ModelConfig) -> float:
        """Return 2.5 where the amplitude's activation ends at 1: the object is about 0.4 then."""
        return 2.5 if config.amp_activation == "sigmoid" else 1.0

    def trust(self) -> Tensor | None:
        """Return (N, N): 1 where a value is worth anything on a canvas, else 0."""
        return self.trusted

    @property
    def margin(self) -> int:
        """Pixels that the canvas extends beyond the object's window on each side."""
        return ((self.config.gridsize - 1) * self.options.offset + self.options.max_position_jitter) // 2

    def network(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Amplitude and phase (B, F, N, N) of normalised amplitudes (B, C, N, N)."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.encoder(x.contiguous(memory_format=torch.channels_last))
            amplitude, phase = self.amplitude(features, self.border), self.phase(features, self.border)
            return amplitude.to(x.dtype), phase.to(x.dtype)

    def canvas(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Return the object with its margin, (B, 1, P, P) complex64, P = N + 2 margin.

        ``offsets`` (B, C, 1, 2): group mean minus member here and in :meth:`patches`, as in the papers.
        """
        size, margin = self.config.N, self.margin
        amplitude, phase = self.network(x)
        patches = torch.complex(amplitude * torch.cos(phase), amplitude * torch.sin(phase))
        if not self.options.object_big:
            return nn.functional.pad(patches, [margin] * 4)
        if patches.shape[1] == 1:  # its own mean: nothing to translate
            return nn.functional.pad(patches / (1 - self.border + _EPSILON), [margin] * 4)
        shifts = offsets.reshape(*offsets.shape[:2], 2)
        shifts = (shifts - shifts.mean(1, keepdim=True)).neg()
        side = size + 2 * margin
        across = sampling_matrix(shifts[..., 0], size, side, first_input=margin)
        down = sampling_matrix(shifts[..., 1], size, side, first_input=margin)
        inside = slice(size // 4, size - size // 4)
        covered = (down[..., inside].sum(-1).unsqueeze(-1) * across[..., inside].sum(-1).unsqueeze(-2)).sum(1)
        merged = translate(patches, down, across).sum(1) / (covered + _EPSILON)
        return merged.unsqueeze(1)

    def patches(self, canvas: Tensor, offsets: Tensor) -> Tensor:
        """What lies under each member, (B, C, N, N): the canvas translated by its offset and cropped.

        Offsets are taken as they are; where they do not add up to zero over a group, object and
        patches have different centres, as in the TensorFlow program.
        """
        side, margin = canvas.shape[-1], self.margin
        shifts = offsets.reshape(*offsets.shape[:2], 2)
        across = sampling_matrix(shifts[..., 0], side, self.config.N, first_output=margin)
        down = sampling_matrix(shifts[..., 1], side, self.config.N, first_output=margin)
        return translate(canvas, down, across)

    def propose(
        self,
        x: Tensor,
        offsets: Tensor,
        probe: Tensor,
        mask: Tensor | None = None,
        region: int | None = None,
    ) -> Proposal:
        """Propose object and patches; see :meth:`Generator.propose`.

        Pixels outside ``mask`` count as zero; ``region`` is fixed by the configuration.
        """
        shifts = offsets.neg()
        canvas = self.canvas(x if mask is None else x * mask, shifts)
        return Proposal(self._window(canvas), self.patches(canvas, shifts))

    def _window(self, canvas: Tensor) -> Tensor:
        margin, size = self.margin, self.config.N
        return canvas[..., margin : margin + size, margin : margin + size]
