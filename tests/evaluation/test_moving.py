"""What was done to a canvas is undone, and with it every score is what it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gauged_images import Complex, N, moved, ramp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_torch.evaluation import evaluate
from ptycho_torch.evaluation.gauge import soft, turned
from ptycho_torch.evaluation.moving import Target, _Way, brought, is_dark, put_back
from ptycho_torch.evaluation.reference import Reference

Real = NDArray[np.float32]


def noise(size: tuple[int, int], seed: int, sigma: float) -> NDArray[np.float64]:
    values = np.random.default_rng(seed).normal(size=(2, *size))
    values = ndimage.gaussian_filter(values, (0, sigma, sigma)) if sigma else values
    return np.asarray(values / values.std())


def stitched(kind: str) -> tuple[Complex, Real, Complex]:
    """An imperfect image, lit up to the canvas' edges but not in its corners; weight; truth."""
    shape = (110, 117)
    first, second = noise(shape, 0, 2.0)
    contrast = {"usual": (0.2, 0.5), "weak": (0.02, 0.03), "wraps": (0.2, 2.5)}[kind]
    truth = np.exp(contrast[0] * first + 1j * contrast[1] * second)
    error = noise(shape, 1, 0.8) * 0.1 * np.hypot(*contrast)
    y, x = (np.linspace(-1, 1, n) for n in shape)
    weight = np.clip(1.15 - (np.abs(x) ** 6 + np.abs(y[:, None]) ** 6), 0, 1) ** 2
    image = np.where(weight > 0, truth + (error[0] + 1j * error[1]) / np.sqrt(weight + 0.05), 0)
    return image, weight.astype(np.float32), truth


def numbers(scores: dict[str, Any]) -> dict[str, float | None]:
    found = {"complex_correlation": scores["complex_correlation"]}
    for part in ("amplitude", "phase", "complex"):
        for key, value in scores[part].items():
            flat = value if isinstance(value, dict) else {"": value}
            found |= {f"{part} {key} {name}".strip(): number for name, number in flat.items()}
    return found


def transformed(image: Complex, weight: Real) -> dict[str, Reference]:
    """Ways in which somebody may change what frames cannot tell."""
    turn, factor = ramp(image.shape, 0.4, -0.23), 5 * np.exp(1j)

    def there(values: Complex, weight: Real = weight, origin: tuple[float, float] = (0.0, 0.0)) -> Reference:
        return Reference(values.astype(np.complex64), weight, origin, frame_size=N)

    return {
        "ramp": there(image * turn),
        "phase and scale": there(image * factor),
        "rolled": there(np.roll(image, (2, -5), (0, 1))),
        "rolled with its weights": there(*(np.roll(v, (1, 0), (0, 1)) for v in (image, weight))),
        "origin": there(image, origin=(1.0, 0.0)),
        "origin between pixels": there(image, origin=(-2.4, 0.7)),
        "between pixels": there(moved(image, 0.5, 0.5)),
        "first a ramp, then between pixels": there(moved(image * turn, 0.3, -0.6) * factor),
        "first between pixels, then a ramp": there(moved(image, 0.3, -0.6) * turn * factor),
        "everything": there(moved(image * turn, 0.3, -0.4) * factor, origin=(3.0, -4.0)),
    }


@pytest.mark.parametrize("kind", ["usual", "weak", "wraps"])
def test_no_score_moves_by_a_thousandth(kind: str) -> None:
    image, weight, truth = stitched(kind)
    reference = Reference(truth.astype(np.complex64), np.ones(truth.shape, np.float32))
    before = evaluate(Reference(image.astype(np.complex64), weight, frame_size=N), reference)
    known = numbers(before)
    assert before["complex"]["nrmse"] > 1e-3
    for how, other in transformed(image, weight).items():
        after = evaluate(other, reference)
        assert after["region"] == before["region"], how
        found = numbers(after)
        for key, value in known.items():
            if value is None:
                assert found[key] is None
            else:
                assert found[key] == pytest.approx(value, abs=1e-3, rel=1e-3), (how, key)


def test_a_region_of_the_canvas_moves_along() -> None:
    image, weight, truth = stitched("usual")
    region = np.zeros(image.shape, bool)
    region[30:80, 20:90] = True
    before, after = (
        evaluate(Reference(np.roll(image, by, (0, 1)), weight), truth, region=np.roll(region, by, (0, 1)))
        for by in ((0, 0), (4, -3))
    )
    assert after["region"] == before["region"]
    assert before["region"]["pixels"] == 50 * 70
    assert after["amplitude"]["ssim"] == pytest.approx(before["amplitude"]["ssim"], abs=1e-5)


def test_what_was_done_is_reported() -> None:
    image, weight, truth = stitched("usual")
    reference = Reference(truth.astype(np.complex64), np.ones(truth.shape, np.float32))

    def record(values: Complex, origin: tuple[float, float] = (0.0, 0.0)) -> dict[str, Any]:
        found = evaluate(Reference(values.astype(np.complex64), weight, origin, frame_size=N), reference)
        return dict(found["alignment"])

    start = record(image)
    turn = ramp(image.shape, 0.4, -0.23)
    for values in (moved(image * turn, 0.3, -1.6), moved(image, 0.3, -1.6) * turn):
        now = record(values, (3.0, -4.0))
        change = np.subtract(now["ramp_detector_px"], start["ramp_detector_px"])
        assert change == pytest.approx((-0.4, 0.23), abs=1e-4)
        assert np.subtract(now["shift_xy"], start["shift_xy"]) == pytest.approx((-3.3, 5.6), abs=1e-4)


def plain(shape: tuple[int, int] = (40, 47)) -> tuple[Complex, NDArray[np.bool_]]:
    """A canvas whose edges do not fit each other, and where it is dark."""
    first, second = noise(shape, 5, 1.0)
    rows, columns = np.indices(shape)
    dark = (rows + columns < 8) | (columns - rows > shape[1] - 5)
    return np.where(dark, 0, 1 + 0.3 * first + 0.3j * second + 0.02 * columns), dark


def everything(values: Complex) -> Target:
    return Target(values, (slice(0, values.shape[0]), slice(0, values.shape[1])), np.ones(values.shape))


RAMPS, SHIFTS = st.tuples(*[st.floats(-0.1, 0.1)] * 2), st.tuples(*[st.floats(-3, 3)] * 2)


@settings(max_examples=20, deadline=None)
@given(RAMPS, SHIFTS, st.booleans())
def test_either_order_is_undone(ramp_xy: tuple[float, float], shift: tuple[float, float], last: bool) -> None:
    values = plain()[0]
    image = turned(moved(values, *shift), ramp_xy) if last else moved(turned(values, ramp_xy), *shift)
    undo = tuple(-k for k in ramp_xy), tuple(-s for s in shift)
    back = brought(image, *undo, (3.0, 8.0), everything(values))
    factor = np.vdot(back, values) / np.vdot(back, back)
    assert np.allclose(back * factor, values, atol=1e-6)  # a likeness of 1 - 1e-16 is no better than that
    assert abs(factor) == pytest.approx(1, abs=1e-6)
    # The ramp is zero at (3, 8), and what comes there lay elsewhere when it got a ramp after it was moved.
    at = np.add((3.0, 8.0), shift) if last else (3.0, 8.0)
    assert abs(np.angle(factor * np.exp(1j * (at[0] * ramp_xy[0] + at[1] * ramp_xy[1])))) < 1e-6


def test_a_ramp_comes_last_only_if_it_may() -> None:
    values = plain()[0]
    image = moved(turned(values, (0.1, -0.2)), 0.4, 0.3)
    errors = [
        1 - everything(values).likeness(
            brought(image, (-0.1, 0.2), (-0.4, -0.3), (0, 0), everything(values), late=late)
        )
        for late in (True, False)
    ]  # fmt: skip
    assert errors[0] < 1e-12
    assert errors[1] > 1e-4


def test_without_a_shift_nothing_is_interpolated() -> None:
    values = plain()[0]
    found = brought(values, (0.1, 0.2), (0.0, 0.0), (1.0, 2.0), everything(values))
    assert np.array_equal(found, turned(values, (0.1, 0.2), (1.0, 2.0)))


@pytest.mark.parametrize("margin", [4, 12, 40])
def test_an_image_that_was_moved_by_splines_does_not_ring(margin: int) -> None:
    size = 120
    first, second = noise((size, size), 2, 2.5)
    values = 1 + 0.3 * first + 0.3j * second
    values[:, :60] *= 1.5
    values = ndimage.gaussian_filter(values.real, 1.5) + 1j * ndimage.gaussian_filter(values.imag, 1.5)
    image = ndimage.shift(values, (0.5, -0.5), order=3)
    here = np.zeros((size, size), bool)
    here[margin : size - margin - 5, margin : size - margin] = True
    target = Target(values[3:, 2:], (slice(3, size), slice(2, size)), soft(here)[3:, 2:])
    found = brought(image, (0.0, 0.0), (0.5, -0.5), (0.0, 0.0), target)
    inside = ndimage.binary_erosion(here, iterations=4)
    ringing = np.abs(_Way(image, (0.0, 0.0), (0.5, -0.5), (0.0, 0.0)).by((0.0, 0.0)) - values)[inside]
    assert np.linalg.norm(np.abs(found - values)[inside]) < 0.65 * np.linalg.norm(ringing)


@settings(max_examples=20, deadline=None)
@given(RAMPS, SHIFTS, st.booleans(), st.floats(-0.3, 0.3))
def test_dark_pixels_tell_what_was_done(
    ramp_xy: tuple[float, float], shift: tuple[float, float], last: bool, off: float
) -> None:
    values, dark = plain()
    image = turned(moved(values, *shift), ramp_xy) if last else moved(turned(values, ramp_xy), *shift)
    if is_dark(image, dark):
        return
    # A reference knows it nearly, and may lie elsewhere by whole pixels.
    near = (-shift[0] + off, -shift[1] - off / 2)
    found = put_back(image, dark, (-ramp_xy[0] + 0.01 * off, -ramp_xy[1]), near)
    assert found is not None
    back, by = found
    assert by == pytest.approx(tuple(-s for s in shift), abs=1e-3)
    assert np.abs(back) == pytest.approx(np.abs(values), abs=3e-3)
    # Its ramp is still there. (What came over an edge has lost its place in it.)
    expected = turned(values, ramp_xy)[4:-4, 4:-4]
    back = back[4:-4, 4:-4]
    phase = np.angle(np.vdot(expected, back))
    assert np.abs(back * np.exp(-1j * phase) - expected).max() < 5e-3


def test_shifts_of_the_origin_are_told_from_those_of_the_canvas() -> None:
    values, dark = plain()
    found = put_back(moved(values, 0.3, -0.4), dark, (0.0, 0.0), (-7.28, 4.41))
    assert found is not None
    assert found[1] == pytest.approx((-0.3, 0.4), abs=1e-3)
    found = put_back(np.roll(values, (3, -2), (0, 1)), dark, (0.0, 0.0), (2.2, -2.9))
    assert found is not None
    assert found[1] == (2.0, -3.0)
    assert np.allclose(found[0], values)


def test_what_cannot_be_put_back() -> None:
    values, dark = plain()
    assert put_back(values, dark, (0.1, 0.0), (2.0, 1.0)) is None  # is where it was
    shifted = moved(values, 0.3, -0.4)
    few = np.zeros_like(dark)
    few[0, :8] = few[1, :7] = True
    assert put_back(shifted, few, (0.0, 0.0), (-0.3, 0.4)) is None
    few[2, 0] = True
    assert put_back(shifted, few, (0.0, 0.0), (-0.3, 0.4)) is not None
    spline = ndimage.shift(values, (0.5, 0.5), order=3)
    assert put_back(spline, dark, (0.0, 0.0), (-0.5, -0.5)) is None


def test_dark_is_what_is_nothing_beside_the_rest() -> None:
    values, dark = plain()
    assert is_dark(values, dark)
    assert not is_dark(values, np.zeros_like(dark))
    assert not is_dark(np.zeros_like(values), np.ones_like(dark))
    size = np.abs(values[~dark]).mean()
    for part, expected in ((0.9e-4, True), (1.1e-4, False)):
        almost = values.copy()
        almost[0, 0] = part * size * 1j
        assert is_dark(almost, dark) is expected


def test_slopes_are_derivatives() -> None:
    values = plain()[0]
    start = np.array([0.3, -0.6, 0.0, 0.0])

    def at(p: NDArray[np.float64]) -> Complex:
        return _Way(values, (0.05, 0.02), (p[0], p[1]), (11.0, 17.0)).by((p[2], p[3]))

    image, *slopes = _Way(values, (0.05, 0.02), (0.3, -0.6), (11.0, 17.0)).slopes((0.0, 0.0))
    assert np.allclose(image, at(start))
    for k, slope in enumerate(slopes):
        step = np.eye(4)[k] * 1e-5
        assert np.allclose(slope, (at(start + step) - at(start - step)) / 2e-5, atol=1e-5), k
