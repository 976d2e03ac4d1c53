"""Opening files, and only files: a FIFO would wait for ever, a device never ends. Needs no torch."""

from __future__ import annotations

import difflib
import itertools
import os
import stat
from pathlib import Path
from typing import BinaryIO

from ptycho_torch.errors import printable

__all__ = ["NotRegularError", "open_regular", "require_regular", "similar"]

_NAMES = 4096


class NotRegularError(OSError):
    """What lies at a path is a folder, a FIFO, a device or a socket. ``strerror`` says which."""


def require_regular(path: str | os.PathLike[str]) -> int:
    """Return the size of a regular file, for a reader that opens the path itself.

    Parameters
    ----------
    path
        The file; links are followed.

    Returns
    -------
    int
        Its size in bytes.

    Raises
    ------
    NotRegularError
        When it is anything else than a regular file.
    OSError
        When it is not there or cannot be reached.
    """
    found = os.stat(path)  # noqa: PTH116
    _judge(found.st_mode, path)
    return found.st_size


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading bytes.

    Parameters
    ----------
    path
        The file; links are followed.

    Returns
    -------
    BinaryIO
        The open file; the caller closes it.

    Raises
    ------
    NotRegularError
        When it is anything else than a regular file.
    OSError
        When it is not there or cannot be opened.

    Examples
    --------
    >>> open_regular("/dev/zero")
    Traceback (most recent call last):
        ...
    ptycho_torch.files.regular.NotRegularError: [Errno 22] expected a regular file, found a device: '/dev/zero'
    """
    require_regular(path)  # first, since opening some devices has effects
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        _judge(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def similar(path: str | os.PathLike[str]) -> str:
    """Return ``"; did you mean NAME?"`` for a path that does not exist, or nothing where no file is called like it.

    Parameters
    ----------
    path
        What was asked for. Its folder's first 4096 names are looked at.

    Returns
    -------
    str
        The end of a message.

    Examples
    --------
    >>> Path("star.npz").touch()
    >>> similar("stra.npz"), similar("star"), similar("moon.h5")
    ('; did you mean star.npz?', '; did you mean star.npz?', '')
    """
    path = Path(path)
    try:
        names = [found.name for found in itertools.islice(path.parent.iterdir(), _NAMES)]
    except OSError:
        return ""
    stems = {Path(name).stem: name for name in sorted(names, reverse=True)}
    near = difflib.get_close_matches(path.name, [*names, *stems], n=1)
    return f"; did you mean {printable(path.with_name(stems.get(near[0], near[0])))}?" if near else ""


def _judge(mode: int, path: str | os.PathLike[str]) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {
        "a folder": stat.S_ISDIR,
        "a FIFO": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
        "a device": lambda m: stat.S_ISCHR(m) or stat.S_ISBLK(m),
    }
    kind = next((name for name, is_it in kinds.items() if is_it(mode)), "something else")
    raise NotRegularError(22, f"expected a regular file, found {kind}", os.fspath(path))
