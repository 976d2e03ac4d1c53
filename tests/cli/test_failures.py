"""Every failure is one line with a status, also as JSON; nothing that is read is written over."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from ptycho_torch.cli.app import app
from ptycho_torch.cli.console import Console, guarded
from ptycho_torch.compat.commands import train_main
from ptycho_torch.errors import Interrupted, OutputError, TrainingError
from ptycho_torch.files import require_new

SIMULATE = ["--size", "64", "--N", "16", "--count", "4", "--quiet"]


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "TERM": "dumb"})


def one_line_of(done: Any, status: int) -> str:
    assert done.exit_code == status, done.output
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.strip().isprintable()
    return str(done.stderr)


TYPED: dict[tuple[str, ...], str] = {
    ("trian", "a.npz"): "'train'",
    ("train", "a.npz", "--bathc-size", "3"): "--batch-size",
    ("train", "a.npz"): "a.npz",
    ("train", "none.npz", "-o", "out"): "none.npz",
    ("train", "-o", "out"): "scan file",
    ("train", "a.npz", "-o", "out", "--seed", str(2**32)): "--seed",
    ("train", "a.npz", "-o", "out", "--learning-rate", "1e300"): "at most 10",
    ("train", "a.npz", "-o", "out", "--threads", str(10**8)): "at most 1024",
    ("train", "a.npz", "-o", "out", "--config", "none.yaml"): "none.yaml",
    ("train", "a.npz", "-o", "out", "--N", "sixty"): "an integer",
    ("simulate",): "--output",
    ("simulate", "-o", "a.npz", "--size", "300000"): "give a smaller size",
    ("simulate", "-o", "a.npz", "--size", "ten"): "--size",
    ("simulate", "-o", "a.npz", "--seed", str(2**40)): "--seed",
    ("simulate", "-o", "a.npz", "--N", "100000"): "smaller frame",
    ("simulate", "-o", "a.npz", "--step", "1e-6"): "larger step",
    ("simulate", "-o", "a.npz", "--count", str(10**12)): "fewer frames",
    ("simulate", "-o", "a.npz", "--object", "lnes"): "lines",
    ("simulate", "-o", "a.npz", "--object", "/dev/zero"): "/dev/zero",
    ("reconstruct", "run", "-o", "out"): "scan",
    ("reconstruct", "none.zip", "a.npz", "-o", "out", "--refine", "many"): "--refine",
    ("verify",): "Missing argument 'BUNDLE'",
    ("reconstruct",): "(Scan file)",
    ("reconstruct", "there"): "did you mean there.npz?",
    ("reconstruct", "tehre.npz"): "did you mean there.npz?",
    ("simulate", "-o", "a.h5"): ".npz",
    ("train", "--resume", "nothing"): "began",
    ("train", "a.npz", "-o", "out", "--probe", "maybe"): "--probe: expected one of 'refine'",
    ("pretrain", "-o", "out", "--steps", "0"): "--steps: expected a value at least 1",
    ("verify", "none.zip"): "none.zip",
    ("inspect", "none\x1b[31m.zip"): "none",
    ("evaluate", "a.npz", "b.npz"): "a.npz",
}


@pytest.mark.parametrize("words", list(TYPED), ids=" ".join)
@pytest.mark.parametrize("as_json", [False, True])
def test_commands_as_a_new_user_types_them(
    words: tuple[str, ...], as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.npz").touch()
    done = call(*words, *(["--json"] if as_json else []))
    assert TYPED[words] in one_line_of(done, 2)
    if as_json:
        said = json.loads(done.stdout)
        assert f"error: {said['error']}\n" == done.stderr
    else:
        assert done.stdout == ""


def test_a_flag_without_its_value() -> None:
    assert "requires an argument; --help shows" in one_line_of(call("reconstruct", "a.npz", "-o"), 2)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--train_data_fil", "a.npz"), "--train_data_file"),
        (("--n_groups", "many"), "--n_groups"),
        (("a.npz",), "ptycho_train --help"),
        ((), "--train_data_file"),
        (("--train_data_file", "none.npz", "--output_dir", "out"), "none.npz"),
    ],
    ids=str,
)
def test_older_commands_as_they_are_mistyped(
    words: tuple[str, ...], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ptycho_train", *words])
    with pytest.raises(SystemExit) as left:
        train_main()
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert text in said.err


def _command(error: BaseException) -> Any:
    small = typer.Typer()

    @guarded
    def command(json: bool = False) -> None:
        raise error

    small.command()(command)
    return small


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (TrainingError("loss is\nNaN"), 1, "error: loss is NaN"),
        (OutputError("a: disk full"), 2, "error: a: disk full"),
        (
            ZeroDivisionError("no \x1b[31m way"),
            1,
            "unexpected ZeroDivisionError: no \\x1b[31m way; --debug shows",
        ),
        (MemoryError(), 1, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted(15, "ended by SIGTERM; a.zip exists"), 143, "a.zip exists"),
    ],
)
def test_whatever_goes_wrong(error: BaseException, status: int, text: str) -> None:
    runner = CliRunner()
    done = runner.invoke(_command(error), [])
    assert text in one_line_of(done, status)
    assert json.loads(runner.invoke(_command(error), ["--json"]).stdout)["kind"] == type(error).__name__
    assert "Traceback" not in done.stderr
    assert "Traceback" in runner.invoke(_command(error), ["--debug"]).stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str)
def test_a_signal_ends_a_command_as_ctrl_c_does(
    number: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    cleared: list[bool] = []
    small = typer.Typer()

    @small.command()
    @guarded
    def command() -> None:
        try:
            os.kill(os.getpid(), number)
            pytest.fail("the signal was not heard")
        finally:
            cleared.append(True)

    before = signal.signal(number, signal.SIG_DFL)
    try:
        assert "interrupted" in one_line_of(CliRunner().invoke(small, []), status)
        assert cleared == [True]
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so() -> None:
    small = typer.Typer()

    @small.command()
    @guarded
    def command() -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert CliRunner().invoke(small, []).exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_pipe_is_no_failure_of_ours() -> None:
    done = CliRunner().invoke(_command(BrokenPipeError()), [])
    assert "unexpected" not in done.stderr


# ---------------------------------------------------------------- what is said


def test_tables_logs_and_paths_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.finish({"\x1b[2Jkey": "\x1b]0;owned\x07", "b": "\u202e"}, title="[red]\x1b[1m")
    console.files({"a": Path("\x1b[31m\udce9.npz")})
    logging.getLogger("ptycho_torch").info("%s", "first\nsecond\x1b[0m")
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "\\x1b[2Jkey" in shown.out
    assert "[red]" in shown.out
    assert "first second\\x1b[0m\n" in shown.err


@pytest.mark.parametrize("name", ["$x_1$", "名前", "größe", "\udce9", "a b"])
def test_any_file_name_is_drawn_and_said(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "ptycho_torch.cli", "simulate", *SIMULATE[:-1]]
    target = os.fsencode(tmp_path / name) + b".npz"
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([*command, "-o", target], capture_output=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert os.path.exists(target)  # noqa: PTH110
    assert (tmp_path / f"{name}.png").exists()
    assert b"not drawn" not in done.stderr


# ---------------------------------------------------------------- files of the user


def test_pictures_get_the_full_name(tmp_path: Path) -> None:
    for name, picture in (("exp.1.npz", "exp.1.png"), ("exp.2.npz", "exp.2.png")):
        assert call("simulate", "-o", tmp_path / name, *SIMULATE).exit_code == 0
        assert (tmp_path / picture).exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["exp.1.npz", "exp.1.png", "exp.2.npz", "exp.2.png"]


def test_simulating_does_not_write_over_what_it_reads(tmp_path: Path) -> None:
    obj, probe = tmp_path / "star.npy", tmp_path / "probe.npy"
    np.save(obj, np.random.default_rng(0).random((64, 64)) + 1j)
    np.save(probe, np.ones((16, 16), complex))
    star = tmp_path / "star.png"
    obj.rename(star)  # what it holds does not matter: the output would replace it
    (tmp_path / "link.npz").symlink_to(probe)
    before = {p: p.read_bytes() for p in (star, probe)}
    for words in (
        ("--object", star, "-o", tmp_path / "star.npz"),
        ("--object", "lines", "--probe", probe, "-o", tmp_path / "link.npz"),
    ):
        assert "would be overwritten" in one_line_of(call("simulate", *words, *SIMULATE), 2)
    assert {p: p.read_bytes() for p in before} == before


def test_a_failure_in_drawing_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    done = call("simulate", "-o", tmp_path / "a.npz", *SIMULATE)
    assert done.exit_code == 0, done.output
    assert "a.png: not drawn" in done.stderr
    assert (tmp_path / "a.npz").exists()


def test_files_inside_an_input_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    inside = tmp_path / "run" / "wts.h5.zip"
    inside.write_bytes(b"")
    with pytest.raises(OutputError, match="is an input of this command"):
        require_new([inside], tmp_path / "run")
    require_new([tmp_path / "run" / "new", inside], None, tmp_path / "none")
