"""What the module does around its losses: which weights move and how fast, budgets, sums of epochs, what is refused."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from answer import Answer
from small import small_config

from ptycho_torch.errors import TrainingError
from ptycho_torch.model import build_pair
from ptycho_torch.processes import Group
from ptycho_torch.training.data import Batch
from ptycho_torch.training.module import PtychoModule

N = 32


class Two(Group):
    """The first of two processes, of which the other one's numbers are larger by 2; ``told`` is what it said."""

    def __init__(self) -> None:
        super().__init__(0, 2)
        object.__setattr__(self, "told", [])

    def total(self, value: torch.Tensor) -> torch.Tensor:
        return 2 * value + 2

    def shared(self, make: Any) -> Any:
        self.told.append(make())  # type: ignore[attr-defined]
        return 0.25

    def most(self, value: int) -> int:
        self.told.append(value)  # type: ignore[attr-defined]
        return value


def made(monkeypatch: pytest.MonkeyPatch, step: int = 0, group: Group | None = None, **changes: Any) -> Any:
    """A module at a step of its trainer, which stands still; its generator has one weight."""
    config = small_config(**{"learning_rate": 4e-3, "warmup_steps": 0, "overlap": False, **changes})
    rng = np.random.default_rng(0)
    probe = rng.standard_normal((1, N, N)) + 1j * rng.standard_normal((1, N, N))
    autoencoder, _ = build_pair(config.model, probe, 2.0)
    autoencoder.core.generator = answer = Answer(config.model)
    answer.answer = torch.ones(2, 1, N, N, dtype=torch.complex64)
    answer.weight = torch.nn.Parameter(torch.ones(3))
    module = PtychoModule(autoencoder, config, N)
    if group is not None:
        module.group = group
    monkeypatch.setattr(PtychoModule, "global_step", step)
    shares = SimpleNamespace(share=lambda batch, held: 10.0 * batch + held)
    optimiser = module.configure_optimizers()
    module.trainer = SimpleNamespace(  # type: ignore[assignment]
        optimizers=[optimiser], should_stop=False, datamodule=SimpleNamespace(shares=shares)
    )
    return module


def batch(level: float = 1.0) -> Batch:
    return Batch(torch.full((2, 1, N, N), level), torch.zeros(2, 1, 1, 2), None)


# ---------------------------------------------------------------- what moves, and how fast
@pytest.mark.parametrize("kind", ["fixed", "refine", "trainable"])
@pytest.mark.parametrize("switch", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.01])
def test_the_probe_is_trained_where_all_say_so(
    kind: str, switch: bool, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = made(monkeypatch, probe=kind, probe_trainable=switch, probe_learning_rate=rate, nll_weight=0.0)
    optimiser, core = module.configure_optimizers(), module.autoencoder.core
    assert type(optimiser) is torch.optim.Adam
    groups = optimiser.param_groups
    assert groups[0]["params"] == [core.generator.weight]
    assert groups[0]["lr"] == groups[0]["scale"] == 4e-3
    trained = kind != "fixed" and switch and rate > 0
    assert core.probe_pairs.requires_grad == trained
    assert len(groups) == 1 + trained
    if trained:
        peak = float(core.probe.detach().abs().max())
        assert groups[1]["params"] == [core.probe_pairs]
        assert groups[1]["lr"] == groups[1]["scale"] == pytest.approx(rate * peak, rel=1e-6)


@pytest.mark.parametrize("switch", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_scale_is_trained_where_counts_count(
    switch: bool, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = made(monkeypatch, intensity_scale_trainable=switch, nll_weight=weight)
    groups, scale = module.configure_optimizers().param_groups, module.autoencoder.core.log_scale
    assert scale.requires_grad == (switch and weight > 0)
    assert len(groups) == 1 + (switch and weight > 0)
    if len(groups) == 2:
        assert groups[1]["params"] == [scale]
        assert groups[1]["lr"] == 4e-3


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("step", [0, 1, 4, 9])
@pytest.mark.parametrize("warmup", [0, 6])
def test_rates_are_those_of_the_step(
    before: int, step: int, warmup: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = made(monkeypatch, step, warmup_steps=warmup, probe="trainable", probe_learning_rate=0.1)
    module.steps_before, module.steps_planned = before, 16
    for _ in range(2):  # whatever they were before
        assert module.on_train_batch_start(batch(), 0) is None
    done = before + step
    factor = 0.5 * (1 + math.cos(math.pi * done / 16)) * min(1.0, (done + 1) / (warmup or 1))
    groups = module.trainer.optimizers[0].param_groups
    assert [g["lr"] / g["scale"] for g in groups] == pytest.approx([factor, factor], rel=1e-12)
    assert not module.trainer.should_stop


# ---------------------------------------------------------------- budgets
def test_a_budget_is_used_up_by_steps_or_by_time_whichever_is_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("ptycho_torch.training.module.time.monotonic", lambda: now[0])
    module = made(monkeypatch, 4, max_minutes=2.0)
    module.steps_before, module.steps_planned = 6, 40
    now[0] = 103.0
    assert module.seconds == 3.0
    module.on_fit_start()
    module.seconds_before = 12.0
    now[0] = 109.0
    assert module.seconds == 12 + 6
    assert module.progress == 10 / 40  # 18 s of 120 are less
    now[0] = 145.0
    assert module.progress == 54 / 120
    now[0] = 1000.0
    assert module.progress == 1.0
    free = made(monkeypatch, 4, max_minutes=None)
    free.steps_before, free.steps_planned = 6, 40
    assert free.progress == 10 / 40
    free.steps_planned = 5
    assert free.progress == 1.0
    assert made(monkeypatch, 1).progress == 1.0  # a single step where nobody says how many


@pytest.mark.parametrize(("before", "step"), [(0, 0), (0, 1), (0, 5), (5, 0)])
def test_a_run_whose_budget_is_used_up_ends_but_not_before_its_first_step(
    before: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    module = made(monkeypatch, step)
    module.stop, module.heard = told.append, lambda: 15
    module.steps_before, module.steps_planned = before, before + step
    module.steps_planned = max(module.steps_planned, 1)
    if not before + step:
        # The probe took all of the time.
        module.config.max_minutes, module.seconds_before = 1.0, 90.0
    ended = module.on_train_batch_start(batch(), 0)
    rate = module.trainer.optimizers[0].param_groups[0]["lr"]
    if before + step:
        assert ended == -1
        assert module.trainer.should_stop
        assert told == [0]  # no signal: alone, its own handler has heard of it
    else:
        assert ended is None
        assert not module.trainer.should_stop
        assert not told
        assert rate == 4e-3


@pytest.mark.parametrize("signal", [0, 15])
def test_several_processes_go_by_the_clock_of_the_first_and_by_any_ones_signal(
    signal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    group = Two()
    module = made(monkeypatch, 8, group)
    module.steps_planned, module.heard, module.stop = 16, lambda: signal, told.append
    ended = module.on_train_batch_start(batch(), 0)
    assert group.told == [0.5, signal]  # type: ignore[attr-defined]
    assert ended == (-1 if signal else None)
    assert module.trainer.should_stop == bool(signal)
    assert told == ([signal] if signal else [])
    if not signal:  # the first one's clock says 0.25
        rate = module.trainer.optimizers[0].param_groups[0]["lr"]
        assert rate == pytest.approx(4e-3 * 0.5 * (1 + math.cos(math.pi / 4)))


# ---------------------------------------------------------------- steps
def test_a_step_of_one_process_has_the_whole_loss_and_of_several_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = made(monkeypatch)
    whole = float(module.loss(batch()).detach())
    assert float(module.training_step(batch(), 3).detach()) == pytest.approx(whole)
    assert module.share(3, 2) == 1.0
    several = made(monkeypatch, 0, Two())
    found = several.training_step(batch(), 3)
    assert float(found.detach()) == pytest.approx(32 * whole)  # batch 3 with 2 groups, as the stand-in counts
    assert float(several._last[1]) == pytest.approx(32 * whole + 1)  # the mean over both


def stepped(module: Any, level: float, gradient: float = 1.0) -> None:
    module.training_step(batch(level), 0)
    module.autoencoder.core.generator.weight.grad = torch.full((3,), gradient)
    module.on_before_optimizer_step(module.trainer.optimizers[0])


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps_also_of_one_that_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = made(monkeypatch)
    assert module.epoch_loss is None
    assert module.epoch_sum == 0.0
    module.on_train_epoch_start()
    losses = []
    for level in (1.0, 2.0, 4.0):
        stepped(module, level)
        losses.append(float(module.loss(batch(level)).detach()))
    assert len({round(loss, 3) for loss in losses}) == 3
    assert module.batches == 3
    assert module.epoch_sum == pytest.approx(sum(losses))
    assert module.epoch_loss == pytest.approx(np.mean(losses))
    module.on_train_epoch_start()
    assert module.epoch_loss is None
    assert module.batches == 0
    module.begun(10.0, 4)
    module.on_train_epoch_start()
    assert module.epoch_sum == 10.0
    assert module.epoch_loss == 2.5
    stepped(module, 1.0)
    assert module.epoch_loss == pytest.approx((10 + losses[0]) / 5)
    module.on_train_epoch_start()  # only the first epoch goes on
    assert module.epoch_loss is None
    module.begun(10.0, 0)
    module.on_train_epoch_start()
    assert module.epoch_loss is None


@pytest.mark.parametrize(
    ("level", "gradient", "what"),
    [
        (math.nan, 1.0, "loss"), (math.inf, 1.0, "loss"),
        (1.0, math.nan, "gradient of the loss"), (1.0, math.inf, "gradient of the loss"),
    ],
)  # fmt: skip
def test_a_step_that_would_spoil_the_weights_is_refused(
    level: float, gradient: float, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = made(monkeypatch, 4)
    module.steps_before, module.last_good = 7, "the state is that of step 9"
    with pytest.raises(TrainingError) as caught:
        stepped(module, level, gradient)
    expected = f"{what}: not finite at step 12; nothing of it is kept. The state is that of step 9. Try"
    assert str(caught.value).startswith(expected)
    assert module.batches == 0
    assert module.epoch_loss is None


def test_gradients_that_are_large_and_finite_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of their squares is beyond single precision."""
    module = made(monkeypatch, nll_weight=1.0)
    module.autoencoder.core.log_scale.grad = torch.tensor(1.5e19)
    stepped(module, 1.0, 8e18)
    assert module.batches == 1


def test_weights_that_the_last_step_has_spoiled_are_seen_by_the_loss_of_its_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = made(monkeypatch)
    module.check_weights()  # nothing yet
    stepped(module, 1.0)
    module.check_weights()
    module.autoencoder.core.generator.answer = torch.full((2, 1, N, N), math.nan, dtype=torch.complex64)
    with pytest.raises(TrainingError, match="loss after the step: not finite at step 1;"):
        module.check_weights()


def test_held_out_groups_are_asked_without_gradient_and_training_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = made(monkeypatch)
    asked: list[tuple[bool, bool]] = []
    plain = module.loss
    module.loss = lambda b: asked.append((module.training, torch.is_grad_enabled())) or plain(b)
    module.train()
    found = module.validation_loss([batch(1.0), batch(3.0)])
    assert found == pytest.approx(np.mean([float(plain(batch(v)).detach()) for v in (1.0, 3.0)]))
    assert asked == [(False, False)] * 2
    assert module.training
    assert module.validation_loss([]) is None
    several = made(monkeypatch, 0, Two())
    assert several.validation_loss([batch(1.0)]) == 0.25  # what the first process found
