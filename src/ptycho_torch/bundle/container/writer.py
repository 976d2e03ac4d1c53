"""Replacing a file so that at every moment the old one or the new one is there, whole.

The new content is written beside the target, flushed to the disk, read back, and then renamed over
it. A writer that is killed leaves a ``.part`` file, which the next save removes; a lock on it tells a
dead writer's from one that is still being written. Imports no torch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from ptycho_torch.bundle.container.zipwriter import Buffer
from ptycho_torch.errors import OutputError, PtychoError, printable

try:
    import fcntl
except ImportError:  # Windows: a file that is open cannot be removed there, which serves as the lock
    fcntl = None  # type: ignore[assignment]

__all__ = ["replace_file"]

_BATCH = 64


def replace_file(target: Path, parts: Sequence[Buffer], check: Callable[[Path], None]) -> Path:
    """Puts ``parts`` in place of the file ``target``; returns the path written (links resolved).

    Parent folders are made. ``check`` reads the new file back before it takes the old one's place and
    raises if it is not as it should be. The old file's permissions (and owner, where allowed) are
    kept; a link stays a link and its target is replaced. On any error the old file is untouched, the
    temporary one is gone, and :class:`~ptycho_torch.errors.OutputError` (or what ``check`` raised) goes
    out.
    """
    try:
        final = Path(os.path.realpath(target))
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists() and not final.is_file():
            raise OutputError(
                f"{printable(target, 1000)}: exists and is not a regular file; nothing was written"
            )
        _sweep(final)
        temporary, descriptor = _create(final)
    except OSError as error:
        raise _output_error(target, error) from error
    try:
        try:
            _write(descriptor, parts)
            os.fsync(descriptor)
            check(temporary)
            _keep_permissions(final, descriptor)
            temporary.replace(final)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            raise
        finally:
            os.close(descriptor)
        _sync_folder(final.parent)
    except OSError as error:
        raise _output_error(target, error) from error
    return final


def _output_error(target: Path, error: OSError) -> Exception:
    if isinstance(error, PtychoError):
        return error
    reason = error.strerror or str(error)
    return OutputError(
        f"{printable(target, 1000)}: cannot be written ({reason}); an older file there is as it was"
    )


def _prefix(final: Path) -> str:
    return f".{final.name[:100]}."


def _create(final: Path) -> tuple[Path, int]:
    """A new, locked file beside ``final``. Its mode follows the process's umask."""
    while True:
        temporary = final.with_name(f"{_prefix(final)}{os.getpid()}.{secrets.token_hex(6)}.part")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(temporary, flags, 0o666)
        # A sweep by another writer may come between the two steps: then the file has gone, or is locked.
        if _lock(descriptor) and os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # A file system without locks: the file is ours by its random name, only sweeping is less sure.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
            raise
    return True


def _sweep(final: Path) -> None:
    """Removes temporary files that writers of this target left when they were killed."""
    for path in final.parent.iterdir():
        if not (path.name.startswith(_prefix(final)) and path.name.endswith(".part")) or path.is_symlink():
            continue
        try:
            descriptor = os.open(
                path, os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
            )
        except (FileNotFoundError, PermissionError):
            continue  # finished or swept meanwhile, or another user's
        try:
            if _lock_for_sweep(descriptor):
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    path.unlink()
        finally:
            os.close(descriptor)


def _lock_for_sweep(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # its writer lives, or cannot be asked
    return True


def _write(descriptor: int, parts: Sequence[Buffer]) -> None:
    for i in range(0, len(parts), _BATCH):
        queue = [memoryview(part).cast("B") for part in parts[i : i + _BATCH] if len(part)]
        while queue:
            done = os.writev(descriptor, queue)
            while queue and done >= queue[0].nbytes:
                done -= queue.pop(0).nbytes
            if queue and done:
                queue[0] = queue[0][done:]


def _keep_permissions(final: Path, descriptor: int) -> None:
    try:
        old = final.stat()
    except FileNotFoundError:
        return
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        # Only root may give files away; for others the file becomes theirs, as with any editor.
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, old.st_mode & 0o7777)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a folder; the rename has happened all the same.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
