"""CXI files whose translations have the opposite sign."""

from __future__ import annotations

from pathlib import Path

from ptycho_torch.scan.cxi import Cxi
from ptycho_torch.scan.registry import FORMATS, ScanFormat

__all__ = ["CxiTurned"]


@FORMATS.register("cxi-turned")
class CxiTurned(Cxi):
    """The same as ``cxi`` with the negative of what is stored; only by name, since the content looks alike."""

    suffixes = ()
    sign = -1
    write = ScanFormat.write

    def recognises(self, path: Path, head: bytes) -> bool:
        return False
