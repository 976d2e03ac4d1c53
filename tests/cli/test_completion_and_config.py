"""The command line as a product: completion, configuration, log file, piped tables, the package as a program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ptycho_torch.cli.app import app
from ptycho_torch.config import ExecutionConfig, TrainingConfig, to_yaml


def call(*arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == code, done.output
    return done


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ptycho_torch", *arguments]
    return subprocess.run(
        line, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=120
    )


def test_the_package_is_a_program() -> None:
    from ptycho_torch import __version__

    done = program("--version")
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_the_commands(shell: str) -> None:
    words = {"COMP_WORDS": "ptychopinn re", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "ptychopinn re"}
    code = "from ptycho_torch.cli.app import app; app(prog_name='ptychopinn')"
    environment = {**os.environ, **words, "_PTYCHOPINN_COMPLETE": f"complete_{shell}"}
    if shell == "fish":
        environment |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_WORD_TO_COMPLETE": "re"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )
    assert "reconstruct" in done.stdout, done.stderr
    assert "evaluate" not in done.stdout


def test_what_is_printed_as_configuration_is_read_as_one(tmp_path: Path) -> None:
    given = call("reconstruct", "none.npz", "--print-config", "--withhold", "0.1", "--threads", "3").stdout
    assert yaml.safe_load(given)["withhold"] == 0.1
    (tmp_path / "c.yaml").write_text(given)
    again = call("reconstruct", "none.npz", "--print-config", "--config", tmp_path / "c.yaml").stdout
    assert again == given


def test_reconstruct_takes_what_train_wrote(tmp_path: Path) -> None:
    """Training's own numbers of groups and of frames are not those of the image."""
    written = TrainingConfig(n_groups=12, n_subsample=9, seed=5)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(written, execution=ExecutionConfig(threads=2)))
    used = yaml.safe_load(call("reconstruct", "x.npz", "--print-config", "--config", path).stdout)
    assert (used["seed"], used["execution"]["threads"]) == (5, 2)
    assert (used["n_groups"], used["n_subsample"]) == (None, None)
    path.write_text("nepochs: many\n")
    assert "nepochs" in call("reconstruct", "x.npz", "--config", path, code=2).output
    path.write_text("no_such_field: 1\n")
    assert "no_such_field" in call("reconstruct", "x.npz", "--config", path, code=2).output


def test_train_prints_its_configuration() -> None:
    shown = yaml.safe_load(call("train", "x.npz", "--print-config", "--learning-rate", "2e-4").stdout)
    assert shown["learning_rate"] == 2e-4


def test_pretraining_has_the_same_loader(tmp_path: Path) -> None:
    given = call("pretrain", "--print-config", "--steps", "7").stdout
    (tmp_path / "c.yaml").write_text(given)
    again = call("pretrain", "--config", tmp_path / "c.yaml", "--print-config", "--seed", "3").stdout
    assert yaml.safe_load(again) == yaml.safe_load(given) | {"seed": 3}


def test_a_piped_table_cuts_nothing(tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 30)
    deep.mkdir()
    done = program("simulate", "-o", str(deep / "scan.npz"), "--size", "80", "--N", "32", COLUMNS="40")
    assert done.returncode == 0, done.stderr
    assert str(deep / "scan.npz") in done.stdout.splitlines()[-2]


def test_the_log_file_has_the_command_and_its_error(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    call("simulate", "-o", tmp_path / "s.npz", "--size", "80", "--N", "32", "--log-file", log)
    call("info", tmp_path / "gone.npz", "--log-file", log, code=2)
    lines = log.read_text().splitlines()
    assert sum("ptychopinn" in line for line in lines) >= 2
    assert "ERROR" in lines[-1]
    assert "gone.npz" in lines[-1]


def test_a_log_is_added_to_nothing_else(tmp_path: Path) -> None:
    scan = tmp_path / "scan.npz"
    scan.write_bytes(b"precious")
    call("info", scan, "--log-file", scan, code=2)
    assert scan.read_bytes() == b"precious"
