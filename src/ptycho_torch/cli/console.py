"""How commands speak: progress and words on stderr, one JSON object on stdout, and exit statuses."""

from __future__ import annotations

import functools
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ptycho_torch.errors import DependencyError, Interrupted, PtychoError, TrainingError

__all__ = ["Console", "JsonFlag", "QuietFlag", "guarded"]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]

F = TypeVar("F", bound=Callable[..., Any])
Update = Callable[..., None]


class Console:
    """What a command says. ``json``: one object on stdout at the end; ``quiet``: nothing but errors."""

    def __init__(self, json: bool = False, quiet: bool = False) -> None:
        self.json, self.quiet = json, quiet
        self.silent = json or quiet
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

    def files(self, files: Mapping[str, Path]) -> None:
        """The paths of what was written, one a line."""
        if not self.silent:
            for path in files.values():
                typer.echo(f"  {path}")


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

    table = Table(title=title or None, show_header=False, title_justify="left", box=None, padding=(0, 2))
    for key, value in rows.items():
        shown = (
            f"{value:.5g}" if isinstance(value, float) else "not available" if value is None else str(value)
        )
        table.add_row(Text(key), Text(shown))
    RichConsole(highlight=False).print(table)


def _set_up_logging(level: int) -> None:
    """The package's own messages go to stderr; those of the libraries only when they warn."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("ptycho_torch")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    for name in (
        "lightning",
        "lightning.pytorch",
        "lightning.fabric",
        "lightning.pytorch.utilities.rank_zero",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")


def guarded(command: F) -> F:
    """Turns the package's errors into one line on stderr and an exit status; others keep their traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except PtychoError as error:
            status = 1 if isinstance(error, TrainingError | DependencyError) else 2
            typer.echo(f"error: {error}", err=True)
            if kwargs.get("json"):
                from ptycho_torch.report.tables import json_text

                sys.stdout.write(json_text({"error": str(error), "kind": type(error).__name__}))
            raise typer.Exit(status) from None
        except Interrupted as stop:
            typer.echo(str(stop), err=True)
            raise typer.Exit(128 + stop.number) from None
        except KeyboardInterrupt:
            typer.echo("interrupted; nothing was written by this command beyond what it has said", err=True)
            raise typer.Exit(128 + signal.SIGINT) from None

    return run  # type: ignore[return-value]
