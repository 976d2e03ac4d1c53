"""Crop and assemble: adjoint, exact where they must be, and differentiable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.errors import DataError
from ptycho_torch.physics.patches import assemble, crop, merge, merged_under, region_size

cases = given(
    size=st.integers(2, 6).map(lambda n: 2 * n),
    groups=st.integers(1, 2),
    members=st.integers(1, 4),
    reach=st.floats(0, 6),
    seed=st.integers(0, 2**31),
)


def draw(
    size: int, groups: int, members: int, reach: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    generator = torch.Generator().manual_seed(seed)
    offsets = (torch.rand(groups, members, 2, generator=generator, dtype=torch.float64) * 2 - 1) * reach
    side = region_size(offsets, size)
    region = torch.randn(groups, side, side, generator=generator, dtype=torch.complex128)
    return region, offsets, side


@settings(max_examples=40, deadline=None)
@cases
def test_crop_and_assemble_are_adjoint(size: int, groups: int, members: int, reach: float, seed: int) -> None:
    region, offsets, side = draw(size, groups, members, reach, seed)
    patches = torch.randn(groups, members, size, size, dtype=torch.complex128)
    left = torch.vdot(patches.flatten(), crop(region, offsets, size).flatten())
    right = torch.vdot(assemble(patches, offsets, side).flatten(), region.flatten())
    torch.testing.assert_close(left, right)


@settings(max_examples=30, deadline=None)
@given(x=st.integers(-5, 5), y=st.integers(-5, 5), size=st.integers(2, 6).map(lambda n: 2 * n))
def test_whole_offsets_are_plain_slices(x: int, y: int, size: int) -> None:
    side = size + 16
    region = torch.randn(1, side, side, dtype=torch.complex128)
    patch = crop(region, torch.tensor([[[float(x), float(y)]]], dtype=torch.float64), size)[0, 0]
    top, left = side // 2 - size // 2 + y, side // 2 - size // 2 + x
    torch.testing.assert_close(patch, region[0, top : top + size, left : left + size], rtol=0, atol=0)


@settings(max_examples=30, deadline=None)
@given(x=st.floats(-3, 3), y=st.floats(-3, 3))
def test_quadratics_are_interpolated_exactly(x: float, y: float) -> None:
    side, size = 32, 8
    axis = torch.arange(side, dtype=torch.float64) - side // 2

    def surface(xs: torch.Tensor, ys: torch.Tensor) -> torch.Tensor:
        return 1 + 0.5 * xs - 0.25 * ys + 0.1 * xs**2 + 0.2 * ys**2 + 0.3 * xs * ys

    region = surface(axis[None, :], axis[:, None])[None]
    inner = torch.arange(size, dtype=torch.float64) - size // 2
    expected = surface(inner[None, :] + x, inner[:, None] + y)
    found = crop(region, torch.tensor([[[x, y]]], dtype=torch.float64), size)[0, 0]
    torch.testing.assert_close(found, expected)


@settings(max_examples=20, deadline=None)
@cases
def test_merging_crops_of_one_object_gives_it_back(
    size: int, groups: int, members: int, reach: float, seed: int
) -> None:
    _, offsets, side = draw(size, groups, members, reach, seed)
    flat = torch.full((groups, side, side), 2.0 - 1.0j, dtype=torch.complex128)
    weight = torch.ones(size, size, dtype=torch.float64)
    merged = merge(crop(flat, offsets.round(), size), weight, offsets.round(), side, eps=1e-9)
    covered = (
        assemble(torch.ones(groups, members, size, size, dtype=torch.float64), offsets.round(), side) > 0.5
    )
    torch.testing.assert_close(merged[covered], flat[covered], rtol=1e-6, atol=1e-6)


def test_gradients_pass_gradcheck() -> None:
    region = torch.randn(1, 8, 8, dtype=torch.complex128, requires_grad=True)
    offsets = torch.tensor([[[0.3, -0.6], [-1.2, 0.9]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r: crop(r, offsets, 4), (region,))
    patches = torch.randn(1, 2, 4, 4, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda p: merge(p, torch.ones(4, 4, dtype=torch.float64), offsets, 8), (patches,)
    )


def test_region_holds_every_patch_and_its_margin() -> None:
    assert region_size(torch.zeros(1, 1, 2), 64) == 64
    assert region_size(torch.tensor([[[2.0, -2.0]]]), 64) == 72
    reach = 5.25
    side = region_size(torch.tensor([[[reach, 0.0]]]), 10)
    assert side // 2 + 10 - 10 // 2 - 1 + reach + 2 <= side - 1
    assert side // 2 - 10 // 2 - reach - 2 >= 0


def test_wrong_offsets_are_named() -> None:
    with pytest.raises(DataError, match=r"expected shape \(B, C, 2\)"):
        crop(torch.zeros(1, 8, 8), torch.zeros(1, 2), 4)


def test_result_does_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(0)
    region = torch.from_numpy(rng.standard_normal((5, 24, 24)))
    offsets = torch.from_numpy(rng.uniform(-2, 2, (5, 3, 2)))
    whole = crop(region, offsets, 12)
    parts = torch.cat([crop(region[i : i + 1], offsets[i : i + 1], 12) for i in range(5)])
    torch.testing.assert_close(whole, parts)


def _group(seed: int = 0, whole: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(2, 4, 12, 12, generator=generator, dtype=torch.complex128)
    offsets = torch.rand(2, 4, 2, generator=generator, dtype=torch.float64) * 6 - 3
    weight = torch.rand(12, 12, generator=generator, dtype=torch.float64) + 0.1
    return patches, weight, offsets.round() if whole else offsets


def test_the_whole_share_is_the_merge() -> None:
    patches, weight, offsets = _group(whole=True)
    expected = crop(merge(patches, weight, offsets, 24), offsets, 12)
    torch.testing.assert_close(merged_under(patches, weight, offsets, 24), expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), member=st.integers(0, 3))
def test_without_its_own_share_a_member_is_what_its_neighbours_say(seed: int, member: int) -> None:
    patches, weight, offsets = _group(seed)
    before = merged_under(patches, weight, offsets, 24, own=0.0)
    patches[:, member] = 100.0
    after = merged_under(patches, weight, offsets, 24, own=0.0)
    torch.testing.assert_close(after[:, member], before[:, member], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(after, before)


def test_members_that_agree_agree_with_any_share() -> None:
    _, weight, offsets = _group()
    same = torch.full((2, 4, 12, 12), 0.5 + 0.2j, dtype=torch.complex128)
    inner = slice(5, 7)  # under all members, whatever the offsets
    for own in (1.0, 0.5, 0.1):
        found = merged_under(same, weight, offsets, 24, own=own, eps=0.0)[..., inner, inner]
        torch.testing.assert_close(found, same[..., inner, inner])


def test_the_region_goes_by_the_farthest_patch_to_any_side() -> None:
    assert (
        region_size(torch.tensor([[[1.0, -9.0]]]), 64) == region_size(torch.tensor([[[1.0, 9.0]]]), 64) == 88
    )
    assert region_size(torch.zeros(0, 2), 64) == 64


def test_the_norm_is_never_below_the_least_share() -> None:
    """Shifted weights dip below zero beside an edge; no merged value may exceed its sum over eps for that."""
    offsets = torch.full((1, 1, 2), 0.5, dtype=torch.float64)
    weight = torch.zeros(8, 8, dtype=torch.float64)
    weight[2:6, 2:6] = 1.0
    patches = torch.ones(1, 1, 8, 8, dtype=torch.complex128)
    total = assemble(patches * weight, offsets, 16)
    assert total.real.min() < -0.01
    for eps in (1e-3, 0.0625, 0.0703125):  # the last ones are what the lobes have
        bound = total.abs() / (eps * weight.max()) * (1 + 1e-9) + 1e-12
        assert (merge(patches, weight, offsets, 16, eps=eps).abs() <= bound).all()
        under = merged_under(patches, weight, offsets, 16, own=1.0, eps=eps)
        assert (
            under.abs() <= crop(total, offsets, 8).abs() / (eps * weight.max()) * (1 + 1e-9) + 1e-12
        ).all()
