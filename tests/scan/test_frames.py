"""One intake of frames: lazy, a view when selected, measured once under the mask."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ptycho_torch.errors import DataError
from ptycho_torch.physics.units import amplitude_normalisation
from ptycho_torch.scan import Scan
from ptycho_torch.scan.facts import Cut
from ptycho_torch.scan.frames import ArrayFrames, FrameSource
from ptycho_torch.scan.prefetch import one_ahead, stretches
from strategies import seeds

COUNTS = np.random.default_rng(0).poisson(20, (11, 8, 8)).astype(np.uint16)


class Counting(ArrayFrames):
    """Says how many frames were read."""

    reads = 0

    def stored(self, which: Any) -> NDArray[Any]:
        values = super().stored(which)
        self.__class__.reads += len(values)
        return values


@pytest.fixture
def counting() -> Counting:
    Counting.reads = 0
    return Counting(COUNTS, counts=True)


def scan_of(frames: Any, **changes: Any) -> Scan:
    return Scan(frames, np.random.default_rng(1).uniform(0, 30, (len(frames), 2)), **changes)


@given(seeds, st.booleans(), st.booleans())
@settings(deadline=None)
def test_it_is_indexed_like_the_array_it_stands_for(seed: int, counts: bool, masked: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.poisson(5, (7, 4, 4)).astype(rng.choice(["u1", "u2", "u4", "f4", "f8"]))
    good = rng.random((4, 4)) > 0.3 if masked else None
    expected = np.sqrt(values.astype(np.float32)) if counts else values.astype(np.float32)
    if good is not None:
        expected = np.where(good, expected, 0)
    frames = ArrayFrames(values, counts=counts, good=good)
    some = rng.integers(-7, 7, 5)
    for index in (
        3,
        -1,
        slice(2, 5),
        slice(None, None, 2),
        slice(5, 2),
        some,
        some > 0,
        [1],
        ...,
        (2, 1),
        (slice(1, 3), 2),
    ):
        if isinstance(index, np.ndarray) and index.dtype == bool:
            index = np.resize(index, 7)
        np.testing.assert_array_equal(frames[index], expected[index])
        assert frames[index].dtype == np.float32
    np.testing.assert_array_equal(np.asarray(frames), expected)
    np.testing.assert_array_equal(frames.select(some % 7).select([1, 0])[:], expected[some % 7][[1, 0]])
    joined = list(frames.select(slice(1, 6)).chunks(2))
    assert [part for part, _ in joined] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    np.testing.assert_array_equal(np.concatenate([piece for _, piece in joined]), expected[1:6])


def test_integers_stay_integers_and_nothing_is_copied() -> None:
    scan = scan_of(ArrayFrames(COUNTS, counts=True))
    part = scan.select(slice(2, 9)).select([4, 3, 2])
    assert part.frames.base.values is COUNTS
    assert part.frames.stored_dtype == np.uint16
    floats = scan_of(np.sqrt(COUNTS.astype(np.float32)))
    assert np.shares_memory(floats.select(slice(3, 8)).frames[:], np.asarray(floats.frames))
    assert dataclasses.replace(scan, positions=scan.positions + 1).frames is scan.frames


def test_all_facts_cost_one_pass_for_a_scan_and_its_parts(counting: Counting) -> None:
    scan = scan_of(counting)
    assert scan.frames.counts_known
    assert scan.mean_power == pytest.approx(COUNTS.sum() / len(COUNTS))
    assert scan.normalisation == amplitude_normalisation(scan.frames)
    part = scan.select([7, 2, 2]).select([1, 0])
    assert part.mean_power == pytest.approx(COUNTS[[2, 7]].sum() / 2)
    assert part.frames.counts_known
    assert counting.reads == len(COUNTS)


def test_a_part_that_is_measured_first_reads_itself_alone(counting: Counting) -> None:
    part = scan_of(counting).select([7, 2])
    assert part.mean_power == pytest.approx(COUNTS[[2, 7]].sum() / 2)
    assert counting.reads == 2


def test_a_hot_pixel_that_is_masked_changes_nothing() -> None:
    frames = np.sqrt(COUNTS.astype(np.float32))
    good = np.ones((8, 8), bool)
    good[2, 5] = False
    hot = frames.copy()
    hot[:, 2, 5] = 1e5
    quiet, loud = scan_of(frames, good_pixels=good), scan_of(hot, good_pixels=good)
    assert loud.normalisation == quiet.normalisation
    assert loud.select([1, 4]).mean_power == quiet.select([1, 4]).mean_power
    np.testing.assert_array_equal(loud.frames[:], quiet.frames[:])
    assert (loud.frames[:, 2, 5] == 0).all()
    # A mask that comes later counts, too, also where everything had been measured.
    measured = scan_of(hot)
    assert measured.normalisation < quiet.normalisation / 100
    late = dataclasses.replace(measured, good_pixels=good)
    assert late.normalisation == quiet.normalisation
    part = dataclasses.replace(measured.select([3, 5]), good_pixels=good)
    assert part.mean_power == quiet.select([3, 5]).mean_power


def test_counts_and_amplitudes_have_the_same_power() -> None:
    counts, amplitudes = ArrayFrames(COUNTS, counts=True), ArrayFrames(np.sqrt(COUNTS.astype(np.float64)))
    assert counts.mean_power == pytest.approx(amplitudes.mean_power, rel=1e-6)
    assert counts.mean_power == pytest.approx(
        float(np.square(counts[:], dtype=np.float64).sum()) / 11, rel=1e-6
    )


@given(seeds, st.sampled_from([1, 2, 3]), st.integers(2, 6), st.booleans())
@settings(deadline=None)
def test_crop_and_bin(seed: int, bins: int, edge: int, counts: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.poisson(9, (3, 21, 24)).astype(np.uint16)
    size = bins * edge
    cut = Cut.middle((21, 24), size, bins, (10, 12))
    good = rng.random((edge, edge)) > 0.2
    frames = ArrayFrames(values, cut, counts=counts, good=good)
    row, column = 10 - size // 2, 12 - size // 2
    power = values.astype(float) if counts else values.astype(float) ** 2
    expected = np.zeros((3, edge, edge))
    for i in range(edge):
        for j in range(edge):
            at = np.s_[:, row + bins * i : row + bins * (i + 1), column + bins * j : column + bins * (j + 1)]
            expected[:, i, j] = np.sqrt(power[at].sum((1, 2))) * good[i, j]
    np.testing.assert_allclose(frames[:], expected, rtol=1e-6)
    np.testing.assert_allclose(frames.power, (expected**2).sum((1, 2)), rtol=1e-6)
    # The zero frequency, stored pixel (10, 12), is in the middle pixel again.
    assert (10 - row) // bins == edge // 2 == (12 - column) // bins


@pytest.mark.parametrize(("size", "bins"), [(22, 1), (20, 3), (0, 1), (12, 0)])
def test_cuts_that_do_not_fit(size: int, bins: int) -> None:
    with pytest.raises(DataError, match=r"crop|bin"):
        Cut.middle((21, 24), size, bins, (10, 12))


def test_darkness_has_no_normalisation() -> None:
    with pytest.raises(DataError, match="zero everywhere"):
        scan_of(np.zeros((3, 4, 4), np.float32)).normalisation  # noqa: B018


def test_arithmetic_is_that_of_the_array() -> None:
    frames = ArrayFrames(COUNTS, counts=True)
    whole = np.asarray(frames)
    np.testing.assert_array_equal(frames**2, whole**2)
    np.testing.assert_array_equal(np.float32(2) * frames, 2 * whole)
    np.testing.assert_array_equal(np.add.reduce(frames), whole.sum(0))
    assert frames.astype(float).dtype == np.float64


def test_a_source_of_ones_own_needs_one_method() -> None:
    class Ramp(FrameSource):
        def stored(self, which: Any) -> NDArray[Any]:
            return np.ones((len(np.arange(len(self))[which]), 4, 4)) * np.arange(len(self))[which, None, None]

    frames = Ramp(5, Cut(slice(0, 4), slice(0, 4)))
    scan = scan_of(frames)
    np.testing.assert_array_equal(scan.select([3, 1]).frames[:, 0, 0], [3, 1])
    np.testing.assert_allclose(frames.power, 16 * np.arange(5.0) ** 2)


def test_one_part_is_read_ahead_and_no_more() -> None:
    started: list[int] = []

    def read(part: slice) -> int:
        started.append(part.start)
        return part.start

    for taken, start in enumerate(one_ahead(read, stretches(12, 2))):
        assert start == 2 * taken
        assert len(started) <= taken + 2
    assert started == [0, 2, 4, 6, 8, 10]
    assert list(one_ahead(read, [])) == []


def test_the_next_part_is_read_while_this_one_is_in_use() -> None:
    second = threading.Event()

    def read(part: slice) -> int:
        if part.start == 1:
            second.set()
        return part.start

    parts = one_ahead(read, stretches(3, 1))
    assert next(parts) == 0
    assert second.wait(10)
    parts.close()  # type: ignore[attr-defined]


def test_everything_at_once_has_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = ArrayFrames(COUNTS, counts=True)
    monkeypatch.setattr("ptycho_torch.files.memory.memory_limit", lambda: 4 * COUNTS.size - 1)
    with pytest.raises(DataError, match=r"frames: needs .* chunks\(\)"):
        np.asarray(frames)
    assert frames[:5].shape == (5, 8, 8)
