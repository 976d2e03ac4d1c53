"""The convolutional generator of the PtychoPINN papers: one encoder, two decoders.

    o_c = a_c exp(i phi_c),      object = sum_c T(-r_c) o_c / (sum_c T(-r_c) m + 0.001)

with ``a`` and ``phi`` from the two heads, ``m`` one on the central N/2 x N/2 square and zero around it,
and T the bilinear translation of :mod:`ptycho_torch.physics.bilinear`. Laid out so that weights of
the TensorFlow program fit and give the same numbers; two of its habits are not kept: offsets are
relative to their own group, never to the mean over a batch, and a batch of any size stays a batch.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from ptycho_torch.config import ModelConfig
from ptycho_torch.generators import Proposal, register
from ptycho_torch.generators.cnn_layers import Encoder, Head
from ptycho_torch.physics.bilinear import sampling_matrix, translate

__all__ = ["CnnGenerator"]

_EPSILON: Final = 0.001
"""Added to the number of members that cover a pixel; part of what trained weights rely on."""


@register("cnn")
class CnnGenerator(nn.Module):
    """Objects from one pass of a convolutional network.

    ``object_big``: all members predict a patch each and the patches are merged into one object per
    group, (B, 1, N, N); otherwise one object is predicted per group. ``offset_sign``: this network
    takes offsets as the TensorFlow program gives them, group mean minus member, so a caller that
    has member minus mean multiplies by it.

    Outside the central square nothing covers a pixel of a merged object: its value there is divided
    by 0.001 alone. ``trusted`` (N, N) is 1 where a value is worth anything on a canvas.
    """

    offset_sign: ClassVar[int] = -1
    border: Tensor
    trusted: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.bf16 = False  # arithmetic of the network; merging and cropping stay fp32
        self.encoder = Encoder(config)
        self.amplitude = Head(config, phase=False)
        self.phase = Head(config, phase=True)
        quarter = config.N // 4
        # Filled and not computed: arithmetic on torch's meta device, where models are built to be
        # compared with a file, would import a compiler and take a second.
        inside = (slice(quarter, -quarter), slice(quarter, -quarter))
        border, trusted = torch.ones(config.N, config.N), torch.zeros(config.N, config.N)
        border[inside] = 0
        everywhere = not config.object_big and (config.probe_big or not config.pad_object)
        trusted[... if everywhere else inside] = 1
        self.register_buffer("border", border, persistent=False)
        self.register_buffer("trusted", trusted, persistent=False)

    @property
    def margin(self) -> int:
        """Pixels that the canvas extends beyond the object's window on each side."""
        return ((self.config.gridsize - 1) * self.config.offset + self.config.max_position_jitter) // 2

    def network(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Amplitude and phase (B, F, N, N) of normalised amplitudes (B, C, N, N)."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.encoder(x.contiguous(memory_format=torch.channels_last))
            amplitude, phase = self.amplitude(features, self.border), self.phase(features, self.border)
            return amplitude.to(x.dtype), phase.to(x.dtype)

    def canvas(self, x: Tensor, offsets: Tensor) -> Tensor:
        """The object with its margin, (B, 1, P, P) complex64, P = N + 2 margin."""
        size, margin = self.config.N, self.margin
        amplitude, phase = self.network(x)
        patches = torch.complex(amplitude * torch.cos(phase), amplitude * torch.sin(phase))
        if not self.config.object_big:
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

    def forward(self, x: Tensor, offsets: Tensor, probe: Tensor | None = None, **_: Any) -> Tensor:
        """The object (B, 1, N, N) complex64; the probe plays no part in it."""
        return self._window(self.canvas(x, offsets))

    def propose(
        self,
        x: Tensor,
        offsets: Tensor,
        probe: Tensor,
        mask: Tensor | None = None,
        region: int | None = None,
    ) -> Proposal:
        """Object and patches; see :mod:`ptycho_torch.generators` for the arguments.

        ``offsets`` in this network's sign (``offset_sign``). Pixels outside ``mask`` count as
        zero; ``region`` is fixed by the configuration.
        """
        canvas = self.canvas(x if mask is None else x * mask, offsets)
        return Proposal(self._window(canvas), self.patches(canvas, offsets))

    def _window(self, canvas: Tensor) -> Tensor:
        margin, size = self.margin, self.config.N
        return canvas[..., margin : margin + size, margin : margin + size]
