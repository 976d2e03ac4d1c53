"""A loss or gradient that is not finite ends a run before it can spoil anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small import QUIET, small_config, small_scan

from ptycho_torch.errors import TrainingError
from ptycho_torch.training.module import PtychoModule
from ptycho_torch.training.run import Watch, fit
from ptycho_torch.training.state import RESUME_NAME, load_state, save_state

SCAN = small_scan()


def _finite(tensors: dict[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in tensors.values())


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nothing_of_the_step_is_kept_and_the_run_goes_on_from_before(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(nepochs=4, n_groups=12, batch_size=4)
    whole = fit(SCAN, config, QUIET)
    plain = PtychoModule.loss
    bundles: list[bool] = []

    def spoiled(self: PtychoModule, batch: Any) -> torch.Tensor:
        loss = plain(self, batch)
        if not (torch.is_grad_enabled() and self.steps_before + self.global_step == 7):
            return loss
        if where == "loss":
            return loss * float("nan")
        loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    watch = Watch(on_best=lambda autoencoder, *_: bundles.append(_finite(autoencoder.state_dict())))
    with monkeypatch.context() as patch:
        patch.setattr(PtychoModule, "loss", spoiled)
        with pytest.raises(TrainingError) as caught:
            fit(SCAN, config, QUIET, workdir=tmp_path, watch=watch)
    text = str(caught.value)
    assert where in text
    assert re.search(r"not finite at step 8\b.*state is that of step 6\b", text), text
    assert f"--resume {tmp_path}" in text
    assert bundles
    assert all(bundles)
    parts, facts = load_state(tmp_path / RESUME_NAME)
    assert facts["steps"] == 6
    assert all(_finite(part) for part in parts.values())
    resumed = fit(SCAN, config, QUIET, workdir=tmp_path, resume=True)
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]


def test_a_step_that_spoils_the_weights_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are finite and the step is enormous: seen when its epoch ends, before anything is written."""

    def enormous(self: PtychoModule) -> torch.optim.Optimizer:
        weights = list(self.autoencoder.core.generator.parameters())
        return torch.optim.SGD([{"params": weights, "scale": 1e30, "lr": 1e30}])

    monkeypatch.setattr(PtychoModule, "configure_optimizers", enormous)
    config = small_config(nepochs=9, n_groups=4, batch_size=4, warmup_steps=0)
    with pytest.raises(TrainingError, match=r"not finite at step .*[Nn]o step before it was kept"):
        fit(SCAN, config, QUIET, workdir=tmp_path)
    assert not (tmp_path / RESUME_NAME).exists()


def test_a_lower_rate_given_with_resume_is_the_one_used(tmp_path: Path) -> None:
    fit(SCAN, small_config(nepochs=1, probe="trainable"), QUIET, workdir=tmp_path)
    config = small_config(nepochs=2, probe="trainable", learning_rate=1e-12, probe_learning_rate=1e-12)
    parts, _ = load_state(tmp_path / RESUME_NAME)
    weights = fit(SCAN, config, QUIET, workdir=tmp_path, resume=True)
    assert weights.history[-1]["learning_rate"] < 1e-12
    after, _ = load_state(tmp_path / RESUME_NAME)
    for key, value in parts["model"].items():
        torch.testing.assert_close(after["model"][key], value, rtol=1e-6, atol=1e-9)


def test_what_is_trained_may_change_with_resume(tmp_path: Path) -> None:
    fit(SCAN, small_config(nepochs=1, probe="trainable"), QUIET, workdir=tmp_path)
    before = load_state(tmp_path / RESUME_NAME)[0]["model"]["core.probe_pairs"]
    fit(SCAN, small_config(nepochs=2, probe="fixed"), QUIET, workdir=tmp_path, resume=True)
    assert torch.equal(load_state(tmp_path / RESUME_NAME)[0]["model"]["core.probe_pairs"], before)
    moved = fit(SCAN, small_config(nepochs=3, probe="trainable"), QUIET, workdir=tmp_path, resume=True)
    assert not torch.equal(moved.autoencoder.core.probe_pairs, before)


def test_a_state_with_nan_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / RESUME_NAME
    save_state(path, {"model": {"a": torch.ones(2)}}, {"steps": 1})
    with pytest.raises(TrainingError, match="model/a"):
        save_state(path, {"model": {"a": torch.tensor([1.0, float("nan")])}}, {"steps": 2})
    assert load_state(path)[1] == {"steps": 1}
