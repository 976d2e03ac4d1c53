"""Regions: where patches lie, taking out and putting back, and the fraction that goes into the probe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ptycho_torch.physics.regions import (
    Placement,
    crop_patches,
    place,
    put_patches,
    shift_back,
    shifted_probes,
)

SIZES = st.integers(3, 9)


def normal(*shape: int, seed: int = 0, kind: torch.dtype = torch.complex128) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=kind)


def inner(a: torch.Tensor, b: torch.Tensor) -> complex:
    return complex(torch.vdot(a.flatten(), b.flatten()))


def somewhere(count: int, shape: tuple[int, int], size: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, np.subtract(shape, size) + 1, (count, 2)))


# ---------------------------------------------------------------- placement


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), SIZES, st.integers(0, 3), st.integers(0, 2**31), st.floats(-1e4, 1e4))
def test_a_patch_lies_at_its_position(count: int, size: int, margin: int, seed: int, far: float) -> None:
    positions = np.random.default_rng(seed).uniform(-20, 20, (count, 2)) + np.array([far, -far])
    placed = place(positions, size, margin)
    # Scan coordinate of each patch's pixel [N//2, N//2], and what is left of the position.
    middle = placed.origin_xy + placed.corners.numpy()[:, ::-1] + size // 2
    left = placed.fractions.double().numpy()
    np.testing.assert_allclose(middle + left, positions, atol=1e-6)
    assert np.abs(left).max() <= 0.5 + 1e-6
    assert placed.corners.dtype == torch.int64
    assert placed.fractions.dtype == torch.float32
    assert placed.origin_xy.dtype == np.float64


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), SIZES, st.integers(0, 3), st.integers(0, 2**31))
def test_the_region_is_the_smallest_that_holds_all_patches_and_the_margin(
    count: int, size: int, margin: int, seed: int
) -> None:
    placed = place(np.random.default_rng(seed).uniform(-9, 9, (count, 2)), size, margin)
    first, last = placed.corners.numpy().min(0), placed.corners.numpy().max(0)
    assert first.tolist() == [margin, margin]
    assert tuple(last + size + margin) == placed.shape


def test_a_half_goes_up_and_rows_are_y() -> None:
    placed = place(np.array([[2.5, -1.0], [6.0, 4.25]]), 4)
    assert placed.corners.tolist() == [[0, 0], [5, 3]]
    assert placed.fractions.tolist() == [[-0.5, 0.0], [0.0, 0.25]]
    assert placed.shape == (9, 7)
    assert placed.origin_xy.tolist() == [1.0, -3.0]
    assert isinstance(placed, Placement)


def test_lists_and_single_precision_are_positions_too() -> None:
    one, two = place([[1.25, 3.5]], 4), place(np.array([[1.25, 3.5]], np.float32), 4)
    assert one.fractions.tolist() == two.fractions.tolist() == [[0.25, -0.5]]


# ---------------------------------------------------------------- patches


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(1, 6), st.integers(0, 2**31))
def test_patches_are_plain_slices(size: int, count: int, seed: int) -> None:
    canvas, corners = (
        normal(size + 4, size + 7, seed=seed),
        somewhere(count, (size + 4, size + 7), size, seed),
    )
    found = crop_patches(canvas, corners, size)
    assert found.shape == (count, size, size)
    for patch, (row, column) in zip(found, corners.tolist(), strict=True):
        assert torch.equal(patch, canvas[row : row + size, column : column + size])


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(1, 6), st.integers(0, 2**31))
def test_putting_adds_at_the_place(size: int, count: int, seed: int) -> None:
    shape = (size + 4, size + 7)
    patches, corners = normal(count, size, size, seed=seed), somewhere(count, shape, size, seed)
    expected = torch.zeros(shape, dtype=patches.dtype)
    for patch, (row, column) in zip(patches, corners.tolist(), strict=True):
        expected[row : row + size, column : column + size] += patch
    torch.testing.assert_close(put_patches(patches, corners, shape), expected)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(1, 6), st.integers(0, 2**31), st.booleans())
def test_crop_and_put_are_adjoint(size: int, count: int, seed: int, several: bool) -> None:
    shape: tuple[int, ...] = (size + 5, size + 3)
    corners, owner = somewhere(count, (size + 5, size + 3), size, seed), None
    if several:
        shape, owner = (3, *shape), torch.from_numpy(np.random.default_rng(seed).integers(0, 3, count))
    canvas, patches = normal(*shape, seed=seed), normal(count, size, size, seed=seed + 1)
    left = inner(patches, crop_patches(canvas, corners, size, owner))
    right = inner(put_patches(patches, corners, shape, owner), canvas)
    assert left == pytest.approx(right, rel=1e-10, abs=1e-10)


def test_each_frame_has_the_region_that_owns_it() -> None:
    canvases = torch.arange(2.0)[:, None, None].expand(2, 6, 7).contiguous() + 1
    corners, owner = torch.tensor([[0, 0], [2, 3], [1, 1]]), torch.tensor([1, 0, 1])
    assert crop_patches(canvases, corners, 4, owner).mean((1, 2)).tolist() == [2.0, 1.0, 2.0]
    put = put_patches(torch.ones(3, 4, 4), corners, (2, 6, 7), owner)
    assert put.sum((1, 2)).tolist() == [16.0, 32.0]
    assert put[0, 2:6, 3:7].min() == 1


@pytest.mark.parametrize("several", [False, True])
def test_gradients_of_both_pass_gradcheck(several: bool) -> None:
    corners = torch.tensor([[0, 1], [1, 0], [1, 1]])
    shape, owner = ((2, 4, 5), torch.tensor([0, 1, 1])) if several else ((4, 5), None)
    canvas = normal(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: crop_patches(c, corners, 3, owner), (canvas,))
    assert torch.autograd.gradgradcheck(lambda c: crop_patches(c, corners, 3, owner), (canvas,))
    patches = normal(3, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: put_patches(p, corners, shape, owner), (patches,))
    assert torch.autograd.gradgradcheck(lambda p: put_patches(p, corners, shape, owner), (patches,))


def test_a_gradient_that_is_not_contiguous_is_taken_too() -> None:
    patches = normal(1, 3, 3).requires_grad_()
    put = put_patches(patches, torch.tensor([[1, 2]]), (5, 6))
    (put.T * normal(6, 5, seed=1)).real.sum().backward()
    expected = normal(6, 5, seed=1).conj().T[1:4, 2:5]
    torch.testing.assert_close(patches.grad, expected[None])


# ---------------------------------------------------------------- fractions


def twin(probe: NDArray[np.complex128], x: float, y: float) -> NDArray[np.complex128]:
    """``P(r - f)`` by the definition of the Fourier series: matrices, no FFT, in float64."""
    size = probe.shape[-1]
    at = np.arange(size)

    def matrix(f: float) -> NDArray[np.complex128]:
        total = np.zeros((size, size), complex)
        for k in range(-(size // 2), (size + 1) // 2):
            wave = np.exp(2j * np.pi * k * np.subtract.outer(at, at) / size)
            nyquist = size % 2 == 0 and k == -(size // 2)
            total += wave * (np.cos(np.pi * f) if nyquist else np.exp(-2j * np.pi * k * f / size)) / size
        return total

    return matrix(y) @ probe @ matrix(x).T


@settings(max_examples=40, deadline=None)
@given(SIZES, st.floats(-3, 3), st.floats(-3, 3), st.integers(1, 2), st.integers(0, 2**31))
def test_shifts_agree_with_a_numpy_twin(size: int, x: float, y: float, modes: int, seed: int) -> None:
    probe = normal(modes, size, size, seed=seed)
    found = shifted_probes(probe, torch.tensor([[x, y]], dtype=torch.float64))
    assert found.shape == (1, modes, size, size)
    expected = np.stack([twin(mode.numpy(), x, y) for mode in probe])
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-12 * np.abs(expected).max())


@settings(max_examples=20, deadline=None)
@given(SIZES, st.integers(-4, 4), st.integers(-4, 4))
def test_whole_shifts_are_rolls(size: int, x: int, y: int) -> None:
    probe = normal(2, size, size)
    found = shifted_probes(probe, torch.tensor([[x, y]], dtype=torch.float64))[0]
    torch.testing.assert_close(found, probe.roll((y, x), (-2, -1)), rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(1, 4), st.booleans(), st.integers(0, 2**31))
def test_shift_and_shift_back_are_adjoint(size: int, count: int, own: bool, seed: int) -> None:
    fractions = normal(count, 2, seed=seed, kind=torch.float64)
    probe = normal(*([count] if own else []), 2, size, size, seed=seed + 1)
    others = normal(count, 2, size, size, seed=seed + 2)
    back = shift_back(others, fractions)
    left = inner(others, shifted_probes(probe, fractions))
    right = inner(back if own else back.sum(0), probe)
    assert left == pytest.approx(right, rel=1e-9, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4).map(lambda n: 2 * n + 1), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_without_a_nyquist_frequency_back_undoes_it_and_power_is_kept(size: int, x: float, y: float) -> None:
    probe, fraction = normal(1, 2, size, size), torch.tensor([[x, y]], dtype=torch.float64)
    there = shifted_probes(probe, fraction)
    torch.testing.assert_close(shift_back(there, fraction), probe, rtol=1e-9, atol=1e-9)
    assert float(there.abs().square().sum()) == pytest.approx(float(probe.abs().square().sum()), rel=1e-9)


def test_the_nyquist_frequency_becomes_its_cosine_and_real_probes_stay_real() -> None:
    wave = torch.cos(torch.pi * torch.arange(8, dtype=torch.float64)).to(torch.complex128).expand(1, 8, 8)
    found = shifted_probes(wave, torch.tensor([[0.3, 0.0]], dtype=torch.float64))[0]
    torch.testing.assert_close(found, wave * np.cos(0.3 * np.pi), rtol=1e-9, atol=1e-9)
    real = normal(1, 8, 8, kind=torch.float64).to(torch.complex128)
    moved = shifted_probes(real, torch.tensor([[0.3, -0.4]], dtype=torch.float64))
    assert float(moved.imag.abs().max()) < 1e-12


def test_each_frame_has_its_own_fraction() -> None:
    probe, fractions = normal(2, 6, 6), normal(3, 2, kind=torch.float64)
    together = shifted_probes(probe, fractions)
    for one, fraction in zip(together, fractions, strict=True):
        torch.testing.assert_close(one, shifted_probes(probe, fraction[None])[0])


@pytest.mark.parametrize("size", [3, 4])
def test_gradients_of_shifts_pass_gradcheck(size: int) -> None:
    fractions = torch.tensor([[0.3, -0.4], [0.1, 0.45]], dtype=torch.float64, requires_grad=True)
    probe = normal(1, size, size).requires_grad_()
    probes = normal(2, 1, size, size).requires_grad_()
    for law, values in ((shifted_probes, probe), (shift_back, probes)):
        assert torch.autograd.gradcheck(law, (values, fractions))


@settings(max_examples=20, deadline=None)
@given(st.floats(-8, 8), st.floats(-8, 8), st.integers(0, 2**31))
def test_the_fraction_in_the_probe_gives_the_frame_of_the_moved_probe(x: float, y: float, seed: int) -> None:
    """``P(r - f) o`` at whole pixels has the modulus that a probe at the exact place would give."""
    size = 8
    placed = place(np.array([[x, y], [0.0, 0.0]]), size, margin=2)
    canvas = normal(*placed.shape, seed=seed)
    probe = normal(1, size, size, seed=seed + 1)
    wave = shifted_probes(probe, placed.fractions.double())[:, 0] * crop_patches(canvas, placed.corners, size)
    row, column = placed.corners[0].tolist()
    rest = np.array([x, y]) - np.floor(np.array([x, y]) + 0.5)
    expected = twin(probe[0].numpy(), *rest) * canvas[row : row + size, column : column + size].numpy()
    np.testing.assert_allclose(wave[0].numpy(), expected, atol=2e-5)
