"""Writing files whole or not at all. Needs no torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptycho_torch.errors import OutputError

__all__ = ["atomic_path", "ensure_output_dir", "write_bytes_atomic", "write_text_atomic"]


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _new_file_mode() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside ``target``; what is written there replaces it when the block ends.

    When the block raises, the temporary file is removed and an earlier ``target`` is as it was. The
    temporary name ends like the target's, for writers that look at the suffix. Raises
    :class:`OutputError` with path and reason (no such folder, no permission, disk full ...) in place
    of any ``OSError``.
    """
    target = Path(target)
    part: Path | None = None
    try:
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.stem[:64]}.", suffix=target.suffix
        )
        os.close(handle)
        part = Path(name)
        yield part
        # Some file systems report a full disk only here.
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.chmod(_new_file_mode())  # mkstemp's files are private
        part.replace(target)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{target}: cannot be written: {_reason(error)}; nothing was changed") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def write_bytes_atomic(target: str | Path, data: bytes) -> None:
    """Writes ``data`` to ``target``, whole or not at all. Raises :class:`OutputError`."""
    with atomic_path(target) as part:
        part.write_bytes(data)


def write_text_atomic(target: str | Path, text: str) -> None:
    """Writes ``text`` to ``target`` as UTF-8, whole or not at all. Raises :class:`OutputError`."""
    write_bytes_atomic(target, text.encode())


def ensure_output_dir(path: str | Path) -> Path:
    """Makes the folder if need be and proves that a file can be written in it; returns its path.

    Call it before long work starts. Raises :class:`OutputError` with path and reason when it is a
    file, cannot be made, cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{path}: expected an output folder, found a file; name another folder") from error
    except OSError as error:
        raise OutputError(f"{path}: the output folder cannot be made: {_reason(error)}") from error
    try:
        # Permission bits do not tell all (read-only mounts, quotas), so a file is really written.
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(bytes(4096))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise OutputError(f"{path}: the output folder cannot be written to: {_reason(error)}") from error
    return path
