"""Adaptation without labels: what is withheld stays unseen, and weights that are no better are not kept."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import QUIET, small_scan

from ptycho_torch.bundle.shipped import load_solver, solver_of
from ptycho_torch.bundle.verify import verify_bundle
from ptycho_torch.config import ModelConfig, TrainingConfig
from ptycho_torch.errors import ConfigError, Interrupted, TrainingError
from ptycho_torch.generators.region_frames import RegionFrames, Solution
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.physics.regions import place
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.scan import Scan, write_scan
from ptycho_torch.simulation import make_object, make_probe, simulate_scan
from ptycho_torch.training import adapt, withheld
from ptycho_torch.training.initial import chosen_init
from ptycho_torch.training.material import Image, Material
from ptycho_torch.training.run import Watch, fit
from ptycho_torch.workflows.pretraining import save_solver
from ptycho_torch.workflows.solving import reconstruct
from ptycho_torch.workflows.training import train

SCAN = small_scan()


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt, "_EPOCH", (5, 5))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle with a very small region solver."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    save_solver(RegionSolver(iterations=1, passes=1, width=8, levels=1), folder / "wts.h5", {})
    return str(folder)


def exact_scan() -> Scan:
    """Whole positions and no noise: the truth explains every frame to rounding."""
    obj, probe = make_object("grf", 64, 0), make_probe("zoneplate", 32)
    positions = np.stack(np.meshgrid([16.0, 22, 28, 34, 40], [17.0, 22, 29, 35]), -1).reshape(-1, 2)
    return simulate_scan(obj, probe, positions, noise=False)


def settings(tiny: str, **changes: Any) -> TrainingConfig:
    given = {"max_minutes": None, "max_steps": 20, "probe_sweeps": 3, "batch_size": 4, "warmup_steps": 2}
    return TrainingConfig(model=ModelConfig(N=0), init=tiny, **{**given, **changes})


def material(scan: Scan, share: float = 0.1) -> Material:
    held = np.zeros(scan.n_frames, bool)
    held[:: round(1 / share)] = True
    assert scan.probe is not None
    return Material.of(scan, scan.probe, held, None)


def frames_of(scan: Scan, chosen: Any = slice(None)) -> RegionFrames:
    """All frames of a scan as one region."""
    assert scan.probe is not None
    placed = place(scan.positions, scan.N)
    amplitudes = torch.from_numpy(scan.frames[:] * np.float32(scan.normalisation))[chosen]
    probe = torch.from_numpy(normalise_probe(scan.probe))[None]
    owner = torch.zeros(len(amplitudes), dtype=torch.int64)
    return RegionFrames(
        amplitudes, placed.corners[chosen], placed.fractions[chosen], probe, placed.shape, owner
    )


def true_solution(scan: Scan, factor: complex) -> tuple[Solution, RegionFrames]:
    frames = frames_of(scan)
    assert scan.object_guess is not None
    column, row = place(scan.positions, scan.N).origin_xy.astype(int)
    truth = scan.object_guess[row : row + frames.shape[0], column : column + frames.shape[1]]
    obj = torch.from_numpy(factor * truth.astype(np.complex64)).to(torch.complex64)[None]
    return Solution([obj], frames.probe, torch.ones(1, *frames.shape)), frames


# ------------------------------------------------------------------ what is shown
def test_given_hidden_and_held_frames_are_never_the_same() -> None:
    ours = material(SCAN)
    for step in range(40):
        drawn = ours.withheld(np.random.default_rng(step), 2)
        assert len(drawn.given.amplitudes) >= len(drawn.hidden.amplitudes) > 0
        every = [
            hash(a.numpy().tobytes())
            for a in ours.frames.read(np.arange(SCAN.n_frames))
            for a in [torch.from_numpy(a)]
        ]
        held = {every[i] for i in np.flatnonzero(ours.held)}
        for region in range(2):
            given, hidden = (
                {hash(a.numpy().tobytes()) for a in part.amplitudes[part.owner == region]}
                for part in (drawn.given, drawn.hidden)
            )
            assert not given & hidden
            assert not (given | hidden) & held
            assert given | hidden <= set(every)


def test_validation_predicts_held_frames_from_others_only() -> None:
    ours = material(SCAN)
    task = ours.validation(3)
    assert task is not None
    frames = ours.frames.read(np.arange(SCAN.n_frames))
    for part, held in ((task.given, False), (task.hidden, True)):
        for amplitude in part.amplitudes.numpy():
            index = int(np.argmin(np.abs(frames - amplitude).sum((1, 2))))
            assert ours.held[index] == held


def test_frames_lie_where_their_positions_say() -> None:
    """The truth, cut out where a task says, predicts every frame of it, given or hidden."""
    scan = exact_scan()
    ours = material(scan)
    drawn = ours.withheld(np.random.default_rng(1), 1)
    found, everything = true_solution(scan, 1.0)
    for part in (drawn.given, drawn.hidden):
        index = [int((everything.amplitudes - a).abs().sum((1, 2)).argmin()) for a in part.amplitudes]
        moved = everything.corners[index] - part.corners
        assert (moved == moved[0]).all()
        assert torch.equal(everything.fractions[index], part.fractions)
        assert float(withheld.predicted_error(found, frames_of(scan, index))) < 1e-3


@pytest.mark.parametrize("factor", [1.0, -0.3, 2.5j])
def test_the_truth_predicts_frames_up_to_one_factor(factor: complex) -> None:
    found, frames = true_solution(exact_scan(), factor)
    assert float(withheld.predicted_error(found, frames)) < 1e-3
    wrong = dataclasses.replace(found, probe=found.probe * torch.linspace(0.5, 1.5, SCAN.N))
    assert float(withheld.predicted_error(wrong, frames)) > 0.1


def test_frames_in_the_dark_do_not_count() -> None:
    """A frame that lies where no given frame does says nothing of the solver."""
    found, frames = true_solution(exact_scan(), 1.0)
    spoiled = frames.amplitudes.clone()
    spoiled[0] *= 3
    frames = dataclasses.replace(frames, amplitudes=spoiled)
    assert float(withheld.predicted_error(found, frames)) > 0.1
    dark = found.coverage.clone()
    row, column = frames.corners[0]
    dark[:, row : row + SCAN.N, column : column + SCAN.N] = 0
    assert float(withheld.predicted_error(dataclasses.replace(found, coverage=dark), frames)) < 1e-3


def test_windows_of_an_image_reach_over_its_border() -> None:
    values = np.arange(12, dtype=np.complex64).reshape(3, 4)
    image = Image(values, np.ones((3, 4), np.float32), np.array([10.0, 20.0]))
    objects, known = image.windows(np.array([[11, 19], [8, 22], [90, 90]]), (2, 3))
    assert np.array_equal(objects[0].numpy(), [[1, 1, 1], [1, 2, 3]])
    assert np.array_equal(known[0].numpy(), [[0, 0, 0], [1, 1, 1]])
    assert np.array_equal(objects[1].numpy(), [[1, 1, 8], [1, 1, 1]])
    assert not known[2].any()


def test_the_shipped_weights_are_the_default_where_nothing_else_is_asked() -> None:
    assert chosen_init(TrainingConfig()) == "shipped"
    for model in (
        ModelConfig(architecture="cnn"),
        ModelConfig(unrolled_width=32),
        ModelConfig(model_type="supervised"),
        ModelConfig(probe_mask=True),
    ):
        assert chosen_init(TrainingConfig(model=model)) == "scratch"
        assert chosen_init(TrainingConfig(model=model, init="shipped")) == "shipped"


# ------------------------------------------------------------------ what comes of it
def test_what_is_withheld_is_predicted_better_afterwards(tiny: str) -> None:
    rows: list[Any] = []
    done = fit(SCAN, settings(tiny, max_steps=30, learning_rate=3e-3), QUIET, watch=Watch(on_row=rows.append))
    assert done.best < 0.97
    assert done.history[-1]["step"] == 30
    assert done.config.model.N == SCAN.N
    assert {"withheld", "groups", "loss", "val_loss"} <= set(done.history[-1])
    before, after = load_solver(tiny), solver_of(done.diffraction_to_obj)
    assert after is not None
    held = np.zeros(SCAN.n_frames, bool)
    held[::5] = True  # not those of the run: frames that it may have trained on, predicted from the others
    frames, hidden = frames_of(SCAN, ~held), frames_of(SCAN, held)
    with torch.no_grad():
        worse, better = (
            float(withheld.predicted_error(s(frames, keep=True), hidden)) for s in (before, after)
        )
    assert better < worse


def test_weights_that_are_no_better_are_not_kept(tiny: str) -> None:
    done = fit(SCAN, settings(tiny, learning_rate=0.02, max_steps=10), QUIET)
    assert done.best == 1.0
    assert min(row["val_loss"] for row in done.history) > 1
    before, after = load_solver(tiny).state_dict(), solver_of(done.diffraction_to_obj)
    assert after is not None
    for name, value in after.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_run_that_was_ended_and_resumed_is_as_one_that_was_not(tiny: str, tmp_path: Path) -> None:
    def stop(history: list[Any]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    config = settings(tiny)
    whole = fit(SCAN, config, QUIET)
    cut = fit(SCAN, config, QUIET, workdir=tmp_path, watch=Watch(on_row=stop))
    assert cut.signal == signal.SIGTERM
    assert cut.history[-1]["step"] == 5
    again = fit(SCAN, config, QUIET, workdir=tmp_path, resume=True)
    assert again.history[-1]["step"] == 20
    assert [r["loss"] for r in again.history] == [r["loss"] for r in whole.history]
    for name, value in whole.autoencoder.state_dict().items():
        assert torch.equal(again.autoencoder.state_dict()[name], value), name


def test_rates_rise_then_fall_to_nothing_and_gradients_are_clipped(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float]] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *arguments: Any) -> Any:
        group = self.param_groups[0]
        norms = [p.grad.norm() for p in group["params"] if p.grad is not None]
        seen.append((group["lr"] / 1e-3, float(torch.stack(norms).norm())))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    config = settings(tiny, max_steps=20, learning_rate=1e-3, warmup_steps=100, gradient_clip=1e-4)
    fit(SCAN, config, QUIET)
    rates = [rate for rate, _ in seen]
    assert len(rates) == 20
    # A tenth of the run at most goes to the rise, whatever the number of steps that was asked for.
    assert rates[:3] == pytest.approx([0.01, 0.5 * 0.9938, 0.9755], rel=1e-3)
    assert rates[10] == pytest.approx(0.5, rel=1e-6)
    assert rates[-1] == pytest.approx(0.00616, rel=1e-2)
    assert [norm for _, norm in seen] == pytest.approx([1e-4] * 20, rel=1e-2)


def test_how_far_it_is_is_shown(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Recorder:
        def start(self) -> None:
            told.append("start")

        def show(self, progress: float, loss: float) -> None:
            told.append(progress)

        def stop(self, done: bool) -> None:
            told.append(done)

    monkeypatch.setattr(adapt, "Bar", Recorder)
    fit(SCAN, settings(tiny, max_steps=4), dataclasses.replace(QUIET, progress=True))
    assert told == ["start", 0.25, 0.5, 0.75, 1.0, True]


def test_a_signal_before_the_first_step_leaves_nothing(tiny: str, tmp_path: Path) -> None:
    watch = Watch(on_probe=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        fit(SCAN, settings(tiny), QUIET, workdir=tmp_path, watch=watch)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_ends_the_run(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = adapt._Run._backward
    monkeypatch.setattr(
        adapt._Run, "_backward", lambda self, step: plain(self, step) * (1 if step < 5 else np.nan)
    )
    with pytest.raises(TrainingError, match="step 6"):
        fit(SCAN, settings(tiny), QUIET)


def test_frames_without_overlap_are_adapted_to_one_by_one(tiny: str) -> None:
    """No frame says anything of another; adaptation goes by what a moved copy of each object looks like."""
    positions = np.stack(np.meshgrid([16.0, 56, 96, 136], [16.0, 56, 96, 136]), -1).reshape(-1, 2)
    apart = simulate_scan(make_object("grf", 160, 0), make_probe("zoneplate", 32), positions, photons=1e6)
    done = fit(apart, settings(tiny, max_steps=40, learning_rate=3e-3), QUIET)
    assert "single" in done.history[-1]
    assert "withheld" not in done.history[-1]
    assert done.best < 1


def test_groups_are_adapted_to_as_well(tiny: str) -> None:
    config = settings(tiny, joint_share=0.0, learning_rate=3e-3)
    config.model.gridsize = 2
    done = fit(SCAN, config, QUIET)
    assert done.diffraction_to_obj.config.gridsize == 2
    assert done.history[-1]["groups"] < done.history[0]["groups"] * 1.2


def test_several_scans_of_different_sizes_give_one_bundle(tiny: str, tmp_path: Path) -> None:
    other = small_scan(size=48, edge=96, step=9.0, seed=1)
    write_scan(SCAN, tmp_path / "a.npz")
    write_scan(other, tmp_path / "b.npz")
    run = tmp_path / "run"
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    done = train(paths, run, settings(tiny, max_steps=4), QUIET, validation=small_scan(seed=2))
    assert verify_bundle(done.bundle).exit_status == 0
    said = json.loads((run / "training.json").read_text())["provenance"]
    assert said["training_data"]["name"] == "a.npz"
    assert [each["name"] for each in said["more_training_data"]] == ["b.npz"]
    assert said["init"] == tiny
    for scan in (SCAN, other):
        assert reconstruct(scan, done.bundle).probe.shape[-1] == scan.N
    (tmp_path / "b.npz").unlink()
    write_scan(small_scan(size=48, edge=96, step=9.0, seed=3), tmp_path / "b.npz")
    with pytest.raises(Exception, match="further scans"):
        train(None, run, settings(tiny, max_steps=8), QUIET, validation=small_scan(seed=2), resume=True)


def test_one_network_from_scratch_takes_one_scan() -> None:
    config = TrainingConfig(model=ModelConfig(N=32), init="scratch")
    with pytest.raises(ConfigError, match="one scan"):
        fit([SCAN, SCAN], config, QUIET)
