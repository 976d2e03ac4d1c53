"""Pretraining as a job: its folder is never taken from another run, and a signal says what exists."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ptycho_torch.cli.app import app
from ptycho_torch.config.pretraining import PretrainOptions
from ptycho_torch.errors import DataError, Interrupted, OutputError
from ptycho_torch.training import pretrain
from ptycho_torch.workflows import pretraining
from ptycho_torch.workflows.pretraining import pretrain_to

SHORT = PretrainOptions(steps=1, save_every=1)


@pytest.fixture(autouse=True)
def few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "_VALIDATION", 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretraining") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "_VALIDATION", 1)
        done = pretrain_to(folder, SHORT)
    assert {path.name for path in done.files.values()} | {"resume.safetensors"} == {
        p.name for p in folder.iterdir()
    }
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_run_is_not_begun_over_another(made: Path) -> None:
    before = _contents(made)
    with pytest.raises(OutputError, match=r"holds a run, .*--resume, .*--force"):
        pretrain_to(made, SHORT)
    done = CliRunner().invoke(app, ["pretrain", "-o", str(made), "--steps", "1", "--json"])
    assert done.exit_code == 2
    assert "--force" in done.stderr
    assert done.stderr.count("\n") == 1
    done = CliRunner().invoke(app, ["pretrain", "-o", str(made), "--resume", "--force"])
    assert done.exit_code == 2
    assert _contents(made) == before


def test_force_leaves_nothing_of_the_run_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("resume.safetensors", "wts.h5.zip", "pretrain.jsonl", "metrics.json", "mine.txt"):
        (tmp_path / name).write_text("of another run")
    there: list[str] = []

    def ended(folder: Path, *_: Any, **__: Any) -> None:
        there.extend(p.name for p in folder.iterdir())
        raise OutputError("ended")

    monkeypatch.setattr(pretraining, "pretrain", ended)
    with pytest.raises(OutputError, match="ended"):
        pretrain_to(tmp_path, SHORT, force=True)
    assert there == ["mine.txt"]


def test_what_cannot_be_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no resume\.safetensors"):
        pretrain_to(tmp_path, SHORT, resume=True)
    (tmp_path / "run.json").write_text("{}")
    for how in ({"resume": True}, {"force": True}, {}):
        with pytest.raises(OutputError, match="a run of 'ptychopinn train'"):
            pretrain_to(tmp_path, SHORT, **how)


def test_a_signal_says_what_exists_and_is_no_success(tmp_path: Path) -> None:
    def killed(step: int, *_: Any) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=f"pretrain -o {tmp_path / 'run'} --resume") as caught:
        pretrain_to(tmp_path / "run", PretrainOptions(steps=3, save_every=1), progress=killed)
    assert caught.value.number == signal.SIGTERM
    assert not (tmp_path / "run" / "wts.h5.zip").exists()
    done = pretrain_to(tmp_path / "run", PretrainOptions(steps=3, save_every=1), resume=True)
    assert [row["step"] for row in done.pretrained.history] == [1, 2, 3]


def test_a_figure_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(pretraining, "pretraining_figure", broken)
    done = pretrain_to(tmp_path, SHORT)
    assert "figure" not in done.files
    assert done.files["bundle"].exists()
