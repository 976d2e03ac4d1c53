from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation.alignment import Aligned, align, overlap
from ptycho_torch.evaluation.reference import Reference


def thing(
    height: int, width: int, shift: tuple[float, float] = (0, 0), seed: int = 0
) -> NDArray[np.complex128]:
    """A smooth periodic object, moved by (rows, columns) exactly."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, height, width)), (0, 2, 2), mode="wrap")
    noise /= noise.std()
    spectrum = np.fft.fft2(np.exp(0.2 * noise[0] + 0.5j * noise[1]))
    return np.fft.ifft2(ndimage.fourier_shift(spectrum, shift))


def reference(values: NDArray[np.complex128], origin: tuple[float, float] = (0, 0)) -> Reference:
    return Reference(values.astype(np.complex64), np.ones(values.shape, np.float32), origin)


def compared(both: Aligned, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """What is compared, on the whole canvas of a reference at (0, 0)."""
    whole = np.zeros(shape, bool)
    x, y = map(round, both.origin_xy)
    whole[y : y + both.region.shape[0], x : x + both.region.shape[1]] = both.region
    return whole


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 10), st.integers(-20, 20), st.integers(-20, 20))
def test_phase_and_scale_are_undone_wherever_it_lies(phase: float, scale: float, x: int, y: int) -> None:
    whole = thing(60, 70)
    image = reference(whole[10:50, 5:60] * np.exp(-1j * phase) / scale, (5.0 + x, 10.0 + y))
    both = align(image, reference(whole, (float(x), float(y))))
    assert both.alignment.shift_xy == pytest.approx((0, 0), abs=1e-5)
    assert both.alignment.ramp_xy == pytest.approx((0, 0), abs=1e-6)
    assert abs(np.angle(np.exp(1j * (both.alignment.phase - phase)))) < 1e-5
    assert both.alignment.amplitude_scale == pytest.approx(scale, rel=1e-5)
    assert both.origin_xy == (5 + x, 10 + y)
    assert both.alignment.middle_xy == pytest.approx((5 + x + 27, 10 + y + 19.5))
    assert np.allclose(both.image, both.reference, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.floats(-4, 4), st.floats(-4, 4))
def test_registration_finds_the_shift(rows: float, columns: float) -> None:
    moved = reference(thing(96, 80, (rows, columns)))
    both = align(moved, reference(thing(96, 80)))
    assert both.alignment.shift_xy == pytest.approx((-columns, -rows), abs=1e-3)
    error = np.abs(both.image - both.reference)[both.region]
    assert np.sqrt(np.mean(error**2)) < 1e-3
    assert both.region.sum() >= (96 - 2 * 4 - 5) * (80 - 2 * 4 - 5)


def test_the_region_is_where_both_are_known() -> None:
    whole = thing(40, 40)
    weight, other = np.ones((40, 40), np.float32), np.ones((40, 40), np.float32)
    weight[:, :10] = 0.29
    other[:5] = 0
    mask = np.ones((40, 40), bool)
    mask[:, 30:] = False
    image = Reference(whole.astype(np.complex64), weight)
    reference_ = Reference(whole.astype(np.complex64), other)
    both = align(image, reference_, region=mask, keep=["shift"])
    assert both.region.sum() == 35 * 20
    assert both.region[5:, 10:30].all()
    # Where the image may move, what is near the unknown is not compared.
    both = align(image, reference_, region=mask)
    assert both.region.sum() == 27 * 16
    assert both.region[9:36, 14:30].all()


@pytest.mark.parametrize("shift", [(0.0, 0.4), (-3.9, 2.5)])
def test_small_shifts_leave_the_region_as_it_is(shift: tuple[float, float]) -> None:
    still, moved = (align(reference(thing(60, 60, s)), reference(thing(60, 60))) for s in ((0, 0), shift))
    for both in (still, moved):
        assert np.array_equal(compared(both, (60, 60)), np.pad(np.ones((52, 52), bool), 4))


def test_larger_shifts_compare_only_what_the_image_shows() -> None:
    both = align(reference(thing(60, 60, (0, 9.5))), reference(thing(60, 60)))
    assert both.alignment.shift_xy == pytest.approx((-9.5, 0), abs=1e-3)
    whole = compared(both, (60, 60))
    assert not whole[:, 60 - 9 - 4 :].any()
    assert whole[6:-6, 4 : 60 - 10 - 5].all()


@pytest.mark.parametrize("keep", [[], ["shift"]])
def test_pixel_grids_between_each_other(keep: list[str]) -> None:
    """An image whose positions, and with them its origin, lie between the reference's pixels."""
    moved = reference(thing(60, 70, (-0.25, 0.4)), (9.6, 5.25))
    both = align(moved, reference(thing(60, 70), (10.0, 5.0)), keep=keep)
    assert both.alignment.shift_xy == pytest.approx((0, 0), abs=1e-3)
    assert np.abs(both.image - both.reference)[both.region].max() < 1e-2


def test_what_cannot_be_compared() -> None:
    one = reference(thing(30, 30))
    with pytest.raises(DataError, match="no pixel in common: reconstruction at"):
        align(one, reference(thing(30, 30), (30.0, 0.0)))
    with pytest.raises(DataError, match="at least 16 pixels known in both, found 9"):
        align(one, reference(thing(30, 30), (27.0, 27.0)), keep=["shift"])
    with pytest.raises(DataError, match="at least 16 pixels known in both, found 4"):
        align(one, reference(thing(30, 30), (20.0, 20.0)))
    with pytest.raises(DataError, match="zeros everywhere"):
        align(one, reference(np.zeros((30, 30), complex)))
    with pytest.raises(DataError, match=r"region: expected bool of shape \(30, 30\)"):
        align(one, one, region=np.ones((3, 3), bool))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(-14, 14), st.integers(-14, 14))
def test_overlap_shows_the_same_place(height: int, width: int, x: int, y: int) -> None:
    rows, columns = np.indices((40, 40))
    place = rows * 100 + columns
    a, b = place[15:25, 15:27], place[15 + y : 15 + y + height, 15 + x : 15 + x + width] if x >= -15 else None
    assert b is not None
    meets = -width < x < 12 and -height < y < 10
    if not meets:
        with pytest.raises(DataError):
            overlap((15.0, 15.0), a.shape, (15.0 + x, 15.0 + y), b.shape)
        return
    ours, theirs = overlap((15.0, 15.0), a.shape, (15.0 + x, 15.0 + y), b.shape)
    assert np.array_equal(a[ours], b[theirs])
    assert a[ours].size == np.intersect1d(a, b).size
