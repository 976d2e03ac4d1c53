"""The ``ptychopinn`` command: one file for each group of commands, one for how they speak and fail.

Every command is one call of the Python API. Exit status: 0 done, 2 wrong usage or input, 1 a failure at
work, 3 and 4 a bundle that ``verify`` found bad; ended by a signal, 128 and its number: 130 for Ctrl-C, 143 for
SIGTERM, 129 for SIGHUP. Every failure is one line on stderr, and under ``--json`` an object with ``error`` on stdout.
"""

from __future__ import annotations

import os

__all__ = ["main"]

_SPINS = "10000"


def main() -> None:
    """Entry point of the ``ptychopinn`` command."""
    # Threads of GNU OpenMP wait for each other in a busy loop: for long enough to take ten times the time where
    # another program has one of the cores. Read when torch is loaded; who sets the policy is left alone.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    from ptycho_torch.cli.app import app

    app()
