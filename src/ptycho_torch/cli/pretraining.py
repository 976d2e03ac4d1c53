"""``ptychopinn pretrain``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ptycho_torch.cli.console import Console, JsonFlag, QuietFlag, guarded
from ptycho_torch.cli.launching import launch, launched
from ptycho_torch.cli.options import apply_flags, with_fields
from ptycho_torch.cli.settings import ConfigOption, PrintConfigFlag, apply_file
from ptycho_torch.cli.settings import print_config as show_config
from ptycho_torch.config.pretraining import PretrainOptions
from ptycho_torch.errors import ConfigError
from ptycho_torch.processes import joined

__all__ = ["add_to"]


@guarded
@with_fields((PretrainOptions, "Pretraining", ()))
def pretrain(
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Folder for state, log and bundle.")
    ] = Path("pretraining"),
    config: ConfigOption = None,
    print_config: PrintConfigFlag = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in this folder; more --steps prolong it.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Begin anew in a folder that holds a run, in its place.")
    ] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads.")] = None,
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            min=1,
            max=1024,
            help="Processes of this machine that share the regions of each step.",
        ),
    ] = 1,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    flags: Any = None,
) -> None:
    """Pretrain the solver on simulated scans and write it as a bundle.

    No scan is needed. The bundle works on scans of any frame size; the one that ships with the package
    was made this way.
    """
    console = Console(json, quiet)
    if resume and force:
        raise ConfigError(
            "--force and --resume exclude each other: one replaces the run that is there, the other goes on with it"
        )
    options = PretrainOptions()
    if config is not None:
        apply_file(config, options)
    apply_flags(options, flags)
    if print_config:
        show_config(options)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if processes > 1 and not launched():
        launch(processes, sys.argv[1:], output_dir, json, "--resume")
    from ptycho_torch.workflows.pretraining import pretrain_to

    with joined() as group, console.progress("pretraining") as update:
        done = pretrain_to(output_dir, options, resume=resume, force=force, progress=update)
    if not group.first:
        raise typer.Exit
    files = {name: str(path) for name, path in done.files.items()}
    table = {k: done.metrics[k] for k in ("steps", "seconds", "parameters")} | done.metrics["validation"]
    console.finish({**done.metrics, "files": files}, table, "Pretrained")
    console.files(done.files)


def add_to(app: typer.Typer) -> None:
    app.command("pretrain")(pretrain)
