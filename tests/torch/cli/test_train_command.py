"""``train`` as a user calls it: JSON, words, flags and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calling import QUICK, call, process

from ptycho_torch.config import read_yaml


def test_json_is_one_object_and_quiet_is_silent(folder: Path, tmp_path: Path) -> None:
    done = process("train", folder / "scan.npz", "-o", tmp_path / "a", *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["epochs"] == 2
    assert Path(result["files"]["bundle"]).exists()
    assert done.stderr == ""
    done = process(
        "reconstruct", folder / "scan.npz", "--model", tmp_path / "a", "-o", tmp_path / "b", "--quiet"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_people_see_what_was_read_done_and_written(folder: Path, tmp_path: Path) -> None:
    done = process("train", folder / "scan.npz", "-o", tmp_path, *QUICK)
    assert "amplitude" in done.stderr
    assert "wts.h5.zip" in done.stdout
    assert "Trained" in done.stdout
    assert "lightning" not in (done.stderr + done.stdout).lower()


def test_flags_win_over_the_file_and_the_file_over_defaults(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "seed: 5\nbatch_size: 3\nmodel:\n  unrolled_width: 12\nexecution:\n  threads: 1\n"
    )
    done = call(
        "train", folder / "scan.npz", "-o", tmp_path / "run", *QUICK, "--config", tmp_path / "c.yaml", "--seed", 9,
        "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    used = read_yaml(tmp_path / "run" / "config.yaml")
    assert (used["seed"], used["batch_size"], used["execution"]["threads"]) == (9, 3, 1)
    assert used["model"]["unrolled_width"] == 8  # QUICK's flag wins over the file
    assert used["model"]["N"] == 32


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("learning_rat: 1\n", ("learning_rat", "'learning_rate'")),
        ("model:\n  gridsiz: 1\n", ("model.gridsiz", "'model.gridsize'")),
        ("execution:\n  thread: 1\n", ("thread", "'threads'")),
        ("seed: [1\n", ("YAML",)),
        ("batch_size: many\n", ("batch_size", "an integer", "many")),
    ],
)
def test_wrong_files_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, text: str, parts: tuple[str, ...]
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    done = call("train", folder / "scan.npz", "-o", tmp_path / "run", "--config", tmp_path / "c.yaml")
    assert done.exit_code == 2
    assert all(part in done.stderr for part in ("c.yaml", *parts)), done.stderr
    assert not (tmp_path / "run").exists()
