"""Files: written whole or not at all, and NPY arrays read without trusting them. Needs no torch."""

from __future__ import annotations

from ptycho_torch.files.atomic import (
    atomic_path,
    ensure_output_dir,
    require_new,
    write_bytes_atomic,
    write_text_atomic,
)

__all__ = ["atomic_path", "ensure_output_dir", "require_new", "write_bytes_atomic", "write_text_atomic"]
