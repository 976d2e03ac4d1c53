"""Sources of frames and positions by name; nothing of a protocol is imported before its source is opened."""

from __future__ import annotations

from typing import Final

from ptycho_torch.live.sources.base import Peer, Receiver, Sender, Source, SourceOptions
from ptycho_torch.registry import Registry

__all__ = ["SOURCES", "Peer", "Receiver", "Sender", "Source", "SourceOptions", "source_name"]

SOURCES: Final = Registry[type[Source]](
    "source",
    "ptychopinn.sources",
    {
        name: f"ptycho_torch.live.sources.{name}"
        for name in ("folder", "panda", "pva", "simplon1", "simplon2", "swmr")
    },
)
"""Sources by name."""


def source_name(address: str) -> str | None:
    """Return the source that an address speaks of by itself; None where it could be several.

    Examples
    --------
    >>> source_name("run7_data.h5"), source_name("pva://DET:Pva1:Image"), source_name("frames/")
    ('swmr', 'pva', 'folder')
    >>> source_name("tcp://10.0.0.1:9999") is None
    True
    """
    if address.startswith("pva://"):
        return "pva"
    if "://" in address:
        return None
    return "swmr" if address.lower().endswith((".h5", ".hdf5", ".nxs", ".hdf")) else "folder"
