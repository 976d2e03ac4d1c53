"""How tests call the commands: in this process, or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from typer.testing import CliRunner

from ptycho_torch.cli.app import app

QUICK = [
    "--probe", "fixed", "--max-minutes", "none", "--nepochs", "2", "--n-groups", "8", "--unrolled-width", "8",
    "--unrolled-iterations", "1", "--unrolled-levels", "1", "--accelerator", "cpu",
]  # fmt: skip


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def process(*arguments: Any, **kw: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ptycho_torch.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, **kw)
