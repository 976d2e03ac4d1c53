"""A small U-Net on pixel-unshuffled features, whose output starts at zero."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["UNet"]


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(F.gelu(self.first(F.gelu(x))))
        return x + change


class UNet(nn.Module):
    """Maps (B, inputs, H, W) real features to (B, outputs, H, W).

    Pixel-unshuffle by 2, widths ``width * (1, 2, 3, ...)`` over ``levels`` stride-2 levels, residual
    3x3 convolutions with GELU, additive skips, pixel-shuffle; the last layer starts at zero, so a
    fresh network changes nothing. Any even H and W: sides are zero-padded to what the strides need.

    Attributes
    ----------
    multiple : int
        Pixels of the grid on which it pools: moved by so many, the input gives the output moved by as many.
    reach : int
        Pixels beyond which no input acts on an output.
    """

    def __init__(self, inputs: int, outputs: int, width: int, levels: int) -> None:
        super().__init__()
        widths = [width * (i + 1) for i in range(levels + 1)]
        self.multiple = 2 << levels
        # 3x3 convolutions on a grid of s pixels reach s each: two in a block, one on the way down, three around all.
        self.reach = sum(3 * (2 << i) for i in range(levels)) + 2 * (2 << levels) + 4 * 2
        self.enter = nn.Conv2d(4 * inputs, width, 3, padding=1)
        self.blocks = nn.ModuleList(_Residual(w) for w in widths)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in itertools.pairwise(widths))
        self.merge = _Residual(width)
        self.leave = nn.Conv2d(width, 4 * outputs, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        pad_h, pad_w = -height % self.multiple, -width % self.multiple
        if pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h))
        x = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        x = self.blocks[0](self.enter(x))
        skips = []
        for down, block in zip(self.down, self.blocks[1:], strict=True):
            skips.append(x)
            x = block(down(F.gelu(x)))
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = skip + F.pixel_shuffle(up(F.gelu(x)), 2)
        x = self.leave(F.gelu(self.merge(x)))
        return F.pixel_shuffle(x, 2)[..., :height, :width]
