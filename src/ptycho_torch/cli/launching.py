"""Several processes for one command: N processes of this machine run it, started as ``torchrun`` starts them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import typer

from ptycho_torch.cli.console import EXIT_FAILED, LAUNCHED, fail

__all__ = ["launch", "launched"]


def launched() -> bool:
    """Return whether this process is one of several that something has started."""
    return "LOCAL_RANK" in os.environ


def launch(processes: int, words: list[str], folder: Path, json: bool, again: str) -> NoReturn:
    """Run ``ptychopinn`` with the same words in several processes, and end as they do.

    Where one dies the others are ended, too.

    Parameters
    ----------
    processes : int
    words : list of str
        The command line after the program's name.
    folder : Path
        Of the results, for the message.
    json : bool
        Whether errors are also shown as JSON.
    again : str
        What to type to go on.
    """
    import logging

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say it in one line
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ[LAUNCHED] = "1"
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch's remarks on its own speed, once a process
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"ptychopinn-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "ptycho_torch", *words)
    except ChildFailedError as error:
        # One that was killed says nothing, and others then fail for it; SIGTERM is what those are ended by.
        ours = -int(signal.SIGTERM)
        killed = [(n, found) for n, found in error.failures.items() if found.exitcode < 0]
        killed = [(n, found) for n, found in killed if found.exitcode != ours]
        failed = [(n, found) for n, found in sorted(error.failures.items()) if found.exitcode > 0]
        rank, failure = (killed or failed or [error.get_first_failure()])[0]
        if failure.exitcode > 0:
            raise typer.Exit(failure.exitcode) from None
        name = signal.Signals(-failure.exitcode).name
        text = f"process {rank} was ended by {name}; what is done is in {folder}; go on with {again}"
        fail(text, "ProcessLost", json)
        raise typer.Exit(EXIT_FAILED) from None
    except SignalException as stop:
        fail(f"interrupted; what is done is in {folder}; go on with {again}", "Interrupted", json)
        raise typer.Exit(128 + int(stop.sigval)) from None
    raise typer.Exit(0)
