"""Writing a bundle: buffers in file order, read back before they take the old file's place. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ptycho_torch.bundle.container.zipwriter import Buffer
from ptycho_torch.files.atomic import replacing

__all__ = ["replace_file"]

_BATCH = 64


def replace_file(target: Path, parts: Sequence[Buffer], check: Callable[[Path], None]) -> Path:
    """Put ``parts`` in place of the file ``target``, as :func:`~ptycho_torch.files.atomic.replacing` does.

    Parameters
    ----------
    target
        The file; folders above it are made.
    parts
        Its content.
    check
        Reads the new file back before it takes the old one's place, and raises if it is not as it
        should be.

    Returns
    -------
    Path
        The path written, links resolved.

    Raises
    ------
    OutputError
        When it cannot be written. On this and on what ``check`` raises, the old file is untouched.
    """
    with replacing(target, parents=True) as (part, final, descriptor):
        _write(descriptor, parts)
        os.fsync(descriptor)
        check(part)
    return final


def _write(descriptor: int, parts: Sequence[Buffer]) -> None:
    for i in range(0, len(parts), _BATCH):
        queue = [memoryview(part).cast("B") for part in parts[i : i + _BATCH] if len(part)]
        while queue:
            done = os.writev(descriptor, queue)
            while queue and done >= queue[0].nbytes:
                done -= queue.pop(0).nbytes
            if queue and done:
                queue[0] = queue[0][done:]
