"""Older import path of :mod:`ptycho_torch.compat.layout`."""

from ptycho_torch.compat.layout import from_channels_last, to_channels_last

__all__ = ["from_channels_last", "to_channels_last"]
