"""The application: all commands by name. Commands import what they need when they run, so help is quick."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ptycho_torch._version import __version__
from ptycho_torch.cli import bundles, evaluating, inferring, live, pretraining, simulating, training
from ptycho_torch.cli.console import EXIT_INTERRUPTED, EXIT_USAGE, UsageProblem, fail

__all__ = ["app"]


class OneLineErrors(TyperGroup):
    """Says in one line what is wrong with a command line, and as JSON where that was asked for."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        more = {"complete_var": complete_var, "windows_expand_args": windows_expand_args, **extra}
        if not standalone_mode:
            return super().main(words, prog_name, standalone_mode=False, **more)
        try:
            status = super().main(words, prog_name, standalone_mode=False, **more)
        except typer.Abort:
            fail("interrupted", "Abort", json="--json" in words)
            status = EXIT_INTERRUPTED
        except UsageProblem as error:
            status = EXIT_USAGE
            if type(error).__name__ == "NoArgsIsHelpError":
                typer.echo(str(error), err=True)
            else:
                fail(_advised(error), type(error).__name__, json="--json" in words)
        sys.exit(status if isinstance(status, int) else 0)


def _advised(error: Any) -> str:
    """What is wrong, the nearest flag that there is, and where to read on."""
    text, context = error.format_message().rstrip("."), getattr(error, "ctx", None)
    if context is None:
        return str(text)
    wrong = getattr(error, "option_name", None)
    if wrong and not error.possibilities:
        known = [flag for option in context.command.params for flag in option.opts if flag.startswith("--")]
        near = difflib.get_close_matches(wrong, known, n=1)
        text += f"; did you mean {near[0]}?" if near else ""
    return f"{text}; '{context.command_path} --help' shows what there is"


app = typer.Typer(
    name="ptychopinn",
    cls=OneLineErrors,
    help="Reconstruct objects from ptychography scans: frames in, image out, without training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Reconstruct objects from ptychography scans: frames in, image out, without training.

    Exit status: 0 done, 2 wrong usage or input, 1 a failure at work, 128 and the
    signal's number (130 for Ctrl-C) interrupted; 'verify' has 3
    and 4 for a bundle that fails.
    """


for _room in (simulating, training, pretraining, inferring, live, evaluating, bundles):
    _room.add_to(app)
