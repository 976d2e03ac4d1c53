"""A run that is ended at any moment and gone on with is the run that nobody ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import QUIET, small_config, small_scan

from ptycho_torch.errors import Interrupted
from ptycho_torch.model_manager import load_torch_bundle
from ptycho_torch.training import callbacks
from ptycho_torch.training.module import PtychoModule
from ptycho_torch.training.state import load_state
from ptycho_torch.workflows.training import Watch, train

CONFIG = small_config(probe="refine", probe_sweeps=2, nepochs=3, val_fraction=0.2)
"""Three epochs of three steps, after two sweeps for the probe."""
MOMENTS = [
    ("sweep", 2),
    *(("step", n) for n in (1, 2, 3, 4, 6, 8, 9)),
    *(("save", n) for n in (1, 2)),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody ended."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = train(small_scan(), folder, CONFIG, QUIET)
    assert (done.metrics["steps"], done.metrics["epochs"]) == (9, 3)
    return folder


def state(run: Path) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """All tensors of the last state, and the history without what is measured in seconds."""
    parts, facts = load_state(run / "resume.safetensors")
    tensors = {f"{part}/{key}": value for part, group in parts.items() for key, value in group.items()}
    return tensors, [{k: v for k, v in row.items() if k != "seconds"} for row in facts["history"]]


def at(number: int, plain: Callable[..., Any]) -> Callable[..., Any]:
    """``plain``, with a SIGTERM just before its call of this number."""
    calls = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments, **named)

    return counted


@pytest.mark.parametrize(("kind", "number"), MOMENTS)
def test_a_run_ended_and_gone_on_with_is_the_run_that_nobody_ended(
    whole: Path, tmp_path: Path, kind: str, number: int
) -> None:
    run, watch = tmp_path / "run", Watch()
    with pytest.MonkeyPatch.context() as patch:
        if kind == "sweep":
            watch = Watch(on_probe=at(number, lambda *_: None))
        elif kind == "step":
            plain = PtychoModule.training_step
            ended = at(number, plain)
            patch.setattr(PtychoModule, "training_step", lambda self, *a: ended(self, *a))
        else:
            patch.setattr(callbacks, "save_state", at(number, callbacks.save_state))
        try:
            ended_by = train(small_scan(), run, CONFIG, QUIET, watch=watch).trained.signal
            load_torch_bundle(run)
        except Interrupted as stop:
            ended_by = stop.number if kind == "sweep" else None  # there was no step to finish yet
    assert ended_by == signal.SIGTERM
    train(small_scan(), run, CONFIG, QUIET, resume=True)
    tensors, history = state(run)
    expected, rows = state(whole)
    assert history == rows
    assert tensors.keys() == expected.keys()
    assert [key for key, value in expected.items() if not tensors[key].equal(value)] == []
    mine, theirs = (load_torch_bundle(folder)[0].state_dict() for folder in (run, whole))
    assert all(mine[key].equal(value) for key, value in theirs.items())
