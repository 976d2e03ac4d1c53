"""Encoder and decoder heads of the PtychoPINN network, layer for layer as the TensorFlow program has them.

Every convolution is 3x3, stride 1, zero-padded to keep the size, with bias. Numbers of filters
follow from N and ``n_filters_scale`` (s):

    N      encoder                       decoder                last block
    64     s (32, 64, 128)               s (64, 32)             s 32
    128    s (16, 32, 64, 128)           s (128, 64, 32)        s 16
    256    s (8, 16, 32, 64, 128)        s (256, 128, 64, 32)   s 8

Source: A. Vong et al., PtychoPINN; the layout of its archives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptycho_torch.config import ModelConfig
from ptycho_torch.errors import ConfigError

__all__ = [
    "OUTER",
    "Encoder",
    "Head",
    "decoder_filters",
    "encoder_filters",
    "last_filters",
    "object_channels",
]

_LEVELS: Final = {64: 3, 128: 4, 256: 5}
OUTER: Final = 4
"""Decoder channels that are set aside for the border of the object."""

_AMPLITUDE: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "sigmoid": torch.sigmoid,
    "swish": F.silu,
    "softplus": F.softplus,
    "relu": F.relu,
}


def encoder_filters(size: int, scale: int) -> list[int]:
    """Filters per encoder level for frames of ``size`` pixels; raises ConfigError for a size without a network."""
    if size not in _LEVELS:
        raise ConfigError(f"N: expected 64, 128 or 256 for architecture 'cnn', found {size}")
    levels = _LEVELS[size]
    return [scale * (128 >> (levels - 1 - level)) for level in range(levels)]


def decoder_filters(size: int, scale: int) -> list[int]:
    """Filters per decoder level."""
    levels = len(encoder_filters(size, scale)) - 1
    return [scale * (32 << (levels - 1 - level)) for level in range(levels)]


def last_filters(size: int, scale: int) -> int:
    """Filters of the block that brings the border to full size."""
    return scale * (2048 // size)


def object_channels(config: ModelConfig) -> int:
    """Objects that the network predicts per group: one per member when they share one object, else one."""
    return config.gridsize**2 if config.object_big else 1


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _pairs(convs: nn.ModuleList, x: Tensor, after: Callable[[Tensor], Tensor]) -> Tensor:
    for first, second in zip(convs[::2], convs[1::2], strict=True):
        # Of one channel, both layouts look alike to torch, and it would go on with the slower one.
        x = F.relu(first(x)).contiguous(memory_format=torch.channels_last)
        x = after(F.relu(second(x)))
    return x


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


class Encoder(nn.Module):
    """(B, C, N, N) normalised amplitudes to (B, 128 s, N', N') features, N' = 8."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        before, convs = config.gridsize**2, nn.ModuleList()
        for filters in encoder_filters(config.N, config.n_filters_scale):
            convs.extend([_conv(before, filters), _conv(filters, filters)])
            before = filters
        self.convs = convs

    def forward(self, x: Tensor) -> Tensor:
        return _pairs(self.convs, x, _halve)


class Head(nn.Module):
    """One decoder: features to the amplitude or the phase of the object, (B, F, N, N).

    With ``pad_object``, ``inner`` predicts the central half from all but four channels; with
    ``probe_big`` those four go through ``up`` and ``outer`` to the border around it. Without
    ``pad_object`` everything goes through ``up`` and ``outer``. What a configuration does not use
    is not built.
    """

    def __init__(self, config: ModelConfig, phase: bool) -> None:
        super().__init__()
        self.quarter, self.padded = config.N // 4, config.pad_object
        self.activation = _phase if phase else _AMPLITUDE[config.amp_activation]
        scale, outputs = config.n_filters_scale, object_channels(config)
        before, base = encoder_filters(config.N, scale)[-1], nn.ModuleList()
        for filters in decoder_filters(config.N, scale):
            base.extend([_conv(before, filters), _conv(filters, filters)])
            before = filters
        self.base = base
        self.inner = _conv(before - OUTER, outputs) if config.pad_object else None
        self.up, self.outer = None, None
        if config.probe_big or not config.pad_object:
            last = last_filters(config.N, scale)
            self.up = nn.ModuleList([_conv(OUTER if config.pad_object else before, last), _conv(last, last)])
            self.outer = _conv(last, outputs)

    def forward(self, features: Tensor, border: Tensor) -> Tensor:
        """``border`` (N, N): 0 in the central half, 1 around it."""
        x = _pairs(self.base, features, _double)
        if self.inner is None:
            return self.activation(self._full(x))
        inner = F.pad(self.activation(self.inner(x[:, :-OUTER])), [self.quarter] * 4)
        # The border has one activation for amplitude and phase alike; the program has it so.
        return inner if self.outer is None else inner + F.silu(self._full(x[:, -OUTER:])) * border

    def _full(self, x: Tensor) -> Tensor:
        assert self.up is not None
        assert self.outer is not None
        full: Tensor = self.outer(_pairs(self.up, x, _double))
        return full


def _phase(x: Tensor) -> Tensor:
    return math.pi * torch.tanh(x)
