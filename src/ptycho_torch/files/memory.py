"""How much memory there is to read into."""

from __future__ import annotations

import os

__all__ = ["memory_limit"]


def memory_limit() -> int:
    """Return bytes of physical memory, or 64 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 64 << 30
