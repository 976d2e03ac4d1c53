"""The application: all commands by name. Commands import what they need when they run, so help is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from ptycho_torch._version import __version__
from ptycho_torch.cli import (
    bundles,
    evaluating,
    exporting,
    inferring,
    info,
    live,
    pretraining,
    simulating,
    training,
)
from ptycho_torch.cli.usage import OneLineCommand, OneLineGroup

__all__ = ["app"]


app = typer.Typer(
    name="ptychopinn",
    cls=OneLineGroup,
    help="Reconstruct objects from ptychography scans: frames in, image out, without training.",
    no_args_is_help=True,
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

    Exit status: 0 done; 1 the work failed; 2 wrong usage or input; 3 and 4 a bundle that 'verify' rejects;
    128 plus the signal's number when interrupted (130 for Ctrl-C).
    """


for _room in (info, simulating, training, pretraining, inferring, live, evaluating, bundles, exporting):
    _room.add_to(app)
for _command in app.registered_commands:
    _command.cls = OneLineCommand
