"""Bilinear translation against the sum over four neighbours, and its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ptycho_torch.physics.bilinear import sampling_matrix, translate

shifts = st.tuples(st.floats(-6, 6), st.floats(-6, 6))


def at(image: NDArray[np.complex128], row: int, column: int) -> complex:
    height, width = image.shape
    return complex(image[row, column]) if 0 <= row < height and 0 <= column < width else 0j


def twin(image: NDArray[np.complex128], x: float, y: float) -> complex:
    """The image between its pixels: four neighbours, each by the area of the square opposite to it."""
    column, row = math.floor(x), math.floor(y)
    right, down = x - column, y - row
    upper = (1 - right) * at(image, row, column) + right * at(image, row, column + 1)
    lower = (1 - right) * at(image, row + 1, column) + right * at(image, row + 1, column + 1)
    return (1 - down) * upper + down * lower


def draw(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.complex128]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def moved(image: NDArray[np.complex128], x: float, y: float, height: int, width: int) -> torch.Tensor:
    down = sampling_matrix(torch.tensor(y, dtype=torch.float64), image.shape[-2], height)
    across = sampling_matrix(torch.tensor(x, dtype=torch.float64), image.shape[-1], width)
    return translate(torch.from_numpy(image), down, across)


@settings(max_examples=25, deadline=None)
@given(shift=shifts, seed=st.integers(0, 2**31))
def test_each_pixel_is_that_of_four_neighbours(shift: tuple[float, float], seed: int) -> None:
    image = draw((5, 7), seed)
    expected = [[twin(image, j - shift[0], i - shift[1]) for j in range(6)] for i in range(8)]
    np.testing.assert_allclose(moved(image, *shift, 8, 6).numpy(), expected, atol=1e-12)


def test_whole_pixels_move_as_they_are() -> None:
    image = draw((4, 5))
    expected = np.zeros((4, 5), complex)
    expected[1:, :3] = image[:3, 2:]  # x by -2, y by 1
    assert np.array_equal(moved(image, -2.0, 1.0, 4, 5).numpy(), expected)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_part_of_a_canvas_has_the_same_bits_as_the_whole(kind: torch.dtype) -> None:
    """Rounding too: coordinates count from the canvas's corner wherever the part lies."""
    shift = torch.tensor([[0.3, -1.7], [2.1, 20.6]], dtype=kind)
    whole = sampling_matrix(shift, 70, 80)
    part = sampling_matrix(shift, 30, 20, first_input=33, first_output=45)
    assert part.shape == (2, 2, 20, 30)
    assert part.dtype == kind
    assert torch.equal(part, whole[..., 45:65, 33:63])
    assert (part.flatten(2).sum(-1) > 5).all()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_weights_are_shares_of_a_pixel_and_none_comes_from_outside(kind: torch.dtype) -> None:
    shift = torch.tensor([0.25, 3.5, -0.75], dtype=kind)
    np.testing.assert_allclose(sampling_matrix(shift, 40, 8, first_output=12).sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(sampling_matrix(shift, 8, 40, first_input=12).sum(-2), 1, rtol=1e-6)
    assert not sampling_matrix(shift, 8, 8, first_output=30).any()


def test_leading_axes_are_members_of_their_own() -> None:
    image = draw((2, 3, 5, 7))
    rng = np.random.default_rng(1)
    x, y = (torch.from_numpy(rng.uniform(-2, 2, (2, 3))) for _ in range(2))
    found = translate(torch.from_numpy(image), sampling_matrix(y, 5, 6), sampling_matrix(x, 7, 4))
    assert found.shape == (2, 3, 6, 4)
    for n in range(2):
        for k in range(3):
            one = moved(image[n, k], float(x[n, k]), float(y[n, k]), 6, 4)
            np.testing.assert_allclose(found[n, k].numpy(), one.numpy(), atol=1e-13)
    shared = translate(
        torch.from_numpy(image), sampling_matrix(y[0, 0], 5, 6), sampling_matrix(x[0, 0], 7, 4)
    )
    assert shared.shape == (2, 3, 6, 4)
    np.testing.assert_allclose(
        shared[1, 2].numpy(), moved(image[1, 2], float(x[0, 0]), float(y[0, 0]), 6, 4), atol=1e-13
    )


def test_gradients_are_those_of_the_transposed() -> None:
    """Networks are trained through it: a complex image and both shifts."""
    image = torch.from_numpy(draw((4, 5))).requires_grad_()
    shift = torch.tensor([0.3, -0.6], dtype=torch.float64, requires_grad=True)

    def law(values: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return translate(values, sampling_matrix(s[0], 4, 4), sampling_matrix(s[1], 5, 5))

    assert torch.autograd.gradcheck(law, (image, shift))
