"""Parts of a batch of regions: the frames of some of them, and gradients that add up whoever computes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ptycho_torch.generators.region_frames import RegionFrames
from ptycho_torch.generators.region_solver import RegionSolver, RegionState
from ptycho_torch.processes import ALONE, Group
from ptycho_torch.training.sharing import backward, dealt, own_parts, regions_of

OWNER = [2, 0, 1, 2, 2, 0, 3, 1, 0]


def frames(**changes: object) -> RegionFrames:
    """Nine frames of four regions; every number of a frame or region says whose it is."""
    count = len(OWNER)
    each, whole = torch.arange(1.0, 1 + count), torch.arange(1.0, 5.0)
    given = RegionFrames(
        each[:, None, None].expand(count, 8, 8).clone(),
        torch.stack([torch.arange(count) % 5, torch.arange(count) % 3], 1),
        torch.stack([each / 100, -each / 50], 1),
        whole[:, None, None, None].expand(4, 2, 8, 8) + 0j,
        (16, 20),
        torch.tensor(OWNER),
    )
    return dataclasses.replace(given, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("chosen", [[1, 3], [0, 1, 2, 3], [2], [0, 2, 3]], ids=str)
def test_the_frames_of_some_regions_are_theirs_alone(chosen: list[int]) -> None:
    subsets = tuple(map(torch.tensor, ([8, 0, 2, 6], [1, 7], [3, 4, 5])))
    own = torch.arange(len(OWNER)) % 2 == 0
    lag, noise = torch.rand(4, 16, 20), torch.rand(4)
    good = torch.rand(8, 8) < 0.5
    everything = frames(subsets=subsets, noise=noise, own=own, lag=lag, good=good, part_of=2.5)
    part = regions_of(everything, torch.tensor(chosen))
    kept = [m for m, owner in enumerate(OWNER) if owner in chosen]
    for name in ("amplitudes", "corners", "fractions", "own"):
        assert torch.equal(getattr(part, name), getattr(everything, name)[kept]), name
    for name in ("probe", "noise", "lag"):
        assert torch.equal(getattr(part, name), getattr(everything, name)[chosen]), name
    assert part.owner.tolist() == [chosen.index(OWNER[m]) for m in kept]
    assert part.owner.dtype == torch.int64
    assert part.subsets is not None
    assert [s.tolist() for s in part.subsets] == [
        [kept.index(m) for m in s if m in kept] for s in subsets_of()
    ]
    assert part.shape == everything.shape
    assert part.part_of == 2.5
    assert part.good is good


def subsets_of() -> list[list[int]]:
    return [[8, 0, 2, 6], [1, 7], [3, 4, 5]]


def test_what_is_not_known_of_the_batch_is_not_known_of_a_part() -> None:
    part = regions_of(frames(), torch.tensor([0, 2]))
    assert part.noise is part.subsets is part.own is part.lag is part.good is None


def test_parts_are_dealt_as_the_batch_is() -> None:
    """Also where a part alone would be dealt otherwise: how many subsets there are, all regions decide."""
    torch.manual_seed(0)
    solver = RegionSolver(iterations=1, passes=1, width=8, levels=1)
    everything = frames()
    told = dealt(solver, everything)
    wanted = RegionState(solver, everything).subsets
    assert told.subsets is not None
    assert len(told.subsets) == len(wanted) > 0
    assert all(torch.equal(a, b) for a, b in zip(told.subsets, wanted, strict=True))
    assert dataclasses.replace(told, subsets=None) == dataclasses.replace(everything, subsets=None)
    assert not any(s.requires_grad for s in told.subsets)


# ---------------------------------------------------------------- gradients
class Weights(nn.Module):
    """Two weights, of which the second one counts for some regions alone, and one that nothing needs."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.tensor([2.0, -3.0]))
        self.some = nn.Parameter(torch.tensor([[0.5]]))
        self.idle = nn.Parameter(torch.ones(4))


def law(model: Weights, values: Tensor, asked: list[list[int]] | None = None) -> Callable[[Tensor], Tensor]:
    """Mean over regions of ``v (w_0 + w_1^2 / 10)``, and of region 5 also ``v s^2``."""

    def loss(regions: Tensor) -> Tensor:
        if asked is not None:
            asked.append(regions.tolist())
        v = values[regions]
        each = v * (model.one[0] + model.one[1].square() / 10)
        if 5 in regions.tolist():
            each = each + torch.where(regions == 5, v * model.some.square().sum(), 0)
        return each.mean()

    return loss


@pytest.mark.parametrize("count", [1, 3, 4, 5, 6, 11])
@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_the_gradient_is_that_of_the_mean_over_all_regions(
    count: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.from_numpy(np.random.default_rng(count).uniform(-1, 1, count).astype(np.float32))
    mean, model = float(values.double().mean()), Weights()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 99.0)  # of the step before
    sums: list[Tensor] = []
    monkeypatch.setattr(Group, "total", lambda group, value: sums.append(value) or value)  # type: ignore[func-returns-value]
    if processes > 1:
        for rank in range(processes):
            backward(law(model, values), count, model, Group(rank, processes))
        monkeypatch.setattr(Group, "total", lambda group, value: torch.stack(sums).sum(0))
    found = backward(law(model, values), count, model, Group(processes - 1, processes))
    assert found.dtype == torch.float32
    extra = float(values[5]) / count if count > 5 else 0.0
    assert float(found) == pytest.approx(mean * (2 + 0.9) + extra * 0.25, rel=1e-6, abs=1e-7)
    assert model.one.grad is not None
    assert model.one.grad.dtype == torch.float32
    np.testing.assert_allclose(model.one.grad.numpy(), [mean, mean * -0.6], rtol=1e-6, atol=1e-7)
    assert model.idle.grad is None
    if count > 5:
        assert model.some.grad is not None
        np.testing.assert_allclose(model.some.grad.numpy(), [[extra]], rtol=1e-6)
    else:
        assert model.some.grad is None


def test_sums_are_wide_so_that_their_order_does_not_show() -> None:
    """In single precision the middle one of three parts would be lost beside the first."""
    model = Weights()
    values = torch.tensor([1e8, 1e8, 1.0, 1.0, -1e8, -1e8, 0.0, 0.0])
    found = backward(lambda regions: (values[regions] * model.one[0]).mean(), 8, model, ALONE)
    assert model.one.grad is not None
    assert model.one.grad[0] == 2 / 8
    assert float(found) == 4 / 8  # times a weight of 2


def test_on_a_cpu_a_batch_is_gone_through_in_four_parts_and_elsewhere_at_once() -> None:
    asked: list[list[int]] = []
    model, values = Weights(), torch.ones(10)
    backward(law(model, values, asked), 10, model, ALONE)
    assert asked == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    there = Weights().to("meta")
    parts: list[int] = []

    def loss(regions: Tensor) -> Tensor:
        parts.append(len(regions))
        return there.one.sum()

    found = backward(loss, 10, there, ALONE)
    assert parts == [10]
    assert found.device.type == "meta"
    assert there.one.grad is not None
    assert there.some.grad is None


def test_without_regions_there_are_no_parts() -> None:
    assert own_parts(0, Group(1, 2)) == []
    assert [p.tolist() for p in own_parts(5, ALONE)] == [[0, 1, 2, 3, 4]]
    assert [p.tolist() for p in own_parts(5, Group(2, 3))] == [[4]]
    assert own_parts(5, Group(0, 2), 4)[0].dtype == torch.int64
