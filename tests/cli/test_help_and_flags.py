"""Help, flags and their way into the configuration. No torch is needed for any of it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ptycho_torch.cli.app import app
from ptycho_torch.cli.inferring import _NOT_FLAGS
from ptycho_torch.cli.options import apply_flags, with_fields
from ptycho_torch.config import ExecutionConfig, InferenceConfig, TrainingConfig, config_fields
from ptycho_torch.errors import ConfigError

COMMANDS = (
    "info",
    "demo",
    "simulate",
    "train",
    "reconstruct",
    "evaluate",
    "inspect",
    "verify",
    "export",
    "convert",
)


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    shown = call(command, "--help")
    assert shown.exit_code == 0
    assert "--json" in shown.output
    assert "--quiet" in shown.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from ptycho_torch.cli.app import app;"
        "assert CliRunner().invoke(app, ['train', '--help']).exit_code == 0;"
        "print(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "lightning", "numpy", "matplotlib", "scipy"} & set(done.stdout.split())


def _flag(name: str) -> str:
    return "--" + name.rsplit(".", 1)[-1].replace("_", "-")


def test_every_field_is_a_flag_with_its_help() -> None:
    train, infer = call("train", "--help").output, call("reconstruct", "--help").output
    for name, (_, item) in config_fields(TrainingConfig).items():
        if name not in ("output_dir", "train_data_file"):
            assert (_flag(name) in train) != item.metadata.get("carried", False), name
    for name in config_fields(ExecutionConfig):
        if name != "progress":
            assert _flag(name) in train, name
    for name in config_fields(InferenceConfig):
        if name not in _NOT_FLAGS:
            assert _flag(name) in infer, name


@pytest.mark.parametrize("arguments", [("train", "--no-such-flag"), ("nothing",), ("simulate",), ("verify",)])
def test_wrong_usage_is_status_two(arguments: tuple[str, ...]) -> None:
    assert call(*arguments).exit_code == 2


def test_version() -> None:
    from ptycho_torch import __version__

    assert call("--version").output.strip() == __version__


@dataclasses.dataclass
class Seen:
    flags: dict[str, Any] = dataclasses.field(default_factory=dict)


def flags_of(*arguments: str) -> dict[str, Any]:
    """What a command with all training flags is given."""
    seen = Seen()
    small = typer.Typer()

    @with_fields((TrainingConfig, "Training", ()), (ExecutionConfig, "Execution", ()))
    def command(flags: Any = None) -> None:
        seen.flags = flags

    small.command()(command)
    result = CliRunner().invoke(small, list(arguments))
    assert result.exit_code == 0, result.output
    return seen.flags


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (("--N", "128"), "model.N", 128),
        (("--learning-rate", "2e-4"), "learning_rate", 2e-4),
        (("--no-overlap",), "overlap", False),
        (("--overlap",), "overlap", True),
        (("--max-minutes", "none"), "max_minutes", None),
        (("--architecture", "cnn"), "model.architecture", "cnn"),
        (("--probe", "fixed"), "probe", "fixed"),
        (("--test-data-file", "a.npz"), "test_data_file", Path("a.npz")),
    ],
)
def test_flags_reach_their_field(arguments: tuple[str, ...], name: str, value: Any) -> None:
    config = TrainingConfig()
    flags = flags_of(*arguments)
    assert len(flags) == 1
    apply_flags(config, flags)
    where: Any = config
    for part in name.split("."):
        where = getattr(where, part)
    assert where == value


def test_no_flags_change_nothing() -> None:
    assert flags_of() == {}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--N", "63"), "--N: "),
        (("--learning-rate", "fast"), "--learning-rate: "),
        (("--probe", "maybe"), "'refine'"),
    ],
)
def test_wrong_values_name_the_flag(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        apply_flags(TrainingConfig(), flags_of(*arguments))


def test_help_shows_defaults_and_ranges() -> None:
    shown = " ".join(call("train", "--help").output.replace("│", " ").split())
    for text in (
        "[default: 64; at least 2; at most 4096; a multiple of 2]",
        "[default: 0.001; above 0; at most 10]",
        "default: as torch chooses [at least 1; at most 1024]",  # a default in words is not said twice
        "[default: on]",
    ):
        assert text in shown, text
    assert "\\[" not in shown
