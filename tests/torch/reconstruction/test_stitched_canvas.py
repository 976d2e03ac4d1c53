"""The canvas from inside: which patches are compared with what, what is remembered, parts of a batch, its bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ptycho_torch.errors import DataError
from ptycho_torch.reconstruction import stitching
from ptycho_torch.reconstruction.stitching import Canvas

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]
Stitched = tuple[NDArray[np.complex64], NDArray[np.float32]]


def rough(height: int, width: int, seed: int = 0) -> Complex:
    """No two pixels are alike: one row read elsewhere shows."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(height, width)) + 1j * rng.normal(size=(height, width))


def crops(whole: Complex, corners: NDArray[np.int64], size: int, turns: Complex | None = None) -> Complex:
    found = np.stack([whole[y : y + size, x : x + size] for x, y in corners])
    return found if turns is None else found * turns[:, None, None]


def random_turns(count: int, seed: int = 0) -> Complex:
    found: Complex = np.exp(1j * np.random.default_rng(seed).uniform(-np.pi, np.pi, count))
    return found


def stitched(
    patches: Complex, corners: NDArray[np.int64], batches: list[int], weight: Any = None, **more: Any
) -> tuple[NDArray[np.complex64], NDArray[np.float32], Canvas]:
    size = patches.shape[-1]
    places = corners + size // 2.0
    canvas = Canvas(places, size, weight, **more)
    start = 0
    for count in batches:
        part = torch.from_numpy(patches[start : start + count, None]).to(torch.complex64)
        canvas.add(part, places[start : start + count, None])
        start += count
    assert start == len(patches)
    return (*canvas.finish(), canvas)


def off(obj: NDArray[np.complex64], whole: Complex) -> float:
    """Largest difference from the truth up to one global phase, where anything is known."""
    known = obj != 0
    right = whole[: obj.shape[0], : obj.shape[1]]
    turn = np.vdot(obj[known], right[known])
    return float(np.abs(obj * turn / abs(turn) - right)[known].max())


def scattered(count: int, reach: tuple[int, int], seed: int = 0) -> NDArray[np.int64]:
    """Corners (x, y) near each other, the first at the origin and the last the furthest."""
    rng = np.random.default_rng(seed)
    inner = rng.integers((0, 0), np.array(reach) + 1, (count - 2, 2))
    return np.concatenate([[[0, 0]], inner, [reach]]).astype(np.int64)


@pytest.mark.parametrize("size", [24, 31, 32, 33])
@pytest.mark.parametrize("batches", [[14], [5, 9], [1] * 14], ids=str)
def test_rough_patches_are_turned_exactly_however_they_lie(size: int, batches: list[int]) -> None:
    """From 32 pixels on every second one is compared, of patches whose distance may be odd."""
    corners = scattered(14, (17, 9))
    whole = rough(80, 80)
    obj, _, _ = stitched(crops(whole, corners, size, random_turns(14)), corners, batches)
    assert off(obj, whole) < 1e-4


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("batches", [[6], [2, 2, 2]], ids=str)
def test_light_says_which_patches_overlap_along_each_axis(axis: int, batches: list[int]) -> None:
    """A bar of light along one axis: neighbours along it share half of it, and across it none at all."""
    size = 24
    weight = np.zeros((size, size))
    bar = [slice(None), slice(10, 14)] if axis else [slice(10, 14), slice(None)]
    weight[tuple(bar)] = 1
    along = np.arange(6) * 12
    corners = np.stack([0 * along, along] if axis else [along, 0 * along], 1)
    whole = rough(90, 90)
    turns = random_turns(6)
    obj, _, _ = stitched(crops(whole, corners, size, turns), corners, batches, weight)
    assert off(obj, whole) < 1e-4
    # Put side by side across the bar, nothing says anything, and each keeps its phase.
    apart = corners[:, ::-1]
    plain, turned = (
        stitched(crops(whole, apart, size, turns), apart, batches, weight, align=flag)[0]
        for flag in (False, True)
    )
    assert np.array_equal(plain, turned)


def test_a_batch_of_many_is_gone_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    corners, whole = scattered(14, (17, 9)), rough(80, 80)
    values = crops(whole, corners, 24, random_turns(14))
    plain = stitched(values, corners, [14], align=False)
    monkeypatch.setattr(stitching, "_PART", 4)
    parts = stitched(values, corners, [14], align=False)
    assert np.allclose(parts[0], plain[0], atol=1e-5)
    assert np.allclose(parts[1], plain[1])
    assert off(stitched(values, corners, [14])[0], whole) < 1e-4


# ---------------------------------------------------------------- what is remembered
class Watched:
    """What was compared, of every batch: pairs and their products."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pairs: list[NDArray[np.int64]] = []
        self.inner: list[int] = []
        plain: Callable[..., Any] = stitching.synchronise
        inner: Callable[..., Any] = Canvas._inner_links

        def synchronise(count: int, pairs: NDArray[np.int64], products: Complex) -> Any:
            self.pairs.append(pairs)
            return plain(count, pairs, products)

        def inner_links(canvas: Canvas, part: Any) -> Any:
            self.inner.append(len(self.pairs))
            return inner(canvas, part)

        monkeypatch.setattr(stitching, "synchronise", synchronise)
        monkeypatch.setattr(Canvas, "_inner_links", inner_links)


def agreeing(batches: int, each: int = 6) -> tuple[Complex, NDArray[np.int64]]:
    corners = np.concatenate([scattered(each, (17, 9), seed=k) for k in range(batches)])
    return crops(rough(80, 80), corners, 24), corners


def test_patches_of_a_batch_are_compared_until_enough_have_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    values, corners = agreeing(8)
    stitched(values, corners, [6] * 8)
    counts = [len(pairs) for pairs in watched.pairs]
    asked = [sum(counts[:k]) < 32 for k in range(8)]
    assert watched.inner == [k for k in range(8) if asked[k]]
    assert 2 <= sum(asked) < 8
    # The canvas is node 0 and each patch is compared with it, but for those of the first batch.
    assert not (watched.pairs[0] == 0).any()
    for pairs in watched.pairs[1:]:
        assert [b for a, b in pairs if a == 0] == [1, 2, 3, 4, 5, 6]
    for pairs in watched.pairs:
        assert (pairs[:, 0] < pairs[:, 1]).all()


def test_a_batch_that_disagrees_with_the_canvas_is_compared_within_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(monkeypatch)
    values, corners = agreeing(8)
    values[36:42] *= random_turns(6)[:, None, None]
    stitched(values, corners, [6] * 8)
    assert 6 in watched.inner
    assert 5 not in watched.inner


def test_agreement_fades_over_what_was_compared_since(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    values, corners = agreeing(3)
    agreed = compared = 2.0
    for batches in (1, 2, 3):
        watched.pairs.clear()
        _, _, canvas = stitched(values[: 6 * batches], corners[: 6 * batches], [6] * batches)
        agreed = compared = 2.0
        for pairs in watched.pairs:
            agreed = compared = np.exp(-len(pairs) / 128) * compared + len(pairs)
        # Crops of one object agree wholly, so that each comparison counts one for either sum.
        assert canvas._agreed == pytest.approx(agreed, rel=1e-5)
        assert canvas._compared == pytest.approx(compared, rel=1e-5)
    # Turned by a quarter against each other they count, and do not agree.
    values[::2] *= 1j
    _, _, canvas = stitched(values[:2], corners[:2], [1, 1])
    fading = np.exp(-1 / 128)
    assert canvas._compared == pytest.approx(2 * fading + 1, rel=1e-5)
    assert canvas._agreed == pytest.approx(2 * fading, abs=1e-5)


def test_patches_that_disagree_a_little_stay_and_those_that_disagree_much_are_all_turned() -> None:
    corners, whole = scattered(40, (17, 9)), rough(80, 80)
    sides = np.where(np.arange(40) % 2, 0.5, -0.5)
    for amount in (0.35, 0.75):
        values = crops(whole, corners, 24, np.exp(1j * amount * sides))
        plain, turned = (stitched(values, corners, [40], align=flag)[0] for flag in (False, True))
        assert np.array_equal(plain, turned) == (amount < 0.5)
        assert (off(turned, whole) < 1e-4) == (amount > 0.5)


# ---------------------------------------------------------------- what is believed
def both_ways(values: Complex, corners: NDArray[np.int64], batches: list[int]) -> list[NDArray[np.complex64]]:
    return [stitched(values, corners, batches, align=flag)[0] for flag in (False, True)]


@pytest.mark.parametrize("batches", [[2], [1, 1]], ids=str)
@pytest.mark.parametrize("columns", [1, 2])
def test_a_twentieth_of_a_patch_is_enough_of_an_overlap(columns: int, batches: list[int]) -> None:
    """Of 24 columns two are, and one is not."""
    corners, whole = np.array([[0, 0], [24 - columns, 0]]), rough(24, 50)
    values = crops(whole, corners, 24, np.exp(1j * np.array([0, 2.0])))
    plain, turned = both_ways(values, corners, batches)
    assert np.array_equal(plain, turned) == (columns == 1)
    assert (off(turned, whole) < 1e-4) == (columns == 2)


@pytest.mark.parametrize("batches", [[2], [1, 1]], ids=str)
@pytest.mark.parametrize("common", [0.15, 0.45])
def test_patches_need_three_tenths_in_common(common: float, batches: list[int]) -> None:
    one, noise = rough(24, 24), rough(24, 24, seed=1)
    for share in np.linspace(0, 1, 200):
        two = share * one + (1 - share) * noise
        coherence = abs(np.vdot(one, two)) / np.sum(np.abs(one) * np.abs(two))
        if coherence > common:
            break
    assert coherence == pytest.approx(common, abs=0.03)
    turn = np.exp(2j) / np.sign(np.vdot(one, two))
    plain, turned = both_ways(np.stack([one, two * turn]), np.zeros((2, 2), np.int64), batches)
    assert np.array_equal(plain, turned) == (common < 0.3)
    if common > 0.3:
        aligned = (one + two * np.exp(-1j * np.angle(np.vdot(one, two)))) / 2
        assert off(turned, aligned) < 1e-4


@pytest.mark.parametrize("amount", [0.4, 0.8])
def test_one_among_many_is_turned_back_from_half_a_radian(amount: float) -> None:
    corners, whole = scattered(40, (17, 9)), rough(80, 80)
    turns = np.ones(40, complex)
    turns[17] = np.exp(1j * amount)
    plain, turned = both_ways(crops(whole, corners, 24, turns), corners, [40])
    assert np.array_equal(plain, turned) == (amount < 0.5)
    assert (off(turned, whole) < 1e-3) == (amount > 0.5)


# ---------------------------------------------------------------- bounds
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_position_outside_is_refused_on_every_side_and_the_outermost_is_not(axis: int, sign: int) -> None:
    places = np.array([[0.0, 0.0], [7.25, 5.5]])
    canvas = Canvas(places, 8)
    patch = torch.ones(1, 1, 8, 8, dtype=torch.complex64)
    for place in places:
        canvas.add(patch, place[None, None])
    outside = places[1 if sign > 0 else 0].copy()
    outside[axis] += sign
    with pytest.raises(DataError, match="found one outside them"):
        canvas.add(patch, outside[None, None])


def test_shapes_that_do_not_fit_are_refused_one_by_one() -> None:
    canvas = Canvas(np.zeros((1, 2)), 8)
    good, place = torch.zeros(1, 1, 8, 8, dtype=torch.complex64), np.zeros((1, 1, 2))
    for wrong in (good[0], good[..., :7, :], good[..., :7], good.real, good[None]):
        with pytest.raises(DataError, match="patches: expected complex"):
            canvas.add(wrong, place)
    for at in (np.zeros((1, 2)), np.zeros((1, 2, 2)), np.zeros((2, 1, 2))):
        with pytest.raises(DataError, match="positions: expected"):
            canvas.add(good, at)
    with pytest.raises(DataError, match=r"positions: expected finite \(x, y\)"):
        canvas.add(good, np.zeros((1, 1, 3)))
    with pytest.raises(DataError, match=r"positions: expected finite \(x, y\)"):
        Canvas(np.zeros((4, 3)), 8)


def test_light_without_bound_is_refused() -> None:
    weight = np.ones((8, 8))
    weight[3, 4] = np.inf
    with pytest.raises(DataError, match="weight: expected finite values"):
        Canvas(np.zeros((1, 2)), 8, weight)


@pytest.mark.parametrize("size", [2, 3])
def test_cubic_sampling_needs_three_pixels(size: int) -> None:
    canvas = Canvas(np.zeros((1, 2)), size)
    patch = torch.ones(1, 1, size, size, dtype=torch.complex64)
    if size < 3:
        with pytest.raises(DataError, match="at least 3 pixels"):
            canvas.add(patch, np.zeros((1, 1, 2)))
    else:
        canvas.add(patch, np.zeros((1, 1, 2)))
        assert np.array_equal(canvas.finish()[0], np.ones((3, 3)))


def test_a_canvas_is_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three planes of four bytes a pixel: 10 by 15 pixels are 1800 bytes."""
    places = np.array([[0.0, 0.0], [2.0, 7.0]])
    monkeypatch.setattr(stitching, "memory_limit", lambda: 1800)
    assert Canvas(places, 8).shape == (15, 10)
    monkeypatch.setattr(stitching, "memory_limit", lambda: 1799)
    with pytest.raises(DataError, match="one of 15 x 10 pixels"):
        Canvas(places, 8)


@pytest.mark.parametrize("level", [0.7, 1.4])
def test_less_than_a_thousandth_of_the_light_is_nothing(level: float) -> None:
    weight = np.ones((8, 8)) * 40
    weight[2, 3] = level * 0.04
    obj, light, _ = stitched(np.full((1, 8, 8), 2 - 1j), np.zeros((1, 2), np.int64), [1], weight)
    assert obj[2, 3] == pytest.approx(2 - 1j if level > 1 else 0)
    assert light[2, 3] == pytest.approx(level * 0.04)
    assert light[0, 0] == pytest.approx(40)
    obj[2, 3] = 2 - 1j
    np.testing.assert_allclose(obj, 2 - 1j, rtol=1e-6)


def test_a_canvas_that_goes_on_after_it_was_finished() -> None:
    values, corners = agreeing(2)
    _, _, canvas = stitched(values, corners, [6, 6])
    whole = canvas.finish()
    places = corners + 12.0
    again = Canvas(places, 24)
    for start in (0, 6):
        again.add(
            torch.from_numpy(values[start : start + 6, None]).to(torch.complex64),
            places[start : start + 6, None],
        )
        found = again.finish()
    assert all(np.array_equal(a, b) for a, b in zip(found, whole, strict=True))
