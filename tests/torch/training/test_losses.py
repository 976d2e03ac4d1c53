"""The losses of training against twins in numpy: every term, its weight, its mask, and what it has a gradient for."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from answer import Answer
from numpy.typing import NDArray
from small import small_config

from ptycho_torch.config import TrainingConfig
from ptycho_torch.model import build_pair
from ptycho_torch.physics.patches import crop, merge, merged_under
from ptycho_torch.training.data import Batch
from ptycho_torch.training.module import PtychoModule

N, R, GROUPS, MEMBERS = 32, 48, 2, 3
SCALE = 7.0
Complex = NDArray[np.complex128]
Real = NDArray[np.float64]


def waves(rng: np.random.Generator, *shape: int) -> Complex:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def made(
    config: TrainingConfig, masked: bool = False, members: int = MEMBERS, labels: bool = False, seed: int = 0
) -> tuple[PtychoModule, Answer, Batch]:
    """In double: a module with two probe modes and a scale that has moved, its generator, and a batch."""
    rng = np.random.default_rng(seed)
    around = np.hypot(*np.meshgrid(*2 * [np.arange(N) - N / 2]))
    probe = waves(rng, 2, N, N) * (around < 9) * np.array([1.0, 0.4])[:, None, None]
    model = dataclasses.replace(config.model, probe_modes=2)
    autoencoder, _ = build_pair(model, probe, SCALE)
    autoencoder.core.generator = answer = Answer(model)
    mask = torch.from_numpy(rng.random((N, N)) < 0.7) if masked else None
    autoencoder.double().core.log_scale.fill_(math.log(SCALE))
    module = PtychoModule(autoencoder, config, R, mask)
    autoencoder.core.log_scale.data += 0.3
    # Whole pixels, which cubic interpolation leaves as they are.
    offsets = rng.integers(-6, 7, (GROUPS, members, 1, 2)).astype(float)
    x = rng.uniform(0.1, 2, (GROUPS, members, N, N))
    answer.answer = torch.from_numpy(1 + 0.3 * waves(rng, GROUPS, members, N, N))
    if config.model.gridsize == 1:
        answer.answer = answer.answer.view(-1, 1, N, N)
    known = torch.from_numpy(1 + 0.3 * waves(rng, GROUPS, members, N, N)) if labels else None
    return module, answer, Batch(torch.from_numpy(x), torch.from_numpy(offsets), known)


def value(module: PtychoModule, batch: Batch) -> float:
    return float(module.loss(batch).detach())


class Twin:
    """The losses in numpy, from their formulas."""

    def __init__(self, module: PtychoModule, answer: Answer, batch: Batch) -> None:
        self.config = module.config
        self.probe: Complex = module.autoencoder.probe.detach().numpy()
        self.power: Real = (np.abs(self.probe) ** 2).sum(0)
        self.good = np.ones((N, N), bool) if module.mask is None else module.mask.numpy()
        self.x, self.offsets = batch.x.numpy(), batch.offsets[:, :, 0].numpy().astype(int)
        self.members = self.x.shape[1]
        self.patches: Complex = answer.answer.detach().numpy().reshape(self.x.shape)
        self.labels = None if batch.labels is None else batch.labels.numpy()

    def frames(self, patches: Complex) -> Real:
        field = np.fft.fft2(patches[..., None, :, :] * self.probe, norm="ortho")
        amplitude: Real = np.sqrt((np.abs(field) ** 2).sum(-3))
        return np.fft.fftshift(amplitude, axes=(-2, -1))

    def misfit(self, patches: Complex) -> float:
        made_, used = self.frames(patches), np.broadcast_to(self.good, self.x.shape)
        amplitude = np.abs(made_ - self.x)[used].mean()
        rate, counts = (made_ * SCALE * np.exp(0.3)) ** 2, (self.x * SCALE) ** 2
        likelihood = (rate - counts * np.log(rate))[used].mean()
        return float(self.config.mae_weight * amplitude + self.config.nll_weight * likelihood)

    def under(self) -> Complex:
        """The group's merge under each member, whose own part counts less."""
        found = np.zeros_like(self.patches)
        own = self.config.overlap_own
        assert own is not None
        for g in range(GROUPS):
            for c in range(self.members):
                top, bottom = np.zeros((R, R), complex), np.zeros((R, R))
                for k in range(self.members):
                    place, share = self.window(g, k), own if k == c else 1.0
                    top[place] += share * self.power * self.patches[g, k]
                    bottom[place] += share * self.power
                merged = top / (bottom + 1e-3 * self.power.max())
                found[g, c] = merged[self.window(g, c)]
        return found

    def window(self, g: int, k: int) -> tuple[slice, slice]:
        x, y = self.offsets[g, k] + R // 2 - N // 2
        return slice(y, y + N), slice(x, x + N)

    def against(self, labels: Complex, patches: Complex) -> float:
        overlap = (self.power * labels * patches.conj()).sum((-2, -1), keepdims=True)
        apart = np.abs(patches * overlap / np.abs(overlap) - labels)
        return float((self.power * apart).sum((-2, -1)).mean() / self.power.sum())

    def smoothness(self) -> float:
        return sum(float(np.abs(np.diff(self.patches, axis=axis)).mean()) for axis in (-2, -1))


@pytest.mark.parametrize(("masked", "members"), [(False, 3), (True, 3), (True, 2)])
@pytest.mark.parametrize(
    "weights",
    [
        {"mae_weight": 0.7},
        {"mae_weight": 0.0, "nll_weight": 0.2},
        {"mae_weight": 1.7, "nll_weight": 0.3, "overlap_weight": 0.6, "frame_weight": 0.25},
        {"overlap_own": 0.0, "frame_weight": 0.0, "overlap_weight": 2.0},
        {"overlap_own": 0.4, "frame_weight": 3.0, "nll_weight": 0.1},
    ],
    ids=str,
)
def test_frames_alone_and_merged_with_their_neighbours(
    weights: dict[str, Any], masked: bool, members: int
) -> None:
    config = small_config(**{"equivariance_weight": 0.0, **weights})
    module, answer, batch = made(config, masked, members)
    twin = Twin(module, answer, batch)
    assert config.frame_weight is not None
    expected = config.overlap_weight * twin.misfit(twin.under())
    expected += config.frame_weight * twin.misfit(twin.patches)
    assert value(module, batch) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("own", [1.0, 0.4])
def test_between_pixels_a_merge_is_what_lies_under_each_frame(own: float) -> None:
    """The whole merge is a mean first and sampled then, as on the canvas; without a member's own part it cannot be."""
    module, answer, batch = made(small_config(overlap_own=own, frame_weight=0.0))
    batch = batch._replace(offsets=batch.offsets + 0.37)
    patches, shifts, power = answer.answer.view_as(batch.x), batch.offsets[:, :, 0], module.autoencoder.probe
    power = power.detach().abs().square().sum(0)
    mean, without = (
        crop(merge(patches, power, shifts, R), shifts, N),
        merged_under(patches, power, shifts, R, own),
    )
    values = [float(module.misfit(under, batch.x).detach()) for under in (mean, without)]
    assert abs(values[0] - values[1]) > 1e-6
    assert value(module, batch) == pytest.approx(values[0 if own == 1 else 1], rel=1e-12)


@pytest.mark.parametrize("weights", [{}, {"mae_weight": 0.6, "nll_weight": 0.2}], ids=str)
def test_frames_without_neighbours(weights: dict[str, Any]) -> None:
    """Neither the weight of a merge nor that of single frames beside one says anything here."""
    config = small_config(overlap=False, overlap_weight=5.0, frame_weight=0.3, **weights)
    module, answer, batch = made(config, masked=True, members=1)
    twin = Twin(module, answer, batch)
    assert value(module, batch) == pytest.approx(twin.misfit(twin.patches), rel=1e-9)


def test_groups_that_are_predicted_together_have_no_merge() -> None:
    config = small_config(gridsize=2, overlap_weight=5.0, frame_weight=0.3, equivariance_weight=2.0)
    module, answer, batch = made(config, masked=True, members=4)
    twin = Twin(module, answer, batch)
    assert value(module, batch) == pytest.approx(twin.misfit(twin.patches), rel=1e-9)
    # It is told where its frames lie, and how large the region is that all groups have.
    assert answer.seen is batch.x
    assert answer.told["offsets"] is batch.offsets
    assert answer.told["mask"] is module.mask
    assert answer.told["region"] == R
    assert "mask" not in module.state_dict()  # weights go to other scans, whose detector is another one


def test_single_frames_are_proposed_each_for_itself() -> None:
    module, answer, batch = made(small_config(), masked=True)
    module.loss(batch)
    assert answer.seen is not None
    assert torch.equal(answer.seen, batch.x.reshape(-1, 1, N, N))
    assert answer.told["offsets"].shape == (GROUPS * MEMBERS, 1, 1, 2)
    assert not answer.told["offsets"].any()
    assert answer.told["mask"] is module.mask


@pytest.mark.parametrize(("real", "legacy"), [(0.2, 0.0), (0.0, 0.3), (0.2, 0.3)])
def test_smoothness_of_patches_adds(real: float, legacy: float) -> None:
    rough = small_config()
    smooth = dataclasses.replace(rough, realspace_weight=real, tv_weight=legacy)
    (module, answer, batch), (plain, _, _) = made(smooth), made(rough)
    more = value(module, batch) - value(plain, batch)
    assert more == pytest.approx((real + legacy) * Twin(module, answer, batch).smoothness(), rel=1e-9)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("kind", ["pinn", "supervised"])
def test_labels_add_to_frames_or_take_their_place(kind: Any, weight: float) -> None:
    config = small_config(realspace_mae_weight=weight, equivariance_weight=0.5)
    config.model.model_type = kind
    module, answer, batch = made(config, labels=True)
    twin = Twin(module, answer, batch)
    assert twin.labels is not None
    apart, loss = twin.against(twin.labels, twin.patches), value(module, batch)
    if kind == "supervised":
        assert loss == pytest.approx(apart, rel=1e-9)
    else:
        alone = value(module, Batch(batch.x, batch.offsets, None))
        assert loss - alone == pytest.approx(weight * apart, rel=1e-9, abs=1e-12)


def test_labels_do_not_see_a_patchs_global_phase_and_do_not_move_the_probe() -> None:
    config = small_config(realspace_mae_weight=1.0, probe="trainable")
    config.model.model_type = "supervised"
    module, answer, batch = made(config, labels=True)
    plain = value(module, batch)
    turns = torch.exp(1j * torch.arange(1.0, 1 + GROUPS * MEMBERS, dtype=torch.float64)).view(-1, 1, 1, 1)
    values, answer.answer = answer.answer, answer.answer * turns
    assert value(module, batch) == pytest.approx(plain, rel=1e-12)
    # The turn is an answer and no weight: the gradient is that of fixed turns.
    answer.answer = values.clone().requires_grad_()
    module.loss(batch).backward()  # type: ignore[no-untyped-call]
    assert module.autoencoder.core.probe_pairs.grad is None
    twin = Twin(module, answer, batch)
    assert twin.labels is not None
    overlap = (twin.power * twin.labels * twin.patches.conj()).sum((-2, -1), keepdims=True)
    turn = overlap / np.abs(overlap)
    off = twin.patches * turn - twin.labels
    expected = twin.power * off / np.abs(off) * turn.conj() / twin.power.sum() / (GROUPS * MEMBERS)
    assert answer.answer.grad is not None
    np.testing.assert_allclose(answer.answer.grad.numpy().reshape(expected.shape), expected, atol=1e-14)


def test_a_patch_without_light_is_apart_by_its_label() -> None:
    config = small_config()
    config.model.model_type = "supervised"
    module, answer, batch = made(config, labels=True)
    answer.answer = torch.zeros_like(answer.answer)
    twin = Twin(module, answer, batch)
    assert twin.labels is not None
    expected = (twin.power * np.abs(twin.labels)).sum((-2, -1)).mean() / twin.power.sum()
    assert value(module, batch) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("own", [1.0, 0.4])
def test_the_gradient_is_the_slope_of_the_loss(own: float) -> None:
    """Of patches through their neighbours' merge as well, and of the probe, which also weighs them there."""
    config = small_config(
        probe="trainable", overlap_own=own, nll_weight=0.1, frame_weight=0.3, realspace_weight=0.2
    )
    module, answer, batch = made(config, masked=True)
    pairs, start = module.autoencoder.core.probe_pairs, answer.answer
    answer.answer = start.clone().requires_grad_()
    module.loss(batch).backward()  # type: ignore[no-untyped-call]
    gradients = answer.answer.grad, pairs.grad
    rng, eps, before = np.random.default_rng(9), 1e-6, pairs.detach().clone()
    ways = torch.from_numpy(waves(rng, *start.shape)), torch.from_numpy(rng.standard_normal(pairs.shape))
    for k in range(2):
        ends = []
        for sign in (1, -1):
            answer.answer = start + sign * eps * ways[0] if k == 0 else start
            pairs.data = before + sign * eps * ways[1] if k == 1 else before
            ends.append(value(module, batch))
        gradient = gradients[k]
        assert gradient is not None
        slope = float((gradient.conj() * ways[k]).real.sum())
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-4)


def test_dim_objects_are_compared_as_bright_ones_are() -> None:
    """Also where a product of two of them is next to nothing: the turn is found all the same."""
    config = small_config()
    config.model.model_type = "supervised"
    module, answer, batch = made(config, labels=True)
    assert batch.labels is not None
    plain, answer.answer = value(module, batch), answer.answer * 1e-6j
    dim = value(module, batch._replace(labels=batch.labels * 1e-6))
    assert dim == pytest.approx(1e-6 * plain, rel=1e-9)


def test_frames_move_probe_and_scale_and_counts_stay_data() -> None:
    config = small_config(nll_weight=0.5, probe="trainable", intensity_scale_trainable=True)
    module, answer, batch = made(config)
    core = module.autoencoder.core
    module.loss(batch).backward()  # type: ignore[no-untyped-call]
    for parameter in (core.probe_pairs, core.log_scale):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 1e-3
    # The scale's gradient is that of the rate alone: d/ds (s^2 r - n log(s^2 r)) = 2 (rate - n), s = exp(.)
    twin = Twin(module, answer, batch)
    counts = (twin.x * SCALE) ** 2
    expected = 0.0
    assert config.frame_weight is not None
    for weight, patches in ((1.0, twin.under()), (config.frame_weight, twin.patches)):
        rate = (twin.frames(patches) * SCALE * np.exp(0.3)) ** 2
        expected += weight * 0.5 * float(np.mean(2 * (rate - counts)))
    assert core.log_scale.grad is not None
    assert float(core.log_scale.grad) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("step", range(24))
@pytest.mark.parametrize("overlap", [False, True])
def test_equivariance_is_what_a_moved_prediction_is_off_by(
    overlap: bool, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The move is another one at every step, and the same one whenever a step is taken again."""
    members = MEMBERS if overlap else 1
    weight = 0.5 + step
    config = small_config(overlap=overlap, equivariance_weight=weight, seed=3)
    module, answer, batch = made(config, masked=True, members=members)
    module.steps_before = step % 3  # of the run that this one goes on from
    monkeypatch.setattr(PtychoModule, "global_step", step - step % 3)
    still = PtychoModule(
        module.autoencoder, dataclasses.replace(config, equivariance_weight=0.0), R, module.mask
    )
    extra = value(module, batch)
    assert answer.seen is not None
    seen = answer.seen.numpy()
    assert answer.told["mask"] is module.mask
    assert answer.told["offsets"].shape == (GROUPS * members, 1, 1, 2)
    assert not answer.told["offsets"].any()
    extra -= value(still, batch)
    draw = np.random.default_rng([3, step])
    turns, mirrored = int(draw.integers(4)), bool(draw.integers(2))
    down, right = draw.integers(-N // 8, N // 8 + 1, 2)
    twin = Twin(module, answer, batch)
    moved = np.rot90(twin.patches, turns, (-2, -1))
    moved = np.roll(moved[..., ::-1] if mirrored else moved, (down, right), (-2, -1))
    # It is shown the frames that the moved object makes, and says of them what it said before.
    np.testing.assert_allclose(seen.reshape(moved.shape), twin.frames(moved), atol=1e-6)
    assert extra == pytest.approx(weight * twin.against(moved, twin.patches), rel=1e-7)


@pytest.mark.parametrize("factor", [1.5, 0.0])
def test_equivariance_has_a_gradient_for_both_predictions(factor: float) -> None:
    """And of a copy of which nothing is found, all is missing."""
    config = small_config(overlap=False, equivariance_weight=1.0, mae_weight=0.0)
    module, answer, batch = made(config, members=1)
    first, again = (answer.answer.clone().requires_grad_() for _ in range(2))
    answers = iter((first, again * factor))
    plain = answer.propose

    def propose(*arguments: Any, **more: Any) -> Any:
        answer.answer = next(answers)
        return plain(*arguments, **more)

    answer.propose = propose  # type: ignore[method-assign]
    loss = module.loss(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    for prediction in (first, again)[: 2 if factor else 1]:
        assert prediction.grad is not None
        assert prediction.grad.abs().max() > 1e-6
    if not factor:
        assert float(loss.detach()) > 0.5


def test_equivariance_asks_how_frames_that_are_predicted_change_with_the_object() -> None:
    """What is found in a copy follows from its frames, which follow from what was found before."""
    config = small_config(overlap=False, equivariance_weight=1.0, mae_weight=0.0, seed=5)
    module, answer, batch = made(config, members=1)
    first = answer.answer.clone().requires_grad_()
    base = torch.from_numpy(1 + 0.3 * waves(np.random.default_rng(8), *first.shape))
    plain, calls = answer.propose, [0]

    def propose(x: Any, *arguments: Any, **more: Any) -> Any:
        calls[0] += 1
        answer.answer = first if calls[0] == 1 else base * x
        return plain(x, *arguments, **more)

    answer.propose = propose  # type: ignore[method-assign]
    module.loss(batch).backward()  # type: ignore[no-untyped-call]
    assert calls == [2]
    draw = np.random.default_rng([5, 0])
    turns, mirrored, shift = int(draw.integers(4)), bool(draw.integers(2)), draw.integers(-4, 5, 2)
    twin, known = Twin(module, answer, batch), base.numpy()

    def by_hand(patches: Complex, turn: Complex | None = None) -> tuple[float, Complex]:
        moved = np.rot90(patches, turns, (-2, -1))
        moved = np.roll(moved[..., ::-1] if mirrored else moved, shift, (-2, -1))
        again = known * twin.frames(moved)
        overlap = (twin.power * moved * again.conj()).sum((-2, -1), keepdims=True)
        turn = overlap / np.abs(overlap) if turn is None else turn
        apart = (twin.power * np.abs(again * turn - moved)).sum((-2, -1)).mean() / twin.power.sum()
        return float(apart), turn

    start, eps = first.detach().numpy(), 1e-6
    _, turn = by_hand(start)
    way = waves(np.random.default_rng(9), *start.shape)
    slope = (by_hand(start + eps * way, turn)[0] - by_hand(start - eps * way, turn)[0]) / (2 * eps)
    assert first.grad is not None
    assert float((first.grad.numpy().conj() * way).real.sum()) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("members", [1, MEMBERS])
def test_a_batch_counts_each_of_its_groups_alike(members: int) -> None:
    """The loss of a batch is the mean of those of its groups; so several processes may share one."""
    config = small_config(nll_weight=0.1, overlap=members > 1, realspace_weight=0.1)
    module, answer, batch = made(config, masked=True, members=members)
    whole, values = value(module, batch), answer.answer
    each = []
    for g in range(GROUPS):
        answer.answer = values[g * members : (g + 1) * members]
        each.append(value(module, Batch(batch.x[g : g + 1], batch.offsets[g : g + 1], None)))
    assert np.mean(each) == pytest.approx(whole, rel=1e-12)
