"""How commands speak: progress and words on stderr, one JSON object on stdout, and exit statuses."""

from __future__ import annotations

import functools
import inspect
import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer

from ptycho_torch.errors import (
    ConfigError,
    DependencyError,
    Interrupted,
    OutputError,
    ProcessLost,
    PtychoError,
    TrainingError,
    one_line,
)
from ptycho_torch.processes import rank_of

__all__ = [
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_USAGE",
    "LAUNCHED",
    "Console",
    "JsonFlag",
    "QuietFlag",
    "UsageProblem",
    "fail",
    "guarded",
]

# typer carries its own copy of click, or uses the one beside it: what its errors have in common is asked of them.
UsageProblem: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""What is raised for a command line that cannot be read."""

EXIT_FAILED = 1
"""The work failed: training that cannot go on, a missing dependency, too little memory, a bug."""
EXIT_USAGE = 2
"""The command line, the configuration or a file is not what it should be."""
EXIT_INTERRUPTED = 128 + signal.SIGINT
"""Ctrl-C; other signals have their own number in place of 2."""

_INTERRUPTED: Final = "interrupted; nothing was written beyond what was said; the same command begins again"

LAUNCHED: Final = "PTYCHOPINN_LAUNCHED"
"""In the environment of processes that another one of this package has started and speaks for."""
_FIRST: Final = 2.0
"""Seconds that other processes leave to the first one to say what is wrong; they are ended when it has."""

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
LogOption = Annotated[
    Path | None,
    typer.Option(
        "--log-file", help="Also add everything that is said to this file, NAME.log.", show_default=False
    ),
]

F = TypeVar("F", bound=Callable[..., Any])
Update = Callable[..., None]


class Console:
    """What a command says. ``json``: one object on stdout at the end; ``quiet``: nothing but errors."""

    def __init__(self, json: bool = False, quiet: bool = False) -> None:
        # Of several processes the first speaks for all.
        self.json, self.quiet = json and not rank_of(), quiet or rank_of() > 0
        self.silent = self.json or self.quiet
        _make_writable()
        _set_up_logging(logging.WARNING if self.silent else logging.INFO)

    @contextmanager
    def progress(self, label: str) -> Iterator[Update]:
        """A bar on stderr from its first update to its last; yields ``update(done, total, text='')``."""
        bar: Any = None

        def update(done: float, total: float, text: str = "") -> None:
            nonlocal bar
            if bar is None:
                bar = _bar(label)
                bar.start()
            bar.update(0, completed=done, total=total, text=text)
            if done >= total:
                bar.stop()

        try:
            yield (lambda *_, **__: None) if self.silent else update
        finally:
            if bar is not None:
                bar.stop()

    def finish(
        self, result: Mapping[str, Any], table: Mapping[str, Any] | None = None, title: str = ""
    ) -> None:
        """The command's result: as JSON, or as a short table (``table``, else the whole result)."""
        if self.json:
            from ptycho_torch.report.tables import json_text

            sys.stdout.write(json_text(result))
        elif not self.quiet:
            _print_table(result if table is None else table, title)

    @contextmanager
    def drawing(self, path: Path) -> Iterator[None]:
        """What is only to look at, once the numbers are on the disk: its failure is a warning."""
        try:
            yield
        except Exception as error:
            logging.getLogger("ptycho_torch").warning(
                "%s: not drawn (%s: %s); the data are written", path, type(error).__name__, error
            )

    def files(self, files: Mapping[str, Path]) -> None:
        """The paths of what was written, one a line."""
        if not self.silent:
            for path in files.values():
                typer.echo(f"  {one_line(path)}")


def _bar(label: str) -> Any:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[text]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=RichConsole(stderr=True))
    bar.add_task(label, total=None, text="")
    return bar


def _print_table(rows: Mapping[str, Any], title: str) -> None:
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(one_line(title)) if title else None,
        show_header=False,
        title_justify="left",
        box=None,
        padding=(0, 2),
    )
    shown = {one_line(key, 200): one_line(_shown(value)) for key, value in rows.items()}
    if not sys.stdout.isatty():  # for another program: nothing is cut or wrapped
        wide = max((len(key) for key in shown), default=0)
        lines = [one_line(title)] * bool(title) + [f"  {k.ljust(wide)}  {v}" for k, v in shown.items()]
        sys.stdout.write("\n".join(lines) + "\n")
        return
    for key, text in shown.items():
        table.add_row(Text(key), Text(text, overflow="fold"))
    RichConsole(highlight=False).print(table)


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "not available" if value is None else str(value)


class _OneLine(logging.Formatter):
    """Messages hold texts out of files."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


def _make_writable() -> None:
    """Let nothing that is said fail for the terminal's encoding, or for a file name that is no text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _set_up_logging(level: int) -> None:
    """The package's own messages go to stderr; those of the libraries only when they warn."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(message)s"))
    logger = logging.getLogger("ptycho_torch")
    written = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
    logger.handlers[:] = [handler, *written]
    handler.setLevel(level)
    logger.setLevel(logging.INFO if written else level)
    logger.propagate = False
    for name in (
        "lightning",
        "lightning.pytorch",
        "lightning.fabric",
        "lightning.pytorch.utilities.rank_zero",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")


@contextmanager
def _logging_to(path: Path | None) -> Iterator[None]:
    """Adds what the package says to a file, with times, the command line first and an error last."""
    if path is None:
        yield
        return
    if path.suffix != ".log":
        raise ConfigError(
            f"--log-file: give a name that ends in .log, for lines are added to it; found {path}"
        )
    logger = logging.getLogger("ptycho_torch")
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.info("%s", " ".join(["ptychopinn", *sys.argv[1:]]))
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not isinstance(error, typer.Exit):
            handler.emit(
                logger.makeRecord("", logging.ERROR, "", 0, "%s", (_explained(error, False)[0],), None)
            )
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


def fail(text: str, kind: str, json: bool) -> None:
    """Say in one line what is wrong: on stderr, and with ``json`` as an object on stdout, too."""
    _make_writable()
    line = one_line(text)
    typer.echo(f"error: {line}", err=True)
    if json:
        from ptycho_torch.report.tables import json_text

        sys.stdout.write(json_text({"error": line, "kind": kind}))


def guarded(command: F) -> F:
    """Turn every failure of a command into one line and an exit status; ``--debug`` shows the traceback."""

    @functools.wraps(command)
    def run(*args: Any, debug: bool = False, log_file: Path | None = None, **kwargs: Any) -> Any:
        try:
            with _logging_to(log_file), _ended_by_signals():
                return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, UsageProblem, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                traceback.print_exc()
            text, status = _explained(error, debug)
            # One that only misses another has nothing to add to what the first process or the launcher says.
            if isinstance(error, ProcessLost) and (rank_of() or LAUNCHED in os.environ):
                raise typer.Exit(status) from None
            if rank_of():
                time.sleep(_FIRST)
            kind = next(c.__name__ for c in type(error).__mro__ if not c.__name__.startswith("_"))
            fail(text, kind, bool(kwargs.get("json")))
            raise typer.Exit(status) from None

    signature = inspect.signature(command, eval_str=True)
    flags = (
        inspect.Parameter("log_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=LogOption),
        inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=DebugFlag),
    )
    parameters = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*signature.parameters.values(), *flags)
    ]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run  # type: ignore[return-value]


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: what is open is cleared away, and one line says so.

    Those that the process ignores stay ignored. Of several processes the launcher ends the others, which have
    nothing to say.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    alone = threading.current_thread() is threading.main_thread() and "WORLD_SIZE" not in os.environ
    taken = [number for number in numbers if alone and signal.getsignal(number) == signal.SIG_DFL]

    def heard(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(number, _INTERRUPTED)

    for number in taken:
        signal.signal(number, heard)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _explained(error: BaseException, debug: bool) -> tuple[str, int]:
    """The line and the exit status for an exception."""
    if isinstance(error, Interrupted):
        return str(error), 128 + error.number
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED, EXIT_INTERRUPTED
    if isinstance(error, PtychoError):
        work = isinstance(error, TrainingError | DependencyError | ProcessLost)
        return str(error), EXIT_FAILED if work else EXIT_USAGE
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or take fewer frames or a smaller size", EXIT_FAILED
    more = "" if debug else "; --debug shows where, and a report of it is welcome"
    return (
        f"unexpected {type(error).__name__}: {one_line(error, 400) or 'no reason given'}{more}",
        EXIT_FAILED,
    )
