"""Writing files whole or not at all: the one way in which this package writes. Needs no torch.

The new content is written beside the target, flushed to the disk, and then renamed over it, and the
folder is flushed: at every moment the old file or the new one is there, whole. A writer that is killed
leaves a ``.part`` file, which the next one removes; a lock on it tells a dead writer's from one that is
still being written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ptycho_torch.errors import OutputError, PtychoError, printable

try:
    import fcntl
except ImportError:  # Windows: a file that is open cannot be removed there, which serves as the lock
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "atomic_path",
    "ensure_output_dir",
    "replacing",
    "require_new",
    "write_bytes_atomic",
    "write_text_atomic",
]

_PART = re.compile(r"\..+\.[0-9]+\.[0-9a-f]+\.part(\.[^.]*)?", re.DOTALL)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)


@contextmanager
def replacing(target: str | os.PathLike[str], *, parents: bool = False) -> Iterator[tuple[Path, Path, int]]:
    """Give a new file beside ``target`` that takes its place when the block ends.

    Parameters
    ----------
    target
        The file to write. A link stays a link, and what it points at is replaced. Permissions (and
        owner, where allowed) of an older file are kept; one without write permission is refused.
    parents
        Whether folders above it are made.

    Yields
    ------
    tuple of Path, Path and int
        The file to write into, whose name ends like the target's; the target with links resolved; and
        a descriptor of the new file, open for reading and writing.

    Raises
    ------
    OutputError
        In place of any ``OSError``, with path and reason: no such folder, no permission, disk full.
        Whatever the block raises, an older file is as it was and the new one is gone.
    """
    try:
        final = Path(os.path.realpath(target))
        if parents:
            final.parent.mkdir(parents=True, exist_ok=True)
        _check_target(target, final)
        _sweep(final.parent, _prefix(final))
        part, descriptor = _create(final)
        try:
            yield part, final, descriptor
            _put_in_place(part, final)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
            raise
        finally:
            os.close(descriptor)
        _sync_folder(final.parent)
    except OSError as error:
        if isinstance(error, PtychoError):
            raise
        raise OutputError(
            f"{printable(target, 1000)}: cannot be written: {_reason(error)}; nothing was changed"
        ) from error


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``target``; what is written there replaces it when the block ends.

    The same as :func:`replacing`, for writers that take a path.

    Parameters
    ----------
    target : path

    Yields
    ------
    Path
        Beside the target, with its suffix.

    Raises
    ------
    OutputError
        In place of any ``OSError``; an older file is as it was.

    Examples
    --------
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_path(Path(folder) / "a.txt") as part:
    ...         _ = part.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    with replacing(target) as (part, _, _):
        yield part


def write_bytes_atomic(target: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes, whole or not at all.

    Parameters
    ----------
    target : path
    data : bytes

    Raises
    ------
    OutputError
        When it cannot be written; an older file is as it was.

    Examples
    --------
    >>> write_bytes_atomic("a.bin", b"whole")
    >>> Path("a.bin").read_bytes()
    b'whole'
    """
    with atomic_path(target) as part:
        part.write_bytes(data)


def write_text_atomic(target: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8, whole or not at all.

    Parameters
    ----------
    target : path
    text : str
        Parts of file names that are no text in any encoding are escaped.

    Raises
    ------
    OutputError
        When it cannot be written; an older file is as it was.

    Examples
    --------
    >>> write_text_atomic("a.txt", "größe")
    >>> Path("a.txt").read_text(encoding="utf-8")
    'größe'
    """
    write_bytes_atomic(target, text.encode("utf-8", "backslashreplace"))


def ensure_output_dir(path: str | os.PathLike[str]) -> Path:
    """Make the folder if need be, prove that a file can be written in it, and return its path.

    Call it before long work starts. What killed writers left there is removed.

    Parameters
    ----------
    path : path

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        With path and reason, when it is a file, cannot be made, cannot be written to, or the disk is full.

    Examples
    --------
    >>> ensure_output_dir("out/run").is_dir()
    True
    """
    path = Path(path)
    shown = printable(path, 1000)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(
            f"{shown}: a file, where the output folder would go; name another folder"
        ) from error
    except (OSError, ValueError) as error:
        raise OutputError(f"{shown}: the output folder cannot be made: {_reason(error)}") from error
    try:
        # Permission bits do not tell all (read-only mounts, quotas), so a file is really written.
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(bytes(4096))
            probe.flush()
            os.fsync(probe.fileno())
        _sweep(path, ".")
    except OSError as error:
        raise OutputError(f"{shown}: the output folder cannot be written to: {_reason(error)}") from error
    return path


def require_new(outputs: Iterable[str | os.PathLike[str]], *inputs: str | os.PathLike[str] | None) -> None:
    """Refuse to write over what is read.

    Parameters
    ----------
    outputs
        Files about to be written.
    inputs
        Files, or folders of files, that are read; None and what does not exist are passed over.

    Raises
    ------
    OutputError
        When one of ``outputs`` is one of ``inputs`` under any name, or lies in one that is a folder and
        is there already.

    Examples
    --------
    >>> write_text_atomic("scan.txt", "frames")
    >>> require_new(["image.txt"], "scan.txt")
    >>> require_new(["./scan.txt"], "scan.txt")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ptycho_torch.errors.OutputError: ...
    """
    for output in map(Path, outputs):
        if not output.exists():
            continue
        for given in inputs:
            if given is None or not (source := Path(given)).exists():
                continue
            inside = source.is_dir() and source.resolve() in output.resolve().parents
            if inside or output.samefile(source):
                raise OutputError(
                    f"{printable(output, 1000)}: is an input of this command and would be overwritten;"
                    " name another output"
                )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _check_target(target: str | os.PathLike[str], final: Path) -> None:
    try:
        mode = final.stat().st_mode
    except FileNotFoundError:
        return
    shown = printable(target, 1000)
    if not final.is_file():
        raise OutputError(f"{shown}: exists and is not a regular file; nothing was changed")
    if not mode & 0o222:  # a rename would not ask, and root may write anywhere
        raise OutputError(
            f"{shown}: is read-only, so it was kept; name another file or make this one writable (chmod u+w)"
        )


def _prefix(final: Path) -> str:
    return f".{final.name[:100]}."


def _create(final: Path) -> tuple[Path, int]:
    """A new, locked file beside ``final``. Its mode follows the process's umask."""
    suffix = final.suffix if len(final.suffix) <= 16 else ""
    while True:
        name = f"{_prefix(final)}{os.getpid()}.{secrets.token_hex(6)}.part{suffix}"
        part = final.with_name(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(part, flags, 0o666)
        # A sweep by another writer may come between the two steps: then the file has gone, or is locked.
        if _lock(descriptor) and os.fstat(descriptor).st_nlink:
            return part, descriptor
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # A file system without locks: the file is ours by its random name, only sweeping is less sure.
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _sweep(folder: Path, prefix: str) -> None:
    """Remove temporary files whose names start so and whose writers were killed."""
    for path in folder.iterdir():
        if not (path.name.startswith(prefix) and _PART.fullmatch(path.name)) or path.is_symlink():
            continue
        try:
            descriptor = os.open(
                path, os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
            )
        except OSError:
            continue  # finished or swept meanwhile, or another user's
        try:
            if _abandoned(descriptor):
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    path.unlink()
        finally:
            os.close(descriptor)


def _abandoned(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # its writer lives, or cannot be asked
    return True


def _put_in_place(part: Path, final: Path) -> None:
    # By path: a writer may have put a file of its own there. Some file systems report a full disk only here.
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
        _keep_permissions(final, stream.fileno())
    part.replace(final)


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
