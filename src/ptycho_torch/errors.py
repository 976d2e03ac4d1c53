"""One small tree of exceptions; everything the package raises on bad input is in it.

Each class also derives from the built-in that a caller expects, so ``except ValueError`` keeps
working. Messages say what was wrong, where (path, member, key, shape expected and found) and what
to do.
"""

from __future__ import annotations

import re
import reprlib

__all__ = [
    "BundleError",
    "BundleNotFoundError",
    "ConfigError",
    "DataError",
    "DependencyError",
    "Interrupted",
    "OutputError",
    "ProcessLost",
    "PtychoError",
    "ScanError",
    "ScanNotFoundError",
    "TrainingError",
    "brief",
    "one_line",
    "printable",
]


class PtychoError(Exception):
    """Root of every error that this package raises on purpose."""


class ConfigError(PtychoError, ValueError):
    """A configuration field is unknown, of the wrong type, or out of range."""


class ScanError(PtychoError, ValueError):
    """A scan file or its content cannot be used."""


class ScanNotFoundError(ScanError, FileNotFoundError):
    """A scan file does not exist."""


class DataError(PtychoError, ValueError):
    """Arrays handed to a function do not fit each other or the model."""


class BundleError(PtychoError, ValueError):
    """A model bundle is refused; the text is ``path: member: reason``."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """A model bundle does not exist."""


class TrainingError(PtychoError, RuntimeError):
    """Training cannot start or cannot go on (for example a loss that is not finite)."""


class ProcessLost(PtychoError, RuntimeError):
    """Another process of the same job has ended, so that this one cannot go on."""


class OutputError(PtychoError, OSError):
    """An output cannot be written; earlier outputs are as they were."""


class DependencyError(PtychoError, ImportError):
    """An optional dependency is needed; the text says how to install it."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the work: Ctrl-C, SIGTERM or SIGHUP. ``number`` is the signal's.

    A program that it ends has the exit status 128 + ``number``.
    """

    def __init__(self, number: int, text: str = "interrupted") -> None:
        super().__init__(text)
        self.number = number


def printable(text: object, limit: int = 200) -> str:
    """Make ``text`` safe to print: control and non-ASCII characters escaped, shortened to ``limit``.

    Names found in foreign files go through here before they reach a message or a terminal.
    """
    shown = str(text)[: limit + 1]  # first, since a file can make a text of gigabytes
    shown = shown.encode("ascii", "backslashreplace").decode("ascii")
    shown = "".join(ch if " " <= ch <= "~" else repr(ch)[1:-1] for ch in shown)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def one_line(text: object, limit: int = 4000) -> str:
    """Make ``text`` one line that is safe to show: letters of any script stay, control characters do not.

    What reaches a terminal, a log or a page comes through here: escape sequences in a file's texts,
    line breaks, marks that turn the direction of writing, bytes of a file name that are no text.

    Examples
    --------
    >>> one_line("größe\\x1b[31m\\nred")
    'größe\\\\x1b[31m red'
    """
    shown = _BREAK.sub(" ", str(text)[: limit + 1].strip())
    shown = "".join(ch if ch.isprintable() else repr(ch)[1:-1] for ch in shown)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def brief(value: object, limit: int = 60) -> str:
    """Show ``value`` as Python would write it, safe to print and shortened to ``limit``.

    Containers are cut while they are walked: a value from a file may hold itself a million times over.

    Examples
    --------
    >>> brief([1, "two\\x1b[31m"])
    "[1, 'two\\\\x1b[31m']"
    >>> nested = ["x" * 1000]
    >>> for _ in range(40):
    ...     nested = [nested] * 9
    >>> brief(nested, 20)
    '[[[[...], [...], ...'
    """
    return printable(_SHORT.repr(value), limit)


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write numbers of many thousand digits.
        return repr(x) if x.bit_length() <= 512 else f"an integer of {x.bit_length()} bits"


_BREAK = re.compile(r"\s*[\n\r\v\f\x85\u2028\u2029]\s*")
_SHORT = _Short()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict = 3, 8, 8, 8
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
