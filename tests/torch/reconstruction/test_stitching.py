from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ptycho_torch.errors import DataError
from ptycho_torch.reconstruction.stitching import Canvas
from ptycho_torch.reconstruction.stitching import _self_overlap as self_overlap

SIZE = 24


def smooth(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.complex128]:
    return (1 + 0.3 * np.sin(x / 7) * np.cos(y / 9)) * np.exp(0.5j * np.cos(x / 11 + y / 8))


def patches_at(positions: NDArray[np.float64], size: int = SIZE) -> NDArray[np.complex128]:
    i = np.arange(size) - size // 2
    return smooth(positions[:, 0, None, None] + i[None, None], positions[:, 1, None, None] + i[None, :, None])


def bell(size: int = SIZE) -> NDArray[np.float64]:
    i = np.arange(size) - size // 2
    return 5 * np.exp(-(i[:, None] ** 2 + i**2) / (size / 5) ** 2)


def grid(step: float = 5, count: int = 8, jitter: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
    axis = np.arange(count) * step
    at = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    return at + np.random.default_rng(seed).uniform(-jitter, jitter, at.shape)


def stitch(
    patches: NDArray[np.complex128],
    positions: NDArray[np.float64],
    batch: int = 16,
    weight: NDArray[np.float64] | None = None,
    align: bool = True,
) -> tuple[NDArray[np.complex64], NDArray[np.float32], Canvas]:
    canvas = Canvas(positions, patches.shape[-1], weight, align=align)
    for start in range(0, len(positions), batch):
        part = torch.from_numpy(patches[start : start + batch, None]).to(torch.complex64)
        canvas.add(part, positions[start : start + batch, None])
    return (*canvas.finish(), canvas)


def truth(canvas: Canvas) -> NDArray[np.complex128]:
    x, y = canvas.origin_xy
    return smooth(x + np.arange(canvas.shape[1])[None], y + np.arange(canvas.shape[0])[:, None])


def error_up_to_phase(obj: NDArray[np.complex64], canvas: Canvas) -> float:
    known, right = obj != 0, truth(canvas)
    turn = np.vdot(obj[known], right[known])
    return float(np.abs(obj[known] * turn / abs(turn) - right[known]).max())


@pytest.mark.parametrize("weight", [None, bell()])
@pytest.mark.parametrize("shift", [(0, 0), (-37, 1000)])
def test_crops_at_whole_pixels_give_the_object_back(
    weight: NDArray[np.float64] | None, shift: tuple[int, int]
) -> None:
    at = grid() + np.array(shift)
    obj, _, canvas = stitch(patches_at(at), at, weight=weight)
    known = obj != 0
    assert known.mean() > 0.9
    assert np.abs(obj - truth(canvas))[known].max() < 2e-6
    assert obj.dtype == np.complex64


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_crops_at_any_place_give_the_object_back(seed: int, flat: bool) -> None:
    at = grid(jitter=2.5, seed=seed)
    obj, _, canvas = stitch(patches_at(at), at, weight=None if flat else bell())
    known = obj != 0
    assert np.abs(obj - truth(canvas))[known].max() < 5e-4


def test_a_quadratic_is_exact_between_pixels_up_to_the_edge() -> None:
    at = np.array([[10.3, 20.7]])
    i = np.arange(SIZE) - SIZE // 2
    x, y = at[0, 0] + i[None], at[0, 1] + i[:, None]
    obj, weight, canvas = stitch(((x - 8) ** 2 + 1j * (x - 5) * (y - 20) + 0 * y)[None], at)
    assert obj.shape == (SIZE, SIZE)
    cx, cy = canvas.origin_xy[0] + np.arange(SIZE)[None], canvas.origin_xy[1] + np.arange(SIZE)[:, None]
    # The window covers whole pixels but for one row and one column.
    assert np.allclose(obj[:-1, :-1], ((cx - 8) ** 2 + 1j * (cx - 5) * (cy - 20))[:-1, :-1], atol=2e-4)
    assert np.allclose(weight[:-1, :-1], 1, atol=1e-5)
    assert not obj[-1].any()
    assert not obj[:, -1].any()


def test_convention_of_the_origin() -> None:
    at = np.array([[100.0, 40.0], [103.0, 41.0]])
    patch = np.zeros((2, SIZE, SIZE), complex)
    patch[:, SIZE // 2, SIZE // 2] = 1
    obj, weight, canvas = stitch(patch, at)
    x, y = canvas.origin_xy
    found = {(float(x + j), float(y + i)) for i, j in np.argwhere(np.abs(obj) > 0)}
    assert found == {(100.0, 40.0), (103.0, 41.0)}
    assert weight.shape == (SIZE + 1, SIZE + 3) == canvas.shape
    assert canvas.origin_xy.dtype == np.float64


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 64), st.integers(0, 1000))
def test_the_split_into_batches_does_not_matter_where_phases_agree(one: int, other: int, seed: int) -> None:
    at = grid(jitter=2, seed=seed)
    rng = np.random.default_rng(seed)
    values = patches_at(at) * np.exp(0.05j * rng.normal(size=len(at)))[:, None, None]
    values = values + 0.05 * rng.normal(size=values.shape)
    first, weight, _ = stitch(values, at, one, bell())
    second, weight2, _ = stitch(values, at, other, bell())
    assert np.allclose(first, second, atol=2e-5)
    assert np.allclose(weight, weight2, rtol=1e-5, atol=1e-6)


def test_channels_of_a_group_are_patches_like_any_other() -> None:
    at = grid(jitter=2)
    values = torch.from_numpy(patches_at(at)).to(torch.complex64)
    single, grouped = Canvas(at, SIZE, bell()), Canvas(at, SIZE, bell())
    single.add(values[:, None], at[:, None])
    grouped.add(values.view(16, 4, SIZE, SIZE), torch.from_numpy(at.reshape(16, 4, 2)))
    for a, b in zip(single.finish(), grouped.finish(), strict=True):
        assert np.array_equal(a, b)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 64))
def test_agreeing_patches_are_not_touched(seed: int, batch: int) -> None:
    """Bit for bit the same as without alignment."""
    at = grid(jitter=2, seed=seed)
    rng = np.random.default_rng(seed)
    values = patches_at(at) * np.exp(1j * rng.uniform(-0.2, 0.2, len(at)))[:, None, None]
    aligned, plain = (stitch(values, at, batch, bell(), align=flag)[0] for flag in (True, False))
    assert np.array_equal(aligned, plain)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(8, 64))
def test_random_phases_are_aligned(seed: int, batch: int) -> None:
    at = grid(jitter=2, seed=seed)
    turns = np.exp(1j * np.random.default_rng(seed).uniform(-np.pi, np.pi, len(at)))
    obj, _, canvas = stitch(patches_at(at) * turns[:, None, None], at, batch, bell())
    assert error_up_to_phase(obj, canvas) < 1e-3


def test_phases_are_aligned_unless_that_is_refused() -> None:
    at = grid(jitter=2)
    values = torch.from_numpy(patches_at(at) * np.exp(1j * np.arange(len(at)))[:, None, None])
    canvas = Canvas(at, SIZE, bell())
    canvas.add(values.to(torch.complex64)[:, None], at[:, None])
    assert error_up_to_phase(canvas.finish()[0], canvas) < 1e-3


@pytest.mark.parametrize("size", [7, 8])
def test_a_patch_overlaps_itself_wholly_and_others_by_what_they_share(size: int) -> None:
    flat = self_overlap(np.ones((size, size)))
    lag = np.abs(np.arange(1 - size, size))
    assert np.allclose(flat, np.outer(size - lag, size - lag) / size**2)
    assert self_overlap(bell(size)).max() == pytest.approx(1)


def test_patches_of_rough_objects_are_turned_exactly() -> None:
    """Overlaps are compared pixel by pixel: one row read elsewhere would show in phases without smoothness."""
    rng = np.random.default_rng(0)
    at = grid()
    whole = rng.normal(size=(80, 80)) + 1j * rng.normal(size=(80, 80))
    corners = at.astype(int)
    values = np.stack([whole[y : y + SIZE, x : x + SIZE] for x, y in corners])
    turns = np.exp(1j * rng.uniform(-np.pi, np.pi, len(at)))
    obj, _, _ = stitch(values * turns[:, None, None], at, len(at))
    known = obj != 0
    right = whole[: obj.shape[0], : obj.shape[1]]
    turn = np.vdot(obj[known], right[known])
    assert np.abs(obj * turn / abs(turn) - right)[known].max() < 1e-4


def test_a_patch_gone_astray_is_turned_and_no_other() -> None:
    at = grid(count=12)
    values = patches_at(at)
    values[130] *= np.exp(2.5j)
    plain = stitch(patches_at(at), at, 1, bell(), align=False)[0]
    obj, _, canvas = stitch(values, at, 1, bell())
    x, y = (at[130] - canvas.origin_xy - SIZE // 2).astype(int)
    outside = np.ones(obj.shape, bool)
    outside[y : y + SIZE, x : x + SIZE] = False
    assert np.array_equal(obj[outside], plain[outside])
    assert np.abs(obj - plain).max() < 2e-2


def test_one_patch_gone_astray_among_agreeing_ones_is_turned_back() -> None:
    at = grid(jitter=2)
    values = patches_at(at)
    values[40] *= np.exp(2.5j)
    obj, _, canvas = stitch(values, at, 16, bell())
    assert np.abs(obj - truth(canvas))[obj != 0].max() < 2e-3


def test_patches_that_hardly_overlap_keep_their_phase() -> None:
    at = grid(step=SIZE * 0.9, count=3)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(9, SIZE, SIZE)) + 1j * rng.normal(size=(9, SIZE, SIZE))
    assert np.array_equal(stitch(noise, at, 2, bell())[0], stitch(noise, at, 2, bell(), align=False)[0])


def test_noise_without_structure_in_common_decides_nothing() -> None:
    at = grid(step=4, count=5)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(25, SIZE, SIZE)) + 1j * rng.normal(size=(25, SIZE, SIZE))
    assert np.array_equal(stitch(noise, at, 1, bell())[0], stitch(noise, at, 1, bell(), align=False)[0])


def test_the_same_call_gives_the_same_bits() -> None:
    at = grid(jitter=2)
    turns = np.exp(1j * np.random.default_rng(3).uniform(-3, 3, len(at)))
    values = patches_at(at) * turns[:, None, None]
    assert np.array_equal(stitch(values, at, 7, bell())[0], stitch(values, at, 7, bell())[0])


def test_rounding_noise_on_whole_positions_loses_no_row() -> None:
    at = grid()
    plain, noisy = stitch(patches_at(at), at)[1], stitch(patches_at(at), at + 1e-9)[1]
    assert np.array_equal(plain, noisy)


def test_weight_is_the_sum_of_the_illumination_in_its_own_unit() -> None:
    at = grid()
    _, weight, _ = stitch(patches_at(at), at, weight=bell())
    assert np.isclose(weight.sum(), len(at) * bell().sum(), rtol=1e-5)


def test_pixels_without_light_are_zero() -> None:
    weight = np.zeros((SIZE, SIZE))
    weight[8:16, 8:16] = 1
    at = np.array([[0.0, 0.0], [0.5, 0.25]])
    obj, light, _ = stitch(np.ones((2, SIZE, SIZE), complex), at, weight=weight)
    assert np.all(light >= 0)
    assert not obj[light == 0].any()
    assert np.isfinite(obj).all()


def test_memory_does_not_grow_with_frames() -> None:
    at = grid(jitter=2)
    canvas = Canvas(at, SIZE, bell())
    values = torch.from_numpy(patches_at(at)[:, None]).to(torch.complex64)

    def held() -> int:
        return sum(v.numel() for v in vars(canvas).values() if isinstance(v, torch.Tensor))

    before = held()
    for _ in range(5):
        canvas.add(values, at[:, None])
    assert held() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    at = grid(jitter=2)
    turns = np.exp(1j * np.random.default_rng(0).uniform(-3, 3, len(at)))
    values = torch.from_numpy(patches_at(at) * turns[:, None, None]).to(torch.complex64)[:, None]
    results = []
    for device in ("cpu", "cuda"):
        canvas = Canvas(at, SIZE, bell(), device=device)
        for start in range(0, len(at), 16):
            canvas.add(
                values[start : start + 16].to(device),
                torch.from_numpy(at[start : start + 16, None]).to(device),
            )
        results.append(canvas.finish())
    assert np.allclose(results[0][0], results[1][0], atol=1e-4)
    assert np.allclose(results[0][1], results[1][1], rtol=1e-4)


def test_wrong_input() -> None:
    at = grid()
    good = torch.zeros(2, 1, SIZE, SIZE, dtype=torch.complex64)
    canvas = Canvas(at, SIZE)
    with pytest.raises(DataError, match="patches: expected complex"):
        canvas.add(good.real, at[:2, None])
    with pytest.raises(DataError, match="patches: expected complex"):
        canvas.add(good[..., :-1], at[:2, None])
    with pytest.raises(DataError, match=r"positions: expected \(2, 1, 2\)"):
        canvas.add(good, at[:3, None])
    with pytest.raises(DataError, match="found one outside"):
        canvas.add(good, at[:2, None] + 500)
    with pytest.raises(DataError, match="finite"):
        canvas.add(good, at[:2, None] * np.nan)
    with pytest.raises(DataError, match="finite"):
        Canvas(np.array([[0, np.inf]]), SIZE)
    with pytest.raises(DataError, match="there are none"):
        Canvas(np.zeros((0, 2)), SIZE)
    with pytest.raises(DataError, match="positions are in pixels"):
        Canvas(np.array([[0, 0], [1e9, 1e9]]), SIZE)
    with pytest.raises(DataError, match="weight: expected shape"):
        Canvas(at, SIZE, bell(8))
    for wrong in (np.zeros((SIZE, SIZE)), -bell(), bell() * np.nan):
        with pytest.raises(DataError, match="weight: expected finite values"):
            Canvas(at, SIZE, wrong)
