"""Training runs: they learn, repeat, resume, stop, and refuse what cannot work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import QUIET, small_config, small_scan

from ptycho_torch.config import TrainingConfig
from ptycho_torch.errors import ConfigError, DataError, PtychoError
from ptycho_torch.scan import Scan
from ptycho_torch.training.checks import checked
from ptycho_torch.training.prepare import illuminate, measure
from ptycho_torch.training.run import Trained, Watch, fit
from ptycho_torch.training.state import RESUME_NAME, load_state

SCAN = small_scan()


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return trained.autoencoder.state_dict()


def same(a: Trained, b: Trained) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values(), strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"overlap": False},
        {"nll_weight": 1.0, "mae_weight": 0.0},
        {"realspace_weight": 1e-3},
        {"overlap": False, "equivariance_weight": 1.0},
        {"gridsize": 2},
        {"size": 64, "architecture": "cnn"},
        {"size": 64, "architecture": "cnn", "gridsize": 2},
    ],
    ids=str,
)
def test_losses_fall(changes: dict[str, Any]) -> None:
    size = changes.get("size", 32)
    scan = SCAN if size == 32 else small_scan(64, 6.0, 92)
    trained = fit(scan, small_config(**{"nepochs": 5, "learning_rate": 3e-3, **changes}), QUIET)
    losses = [row["loss"] for row in trained.history]
    assert min(losses[1:]) < losses[0]
    assert trained.best == min(row.get("val_loss", row["loss"]) for row in trained.history)


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    a, b = (fit(SCAN, small_config(probe="trainable"), QUIET) for _ in range(2))
    assert same(a, b)
    assert not same(a, fit(SCAN, small_config(probe="trainable", seed=1), QUIET))


@pytest.mark.parametrize("changes", [{}, {"overlap": False, "equivariance_weight": 0.5}], ids=str)
def test_resuming_is_as_if_nothing_had_happened(changes: dict[str, Any], tmp_path: Path) -> None:
    config = small_config(nepochs=4, probe="trainable", **changes)
    whole = fit(SCAN, config, QUIET)
    killed: list[int] = []

    def kill(history: list[dict[str, float]]) -> None:
        killed.append(len(history))
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(SCAN, config, QUIET, workdir=tmp_path, watch=Watch(on_row=kill))
    resumed = fit(SCAN, config, QUIET, workdir=tmp_path, resume=True)
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3, 4]
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]
    assert same(whole, resumed)


def test_what_is_resumed_must_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=RESUME_NAME):
        fit(SCAN, small_config(), QUIET, workdir=tmp_path, resume=True)
    fit(SCAN, small_config(), QUIET, workdir=tmp_path)
    other = small_config()
    other.model.unrolled_width = 16
    with pytest.raises(DataError, match="another model"):
        fit(SCAN, other, QUIET, workdir=tmp_path, resume=True)
    (tmp_path / RESUME_NAME).write_bytes(b"not a state")
    with pytest.raises(DataError, match="not a state"):
        load_state(tmp_path / RESUME_NAME)


def test_the_best_model_is_what_comes_back() -> None:
    seen: dict[float, dict[str, torch.Tensor]] = {}

    def best(autoencoder: Any, _: Any, __: Any, history: list[dict[str, float]]) -> None:
        row = history[-1]
        seen[row.get("val_loss", row["loss"])] = {k: v.clone() for k, v in autoencoder.state_dict().items()}

    trained = fit(SCAN, small_config(nepochs=4, learning_rate=0.05), QUIET, watch=Watch(on_best=best))
    chosen = seen[min(seen)]
    assert all(torch.equal(v, chosen[k]) for k, v in weights(trained).items())
    assert trained.best == min(seen)


def test_patience_ends_a_run_that_does_not_improve() -> None:
    trained = fit(SCAN, small_config(nepochs=30, learning_rate=1e-12, patience=2, warmup_steps=0), QUIET)
    assert len(trained.history) < 30


def test_steps_and_time_are_budgets() -> None:
    assert fit(SCAN, small_config(nepochs=50, max_steps=5), QUIET).history[-1]["step"] == 5
    assert len(fit(SCAN, small_config(nepochs=10_000, max_minutes=0.02), QUIET).history) < 10_000


def test_a_budget_spent_before_the_first_step_still_gives_a_model() -> None:
    trained = fit(SCAN, small_config(probe="refine", probe_sweeps=5, max_minutes=1e-6), QUIET)
    assert [row["step"] for row in trained.history] == [1]


def test_the_scale_is_trained_with_the_poisson_loss_alone() -> None:
    start = fit(SCAN, small_config(max_steps=1), QUIET).autoencoder.intensity_scale
    fixed = fit(SCAN, small_config(), QUIET).autoencoder.intensity_scale
    moved = fit(SCAN, small_config(nll_weight=1.0, mae_weight=0.0), QUIET).autoencoder.intensity_scale
    kept = fit(
        SCAN, small_config(nll_weight=1.0, mae_weight=0.0, intensity_scale_trainable=False), QUIET
    ).autoencoder.intensity_scale
    assert fixed == start == kept
    assert moved != start


@pytest.mark.parametrize(("how", "moves"), [("fixed", False), ("trainable", True), ("refine", True)])
def test_what_happens_to_the_probe(how: str, moves: bool) -> None:
    from ptycho_torch.physics.units import normalise_probe

    assert SCAN.probe is not None
    trained = fit(SCAN, small_config(probe=how, probe_sweeps=3), QUIET)
    before = normalise_probe(SCAN.probe)
    after = trained.autoencoder.probe.detach().numpy()
    assert np.allclose(before, after, atol=1e-6) != moves
    assert len(trained.probe_residuals) == (3 if how == "refine" else 0)


def test_bad_pixels_have_no_influence() -> None:
    good = np.ones((32, 32), bool)
    good[4:7, 20] = False
    frames = np.array(SCAN.frames)
    a = fit(dataclasses.replace(SCAN, frames=frames, good_pixels=good), small_config(), QUIET)
    spoiled = frames.copy()
    spoiled[:, 4:7, 20] = 1e4  # neither the normalisation nor the loss may see it
    b = fit(dataclasses.replace(SCAN, frames=spoiled, good_pixels=good), small_config(), QUIET)
    assert [r["loss"] for r in a.history] == pytest.approx([r["loss"] for r in b.history], rel=1e-5)


def test_modes_can_be_added() -> None:
    trained = fit(SCAN, dataclasses.replace(small_config(), model=_modes(3)), QUIET)
    assert trained.autoencoder.probe.shape == (3, 32, 32)
    assert trained.config.model.probe_modes == 3


def _modes(count: int) -> Any:
    return dataclasses.replace(small_config().model, probe_modes=count)


def test_a_scan_without_a_probe_starts_from_a_disk() -> None:
    trained = fit(dataclasses.replace(SCAN, probe=None), small_config(probe="trainable"), QUIET)
    assert trained.autoencoder.probe.shape == (1, 32, 32)


def test_bf16_trains() -> None:
    trained = fit(SCAN, small_config(), dataclasses.replace(QUIET, precision="bf16"))
    assert np.isfinite(trained.best)


def test_labels_are_used_where_asked_for_and_there() -> None:
    config = small_config(nepochs=3, learning_rate=3e-3)
    config.model.model_type = "supervised"
    trained = fit(SCAN, config, QUIET)
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]
    with pytest.raises(DataError, match="objectGuess"):
        fit(dataclasses.replace(SCAN, object_guess=None), config, QUIET)


def test_size_zero_takes_the_frames() -> None:
    config = small_config()
    config.model.N = 0
    assert fit(SCAN, config, QUIET).config.model.N == 32


def _refused(error: type[PtychoError], text: str, scan: Any = SCAN, **kw: Any) -> None:
    config = kw.pop("config", small_config())
    with pytest.raises(error, match=text):
        fit(scan, config, kw.pop("execution", QUIET), **kw)


def test_what_cannot_work_is_refused() -> None:
    _refused(ConfigError, r"model\.N: expected 32", config=small_config(64))
    _refused(ConfigError, "validation scan", validation=small_scan(16, edge=40))
    _refused(ConfigError, "backend", config=small_config(backend="tensorflow"))
    _refused(ConfigError, "accelerator", execution=dataclasses.replace(QUIET, accelerator="tpu"))
    _refused(
        PtychoError, "at least 4|expected", scan=SCAN.select(slice(0, 3)), config=small_config(gridsize=2)
    )
    if not torch.cuda.is_available():
        _refused(ConfigError, "accelerator: .*GPU", execution=dataclasses.replace(QUIET, accelerator="gpu"))


def test_validation_frames_are_not_trained_on() -> None:
    from ptycho_torch.training.data import GroupData

    data = GroupData(SCAN, small_config(val_fraction=0.2, overlap_frames=2), QUIET, 1.0)
    assert data.val_scan is not None
    ours = {tuple(p) for p in data.train_scan.positions}
    assert not ours & {tuple(p) for p in data.val_scan.positions}
    assert len(ours) + len(data.val_scan.positions) == SCAN.n_frames


def test_a_bounded_network_gets_room_above_the_mean() -> None:
    """A sigmoid ends at 1: the object's mean must lie well below it, in the gauge of the probe that is kept."""
    scan = small_scan(64, 6.0, 92)

    def probe(config: TrainingConfig) -> np.ndarray:
        return illuminate(scan, config, measure(scan, config)).probe

    plain = probe(small_config(64))
    np.testing.assert_allclose(probe(small_config(64, architecture="cnn")), 2.5 * plain, rtol=1e-6)
    free = small_config(64, architecture="cnn")
    free.model.amp_activation = "softplus"
    np.testing.assert_array_equal(probe(free), plain)


def test_what_is_left_to_training_is_chosen_and_kept() -> None:
    quick = {"max_steps": 1, "nepochs": 1}
    single = fit(SCAN, small_config(**quick), QUIET).config
    assert (single.model.unrolled_physics_steps, single.equivariance_weight) == (1, 0.0)
    assert fit(SCAN, small_config(gridsize=2, **quick), QUIET).config.model.unrolled_physics_steps == 3
    assert fit(SCAN, small_config(overlap=False, **quick), QUIET).config.equivariance_weight == 1.0
    given = small_config(overlap=False, equivariance_weight=0.25, **quick)
    given.model.unrolled_physics_steps = 2
    kept = fit(SCAN, given, QUIET).config
    assert (kept.model.unrolled_physics_steps, kept.equivariance_weight) == (2, 0.25)


@pytest.mark.parametrize(("photons", "chosen"), [(49.5, (0.1, 0.0)), (50.5, (1.0, 0.5))])
def test_counts_choose_how_a_frame_judges_its_own_patch(
    photons: float, chosen: tuple[float, float], caplog: pytest.LogCaptureFixture
) -> None:
    counts = np.random.default_rng(0).poisson(photons, SCAN.frames.shape)
    counts[0, 0, 0] += round(photons * counts.size) - counts.sum()  # the mean is exact
    scan = dataclasses.replace(SCAN, frames=np.sqrt(counts).astype(np.float32), counts_known=True)

    def used(scan: Scan = scan, **changes: float | bool | None) -> tuple[float | None, float | None]:
        config = small_config(**{"overlap_own": None, "frame_weight": None, **changes})
        made = checked(scan, config, QUIET, None)[0]
        return made.overlap_own, made.frame_weight

    with caplog.at_level("INFO", "ptycho_torch"):
        assert used() == chosen
    assert ("few photons" in caplog.text) == (chosen[0] < 1)
    assert used(overlap_own=0.7) == (0.7, chosen[1])
    assert used(frame_weight=0.2) == (chosen[0], 0.2)
    assert used(overlap=False) == (1.0, 0.5)
    assert used(dataclasses.replace(scan, counts_known=False)) == (1.0, 0.5)


def test_patches_that_are_right_in_the_middle_only_are_not_merged() -> None:
    scan = small_scan(64, 6.0, 92)
    used = fit(scan, small_config(64, architecture="cnn", max_steps=1, nepochs=1), QUIET).config
    assert not used.overlap
    assert used.equivariance_weight == 0.0
