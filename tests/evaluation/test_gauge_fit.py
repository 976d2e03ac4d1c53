"""Ramp and shift of one image against another: where it may be read, where the fit begins, where it ends."""

from __future__ import annotations

import numpy as np
import pytest
from gauged_images import Complex, N, ramp, smooth
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_torch.evaluation import gauge
from ptycho_torch.evaluation.gauge import (
    Fit,
    Movable,
    coarse_ramp,
    coarse_shift,
    refined,
    soft,
    solved,
    turned,
)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.floats(-6, 6), st.floats(-6, 6), st.sampled_from([0, 8]))
def test_moving_there_and_back(seed: int, x: float, y: float, border: int) -> None:
    values = smooth(30, seed)[:, :25]
    if border == 0:
        there = Movable(values).at((x, y))
        assert np.allclose(Movable(there).at((-x, -y)), values)
    whole = Movable(values, border).at((2.0, -1.0))
    assert np.allclose(whole[:-1, 2:], values[1:, :-2])


def test_slopes_are_those_of_the_moved_image() -> None:
    view = Movable(smooth(40), 0)
    value, along_x, along_y = view.with_gradient((0.3, -1.2))
    assert np.allclose(value, view.at((0.3, -1.2)))
    step = 1e-5
    assert np.allclose(
        along_x, (view.at((0.3 - step, -1.2)) - view.at((0.3 + step, -1.2))) / (2 * step), atol=1e-6
    )
    assert np.allclose(
        along_y, (view.at((0.3, -1.2 - step)) - view.at((0.3, -1.2 + step))) / (2 * step), atol=1e-6
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(-12, 12), st.integers(-12, 12), st.floats(-8, 8))
def test_the_coarse_shift_is_right_under_any_ramp(seed: int, x: int, y: int, k: float) -> None:
    truth = smooth(64, seed)
    image = np.roll(truth, (y, x), (0, 1)) * ramp(truth.shape, k, -k) * 3j
    assert coarse_shift(image, truth, np.ones(truth.shape, bool)) == (-x, -y)


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_the_coarse_ramp_is_right_to_half_a_fringe(x: float, y: float) -> None:
    truth = smooth(48)[:, :40]
    image = turned(truth, (x, y), (7.0, -3.0))
    found = coarse_ramp(image, truth, np.ones(truth.shape, bool))
    # As angles, for -pi and pi per pixel are the same ramp.
    for mine, there, side in zip(found, (x, y), (40, 48), strict=True):
        assert abs(np.angle(np.exp(1j * (mine + there)))) < np.pi / side
    assert turned(truth, (x, y), (7.0, -3.0))[3, 7] == pytest.approx(truth[3, 7] * np.exp(6j * y))


def test_a_ramp_turns_about_the_first_pixel_unless_told() -> None:
    ones = np.ones((5, 4), complex)
    rows, columns = np.indices(ones.shape)
    assert np.allclose(turned(ones, (0.3, -0.2)), np.exp(1j * (0.3 * columns - 0.2 * rows)))
    assert np.allclose(
        turned(ones, (0.3, -0.2), (1.5, 2.5)), np.exp(1j * (0.3 * (columns - 1.5) - 0.2 * (rows - 2.5)))
    )


# ------------------------------------------------------------------ reading between pixels
def waves(x: NDArray[np.float64], y: NDArray[np.float64]) -> Complex:
    """Waves that do not close over any canvas."""
    return 2 + np.cos(0.31 * x + 0.2 * y + 1) + 1j * np.sin(0.17 * x - 0.26 * y) + 0.02 * x - 0.03j * y


@pytest.mark.parametrize("shape", [(50, 61), (47, 40)])
def test_edges_that_do_not_meet_do_not_ring(shape: tuple[int, int]) -> None:
    rows, columns = (v.astype(float) for v in np.indices(shape))
    image = waves(columns, rows)
    expected = waves(columns - 0.4, rows + 0.3)
    found = Movable(image, 32).at((0.4, -0.3))
    errors = np.abs(found - expected)
    # A reflection has a kink: it is felt at the edge, and alike at all four.
    assert errors[6:-6, 6:-6].max() < 0.016
    sides = [errors[k, 8:-8].max() for k in (6, -7)] + [errors[8:-8, k].max() for k in (6, -7)]
    assert max(sides) < 0.016
    assert np.abs(Movable(image).at((0.4, -0.3)) - expected)[6:-6, 6:-6].max() > 0.05


@pytest.mark.parametrize(
    ("border", "rows", "columns"),
    [(32, 120, 125), (8, 66, 77), (5, 60, 72)],  # these transform fast, and 114 and 71 would not
)
def test_what_is_continued_closes_after_the_next_fast_length(border: int, rows: int, columns: int) -> None:
    image = smooth(61, 1)[:50]
    view = Movable(image, border)
    assert np.allclose(view.at((columns, rows)), image)
    assert np.allclose(view.at((columns + 2, 1 - rows))[1:, 2:], image[:-1, :-2])
    assert not np.allclose(view.at((columns, 2 * border)), image)


def test_far_beyond_its_edges_an_image_is_its_mean() -> None:
    image = waves(*(v.astype(float) for v in np.indices((40, 52))))
    found = Movable(image, 32).at((41.0, 33.0))
    assert found[0, 0] == pytest.approx(
        image.mean(), abs=0.25
    )  # where the end of one border meets the other's
    assert np.allclose(Movable(image, 32).at((5.0, 0.0))[:, :5], image.mean(), atol=3)
    near = Movable(image, 32).at((1.0, 0.0))[:, 0]
    assert np.abs(near - image[:, 1]).max() < 0.01 * np.abs(image - image.mean()).max()


def test_borders_rise_as_a_cosine() -> None:
    for count in (1, 4, 7):
        k = np.arange(count)
        assert np.allclose(gauge._rise(count), np.sin(np.pi * (k + 0.5) / (2 * count)) ** 2)


# ------------------------------------------------------------------ weights
def test_soft_weights_rise_within_an_eighth_of_the_shorter_side() -> None:
    region = np.zeros((100, 120), bool)
    region[45:93, 50:114] = True
    weight = soft(region)
    expected = np.sin(np.pi / 2 * np.minimum(np.arange(1, 25) / 7, 1)) ** 2
    assert weight[45:69, 80] == pytest.approx(expected)
    assert weight[69:93, 80] == pytest.approx(expected[::-1])
    assert weight[65, 50:74] == pytest.approx(expected)
    assert weight[65, 90:114] == pytest.approx(expected[::-1])
    assert not weight[~region].any()
    assert pytest.approx(weight) == soft(region.T).T


def test_soft_weights_of_small_regions_rise_within_four_pixels() -> None:
    for size in (16, 39):
        weight = soft(np.ones((size, size + 1), bool))  # what lies beyond the array is outside
        middle = weight[: size // 2, size // 2]
        assert middle == pytest.approx(
            np.sin(np.pi / 2 * np.minimum(np.arange(1, size // 2 + 1) / 5, 1)) ** 2
        )
    assert soft(np.ones((40, 50), bool))[3, 25] == pytest.approx(np.sin(np.pi / 2 * 4 / 6) ** 2)


# ------------------------------------------------------------------ least squares
def test_real_coefficients_of_complex_columns() -> None:
    rng = np.random.default_rng(0)
    columns = list(rng.normal(size=(4, 30)) + 1j * rng.normal(size=(4, 30)))
    rest = rng.normal(size=30) + 1j * rng.normal(size=30)
    stacked = np.array([np.concatenate([c.real, c.imag]) for c in columns]).T
    expected = np.linalg.lstsq(stacked, np.concatenate([rest.real, rest.imag]))[0]
    assert solved(columns, rest) == pytest.approx(expected)
    # In any units, and beside a column that is nothing.
    units = np.array([1e-5, 1.0, 1e3, 1.0])
    scaled = [u * c for u, c in zip(units, columns, strict=True)]
    assert solved(scaled, rest) * units == pytest.approx(expected)
    for nothing in (0.0, 1e-11):
        found = solved([*columns, nothing * columns[0][::-1]], rest)
        assert found == pytest.approx([*expected, 0])
    assert solved([0 * columns[0]] * 2, rest).tolist() == [0, 0]
    assert solved([columns[0]] * 2, 3 * columns[0]) == pytest.approx([1.5, 1.5])


def test_columns_that_are_small_or_nearly_parallel_count() -> None:
    rng = np.random.default_rng(2)
    columns = list(rng.normal(size=(3, 30)) + 1j * rng.normal(size=(3, 30)))
    columns.append(columns[0] + 5e-4 * columns[1][::-1])
    rest = rng.normal(size=30) + 1j * rng.normal(size=30)
    stacked = np.array([np.concatenate([c.real, c.imag]) for c in columns]).T
    expected = np.linalg.lstsq(stacked, np.concatenate([rest.real, rest.imag]))[0]
    for unit in (1e-12, 1.0, 1e6):
        assert solved([unit * c for c in columns], rest) * unit == pytest.approx(expected, rel=1e-4)


def noisy() -> tuple[Complex, Complex, NDArray[np.float64], tuple[slice, slice]]:
    """An image of a part of a reference, with noise, and weights that leave some of it out."""
    reference = smooth(60, 3)
    rng = np.random.default_rng(1)
    moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(reference), (-0.7, 0.4))) * ramp(
        (60, 60), 0.4, -0.9
    )
    part = slice(7, 50), slice(11, 48)
    image = 1.7j * moved[part] + 0.1 * (rng.normal(size=(43, 37)) + 1j * rng.normal(size=(43, 37)))
    weight = soft(np.ones(image.shape, bool))
    weight[:, :9] = 0
    image[:, :9] = 77
    return image, reference, weight, part


def residual(p: NDArray[np.float64]) -> float:
    """What is to be least, as the module's documentation has it, over the image's own power."""
    image, reference, weight, part = noisy()
    model = Movable(reference, 0).at((-p[2], -p[3]))[part]
    model = model * np.exp(-1j * (p[0] * np.arange(37) + p[1] * np.arange(43)[:, None]))
    factor = np.sum(weight * model.conj() * image) / np.sum(weight * np.abs(model) ** 2)
    power = np.sum(weight * np.abs(image) ** 2)
    return float(np.sum(weight * np.abs(image - factor * model) ** 2) / power)


@pytest.mark.parametrize("start", [(0.0, 0.0, 0.0, 0.0), (-0.04, 0.1, -0.5, 0.8), (-0.1, 0.14, 0.6, 1.4)])
def test_the_fit_is_that_of_least_squared_difference(start: tuple[float, float, float, float]) -> None:
    image, reference, weight, part = noisy()
    fit = refined(image, Movable(reference, 0), part, weight, Fit(start[:2], start[2:], True))
    p = np.array([*fit.ramp_xy, *fit.shift_xy])
    assert p == pytest.approx([-0.4 * 2 * np.pi / N, 0.9 * 2 * np.pi / N, -0.4, 0.7], abs=0.02)
    assert fit.correlation == pytest.approx(np.sqrt(1 - residual(p)), abs=1e-9)
    assert fit.moves
    for k, step in enumerate((1e-5, 1e-5, 1e-3, 1e-3)):
        around = [residual(p + sign * step * np.eye(4)[k]) for sign in (-1, 0, 1)]
        assert around[1] < min(around[0], around[2])
        middle = (around[0] - around[2]) / (2 * (around[0] + around[2] - 2 * around[1]))  # of the parabola
        assert abs(middle) < 0.01


def test_a_shift_that_is_given_stays() -> None:
    image, reference, weight, part = noisy()
    fit = refined(image, Movable(reference, 0), part, weight, Fit((0.0, 0.0), (-0.3, 0.5), False))
    assert fit.shift_xy == (-0.3, 0.5)
    assert not fit.moves
    for k in (0, 1):
        p = np.array([*fit.ramp_xy, -0.3, 0.5])
        around = [residual(p + sign * 1e-5 * np.eye(4)[k]) for sign in (-1, 0, 1)]
        assert around[1] < min(around[0], around[2])


def test_a_few_steps_are_enough() -> None:
    reference, part = smooth(60, 3), (slice(7, 50), slice(11, 48))
    truth = Fit((0.04, -0.06), (-0.4, 0.7), True)
    moved = Movable(reference).at((-truth.shift_xy[0], -truth.shift_xy[1]))[part]
    image = 1.7j * turned(moved, (-truth.ramp_xy[0], -truth.ramp_xy[1]))
    weight = soft(np.ones(image.shape, bool))
    start = Fit((0.03, -0.05), (-0.2, 0.4), True)
    for steps, off in enumerate((0.5, 0.006, 1e-6, 1e-12)):  # a step squares what is left
        fit = refined(image, Movable(reference), part, weight, start, steps)
        left = np.subtract((*fit.ramp_xy, *fit.shift_xy), (*truth.ramp_xy, *truth.shift_xy))
        assert np.abs(left * (37, 43, 1, 1)).max() < off
        if steps == 0:
            assert (fit.ramp_xy, fit.shift_xy) == (start.ramp_xy, start.shift_xy)
            assert fit.correlation < 0.99
    assert fit.correlation == pytest.approx(1)


def test_a_fit_that_nobody_has_judged_is_like_nothing() -> None:
    assert Fit((0.1, 0.2), (0.3, 0.4), True).correlation == 0


def test_nothing_is_like_nothing() -> None:
    image, reference, weight, part = noisy()
    start = Fit((0.1, 0.0), (0.2, 0.0), True)
    for one, other in ((0 * image, reference), (image, 0 * reference)):
        fit = refined(one, Movable(other, 0), part, weight, start)
        assert fit.correlation == 0
        assert np.isfinite([*fit.ramp_xy, *fit.shift_xy]).all()


def test_of_many_pixels_some_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    image, reference, weight, part = noisy()
    whole = refined(image, Movable(reference, 0), part, weight, Fit((0.0, 0.0), (0.0, 0.0), True))
    monkeypatch.setattr(gauge, "_MOST", 300)
    some = refined(image, Movable(reference, 0), part, weight, Fit((0.0, 0.0), (0.0, 0.0), True))
    assert some != whole
    assert some.shift_xy == pytest.approx(whole.shift_xy, abs=0.05)
    monkeypatch.setattr(gauge, "_MOST", np.count_nonzero(weight))
    assert refined(image, Movable(reference, 0), part, weight, Fit((0.0, 0.0), (0.0, 0.0), True)) == whole


# ------------------------------------------------------------------ where it begins
def test_a_known_ramp_makes_the_coarse_shift_stand_more_noise() -> None:
    truth = smooth(72, 4, 2.5)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 72, 72))
    image = (np.roll(truth, (5, -3), (0, 1)) + 1.6 * (noise[0] + 1j * noise[1])) * ramp(
        truth.shape, 1.0, -2.0
    )
    everywhere = np.ones(truth.shape, bool)
    known = (-2 * np.pi / N, 4 * np.pi / N)
    assert coarse_shift(image, truth, everywhere, known) == (3, -5)
    assert coarse_shift(image, truth, everywhere) != (3, -5)
    assert coarse_shift(image, truth, everywhere, (0.5, 0.5)) != (3, -5)


@pytest.mark.parametrize("ramp_xy", [None, (0.0, 0.0)])
def test_the_outline_of_a_region_is_not_what_is_registered(ramp_xy: tuple[float, float] | None) -> None:
    truth = smooth(90, 2)
    image = np.roll(truth, (-6, 11), (0, 1))
    region = np.zeros(truth.shape, bool)
    region[20:80, 10:66] = True
    image[:18] = 50
    image[:, :8] = -30j  # what lies outside is not looked at
    assert coarse_shift(image, truth, region, ramp_xy) == (-11, 6)


@pytest.mark.parametrize("axis", [0, 1])
def test_coarse_shifts_of_up_to_a_quarter_are_found(axis: int) -> None:
    truth = smooth(64, 7)[:, :48]
    side = truth.shape[axis]
    weight = np.ones(truth.shape, bool)
    for size in (side // 4, -(side // 4)):
        found = coarse_shift(np.roll(truth, size, axis), truth, weight)
        assert found == ((0, -size) if axis == 0 else (-size, 0))
    beyond = coarse_shift(np.roll(truth, side // 4 + 2, axis), truth, weight)
    assert abs(beyond[1 - axis]) <= side // 4


def test_a_coarse_ramp_is_that_of_the_region() -> None:
    truth = smooth(64, 5)
    image = turned(truth, (0.7, -0.4))
    region = np.zeros(truth.shape, bool)
    region[10:50, 20:60] = True
    image[~region] = 9 * turned(truth, (-0.5, 0.9))[~region]
    found = coarse_ramp(image, truth, region)
    assert found == pytest.approx((-0.7, 0.4), abs=np.pi / 40)


def disc(size: int) -> NDArray[np.bool_]:
    rows, columns = np.indices((size, size)) - (size - 1) / 2
    return rows**2 + columns**2 < (0.4 * size) ** 2


@pytest.mark.parametrize("ramp_xy", [None, (0.0, 0.0)])
def test_what_stays_around_a_region_is_not_what_is_registered(ramp_xy: tuple[float, float] | None) -> None:
    truth, region, still = smooth(80, 9), disc(80), 8 * smooth(80, 10)
    image = np.where(region, np.roll(truth, (4, -7), (0, 1)), still)
    assert coarse_shift(image, np.where(region, truth, still), region, ramp_xy) == (7, -4)


@pytest.mark.parametrize("axis", [0, 1])
def test_what_lies_beyond_a_quarter_does_not_come_in_from_the_other_side(axis: int) -> None:
    truth = smooth(81, 6)  # 81 + 20 - 1 is a fast length, which would bring the last row to 20 rows off
    bright = 1000 * np.exp(2j * np.pi * np.random.default_rng(0).random(81))
    for here, there in ((0, -1), (-1, 0)):
        image, reference = np.roll(truth, (2, 3), (0, 1)), truth.copy()
        np.moveaxis(image, axis, 0)[here] = bright
        np.moveaxis(reference, axis, 0)[there] = bright
        found = coarse_shift(image, reference, np.ones(truth.shape, bool), (0.0, 0.0))
        assert found[1 - axis] == (-2, -3)[axis]


def test_a_coarse_shift_is_the_same_in_any_units() -> None:
    truth = smooth(64, 8)
    image = np.roll(truth, (9, -5), (0, 1))
    for unit in (1e-6, 1e6):
        assert coarse_shift(unit * image, unit * truth, np.ones(truth.shape, bool)) == (5, -9)


def test_a_coarse_ramp_leaves_the_object_and_what_is_around_out() -> None:
    region = disc(64)
    truth = turned(smooth(64, 5), (1.1, 0.6))  # a ramp of its own
    truth[30:33, 30:33] = 0  # nothing is divided by it
    image = turned(truth, (0.7, -0.4))
    image[~region] = 9 * turned(truth, (-0.5, 0.9))[~region]
    for scale in (1, 1j):
        found = coarse_ramp(scale * image, truth, region)
        assert found == pytest.approx((-0.7, 0.4), abs=np.pi / 50)
