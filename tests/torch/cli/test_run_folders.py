"""A run's folder knows what it is of: nothing of two runs is ever in it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import QUICK, call
from small import QUIET, small_config, small_scan

from ptycho_torch.config import TrainingConfig, read_yaml
from ptycho_torch.errors import ConfigError, DataError
from ptycho_torch.scan import write_scan
from ptycho_torch.training.state import load_state
from ptycho_torch.workflows.run_folder import RunFolder, ScanFile, identity
from ptycho_torch.workflows.training import train


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans and a run on the first, read as counts."""
    folder = tmp_path_factory.mktemp("runs")
    write_scan(small_scan(), folder / "scan.npz", measurement="counts")
    write_scan(small_scan(seed=1), folder / "other.npz", measurement="counts")
    np.save(folder / "probe.npy", 2 * small_scan().probe[0])
    train(ScanFile(folder / "scan.npz", measurement="counts"), folder / "run", small_config(), QUIET)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be spoiled."""
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def _contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_it_says_what_the_run_is_of(made: Path) -> None:
    said = json.loads((made / "run" / "run.json").read_text())
    assert said["scan"] == str((made / "scan.npz").resolve())
    assert (said["format"], said["measurement"], said["frames"], said["seed"]) == (
        "npz",
        "counts",
        small_scan().n_frames,
        0,
    )
    assert len(said["sha256"]) == len(said["probe_sha256"]) == 64
    assert said["versions"]["package"]
    used = read_yaml(made / "run" / "config.yaml")
    assert Path(used["output_dir"]).is_absolute()
    assert Path(used["train_data_file"]).is_absolute()


def test_it_is_written_before_the_work(made: Path, tmp_path: Path) -> None:
    class Ended(Exception):
        pass

    def look(*_: Any) -> None:
        assert {p.name for p in (tmp_path / "run").iterdir()} == {"run.json", "config.yaml"}
        raise Ended

    from ptycho_torch.training.run import Watch

    with pytest.raises(Ended):
        train(
            made / "scan.npz",
            tmp_path / "run",
            small_config(probe="refine", probe_sweeps=1),
            QUIET,
            watch=Watch(on_probe=look),
        )


def test_a_run_that_was_ended_before_its_first_step_is_begun_by_going_on(made: Path, tmp_path: Path) -> None:
    from ptycho_torch.errors import Interrupted
    from ptycho_torch.training.run import Watch

    run = tmp_path / "run"
    watch = Watch(on_probe=lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match=f"--resume {run}"):
        train(made / "scan.npz", run, small_config(probe="refine", probe_sweeps=1), QUIET, watch=watch)
    done = call("train", "--resume", run, "--quiet")
    assert done.exit_code == 0, done.output
    assert json.loads((run / "training.json").read_text())["epochs"] == 2
    (run / "resume.safetensors").unlink()  # a model without a state is not written over
    assert call("train", "--resume", run, "--quiet").exit_code == 2


def test_a_run_goes_on_from_any_folder_with_its_own_scan(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = call("train", "--resume", "../run", "--nepochs", "3", "--quiet")
    assert done.exit_code == 0, done.output
    assert json.loads((run / "training.json").read_text())["epochs"] == 3
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("other.npz",), "SHA-256"),
        (("scan.npz", "--measurement", "amplitude"), "measurement"),
        (("scan.npz", "--format", "ptyd"), "format"),
        (("scan.npz", "--probe-file", "probe.npy"), "probe"),
        (("scan.npz", "--test-data-file", "other.npz"), "validation"),
    ],
    ids=str,
)
def test_another_scan_or_another_reading_is_refused_by_name(
    made: Path, run: Path, arguments: tuple[str, ...], name: str
) -> None:
    before = _contents(run)
    given = [made / a if a.endswith((".npz", ".npy")) else a for a in arguments]
    done = call("train", *given, "--resume", run, "--nepochs", "3", "--quiet")
    assert done.exit_code == 2, done.output
    assert name in done.stderr
    assert str(run) in done.stderr
    assert _contents(run) == before


def test_a_copy_of_the_scan_is_the_same_scan(made: Path, run: Path, tmp_path: Path) -> None:
    shutil.copy(made / "scan.npz", tmp_path / "moved.npz")
    done = call("train", tmp_path / "moved.npz", "--resume", run, "--nepochs", "3", "--quiet")
    assert done.exit_code == 0, done.output


def test_flags_given_with_resume_win(run: Path) -> None:
    done = call("train", "--resume", run, "--nepochs", "3", "--learning-rate", "1e-7", "--quiet")
    assert done.exit_code == 0, done.output
    assert load_state(run / "resume.safetensors")[1]["history"][-1]["learning_rate"] < 1e-7
    assert read_yaml(run / "config.yaml")["learning_rate"] == 1e-7


def test_a_run_is_not_written_over(made: Path, run: Path) -> None:
    before = _contents(run)
    done = call("train", made / "scan.npz", "-o", run, *QUICK, "--quiet")
    assert done.exit_code == 2
    assert "--resume" in done.stderr
    assert "--force" in done.stderr
    assert _contents(run) == before
    done = call("train", made / "other.npz", "-o", run, *QUICK, "--gridsize", "9", "--force", "--quiet")
    assert done.exit_code == 2  # too few frames for such groups
    assert _contents(run) == before
    done = call("train", made / "other.npz", "-o", run, *QUICK, "--force", "--quiet")
    assert done.exit_code == 0, done.output
    assert json.loads((run / "run.json").read_text())["scan"] == str((made / "other.npz").resolve())
    assert call("train", "--resume", run, "--force").exit_code == 2


def test_two_processes_do_not_work_in_one_folder(made: Path, run: Path) -> None:
    before = _contents(run)
    with RunFolder(run).held():
        done = call("train", "--resume", run, "--nepochs", "3", "--quiet")
        assert done.exit_code == 2
        assert "another process" in done.stderr
        assert _contents(run) == before
    assert call("train", "--resume", run, "--nepochs", "3", "--quiet").exit_code == 0


def test_a_refused_configuration_is_not_written(made: Path, tmp_path: Path) -> None:
    for config, text in (
        (small_config(gridsize=9), "expected"),
        (small_config(64), r"model\.N"),
        (dataclasses.replace(small_config(), batch_size=0), "batch_size"),
    ):
        with pytest.raises((ConfigError, DataError), match=text):
            train(made / "scan.npz", tmp_path / "run", config, QUIET)
        assert not list((tmp_path / "run").iterdir())


def test_several_devices_are_refused_for_now(made: Path, tmp_path: Path) -> None:
    done = call("train", made / "scan.npz", "-o", tmp_path / "run", *QUICK, "--devices", "2")
    assert done.exit_code == 2
    assert "devices: expected 1, found 2" in done.stderr


def test_reports_of_training_and_reconstruction_stand_beside_each_other(made: Path, run: Path) -> None:
    before = _contents(run)
    done = call("reconstruct", made / "scan.npz", "--model", run, "-o", run, "--quiet")
    assert done.exit_code == 0, done.output
    after = _contents(run)
    assert {name: after[name] for name in before} == before
    assert {"reconstruction.npz", "metrics.json", "report.html"} <= set(after)


def test_what_is_no_run_is_not_gone_on_with(made: Path, tmp_path: Path) -> None:
    for content in (None, "no json", "[]", '{"run": "other"}'):
        if content is not None:
            (tmp_path / "run.json").write_text(content)
        with pytest.raises(DataError, match=r"run\.json"):
            train(made / "scan.npz", tmp_path, TrainingConfig(), QUIET, resume=True)


def test_scans_in_memory_have_an_identity_too() -> None:
    scan = small_scan()
    memory = dataclasses.replace(scan, source=None)
    assert identity(memory) == identity(dataclasses.replace(memory))
    for changed in (
        dataclasses.replace(memory, frames=memory.frames * 2),
        dataclasses.replace(memory, positions=memory.positions + 1),
        dataclasses.replace(memory, probe=None),
    ):
        assert identity(changed) != identity(memory)


def test_a_save_does_not_read_the_scan_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle is written after every improvement; the frames of its self-test are read for the first one."""
    reads: list[int] = []

    class Counted:
        def __init__(self, frames: Any) -> None:
            self.frames, self.shape, self.dtype = frames, frames.shape, frames.dtype

        def __len__(self) -> int:
            return len(self.frames)

        def __getitem__(self, index: Any) -> Any:
            reads.append(len(self.frames[index]))
            return self.frames[index]

    from ptycho_torch.workflows.training import _Job

    seen: list[list[int]] = []
    plain = _Job.keep

    def keep(self: Any, *arguments: Any) -> None:
        before = len(reads)
        plain(self, *arguments)
        seen.append(reads[before:])

    monkeypatch.setattr(_Job, "keep", keep)
    scan = small_scan()
    train(
        dataclasses.replace(scan, frames=Counted(scan.frames)),
        tmp_path / "run",
        small_config(nepochs=3, learning_rate=3e-3),
        QUIET,
    )
    assert len(seen) > 2
    assert seen[0] == [1]
    assert seen[1:] == [[]] * (len(seen) - 1)


def test_the_older_call_ends_as_interrupted_with_its_model_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So ``ptycho_train`` has no success to report, and reconstructs nothing with a model that is half trained."""
    from ptycho_torch.errors import Interrupted
    from ptycho_torch.training.module import PtychoModule
    from ptycho_torch.workflows.components import run_cdi_example_torch

    plain = PtychoModule.training_step

    def signalled(self: PtychoModule, *arguments: Any) -> Any:
        if self.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, *arguments)

    monkeypatch.setattr(PtychoModule, "training_step", signalled)
    config = dataclasses.replace(small_config(nepochs=50), output_dir=tmp_path)
    with pytest.raises(Interrupted) as caught:
        run_cdi_example_torch(small_scan(), None, config, True, QUIET)
    assert caught.value.number == signal.SIGTERM
    assert (tmp_path / "wts.h5.zip").exists()
    assert not (tmp_path / "inference").exists()
