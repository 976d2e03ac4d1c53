"""Signals end a run in good order, and what is resumed is as if there had been none."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small import QUIET, small_config, small_scan

from ptycho_torch.errors import Interrupted
from ptycho_torch.model import build_pair, default_probe
from ptycho_torch.training.module import PtychoModule
from ptycho_torch.training.run import Watch, fit
from ptycho_torch.training.stopping import Stopping


@pytest.fixture(autouse=True)
def heard_hangup() -> Iterator[None]:
    """SIGHUP ends a process, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


SCAN = small_scan()


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_there_is_anything_to_keep_ends_at_once(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, Stopping():
        _send(number)
    assert caught.value.number == number
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(number) == before


def test_the_first_signal_is_a_request_and_the_second_an_order() -> None:
    asked: list[int] = []

    def signalled_twice() -> None:
        with Stopping() as stopping:
            stopping.defer(lambda: asked.append(1))
            with stopping:
                _send(signal.SIGTERM)
            assert (asked, stopping.number) == ([1], signal.SIGTERM)
            _send(signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        signalled_twice()
    assert caught.value.number == signal.SIGTERM


def test_what_a_process_ignores_it_goes_on_ignoring() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            _send(signal.SIGHUP)
        assert stopping.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_run_that_was_ended_and_resumed_is_as_if_it_had_not_been(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps make an epoch: the signal comes in the first step of one, in its last, and in the middle."""
    config = small_config(nepochs=3, probe="trainable", batch_size=4, n_groups=12)
    whole = fit(SCAN, config, QUIET)
    plain = PtychoModule.training_step

    def signalled(self: PtychoModule, batch: object, batch_idx: int) -> torch.Tensor:
        if self.steps_before + self.global_step == step - 1:
            _send(signal.SIGTERM)
        return plain(self, batch, batch_idx)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(PtychoModule, "training_step", signalled)
        ended = fit(SCAN, config, QUIET, workdir=tmp_path)
    assert ended.signal == signal.SIGTERM
    assert ended.history[-1]["step"] == step
    resumed = fit(SCAN, config, QUIET, workdir=tmp_path, resume=True)
    assert resumed.signal is None
    for key in ("epoch", "step", "loss", "val_loss", "learning_rate"):
        assert [row.get(key) for row in resumed.history] == [row.get(key) for row in whole.history], key
    for a, b in zip(
        resumed.autoencoder.state_dict().values(), whole.autoencoder.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


def test_a_second_signal_ends_training_at_once() -> None:
    def twice(_: object) -> None:
        _send(signal.SIGTERM)
        _send(signal.SIGTERM)

    with pytest.raises(Interrupted):
        fit(SCAN, small_config(nepochs=50), QUIET, watch=Watch(on_row=twice))


def test_a_module_that_nobody_listens_for_has_heard_no_signal() -> None:
    config = small_config()
    autoencoder, _ = build_pair(config.model, default_probe(config.model.N), 1.0)
    module = PtychoModule(autoencoder, config, config.model.N)
    assert module.heard() == 0
    module.stop(0)
