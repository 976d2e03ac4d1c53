"""When patches of one batch are compared with each other, in whatever unit they are, and where the canvas lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptycho_torch.reconstruction.stitching import Canvas

SIZE = 24


def asked(
    monkeypatch: pytest.MonkeyPatch,
    seen: int,
    agreed: float,
    compared: float,
    corners: list[tuple[int, int]],
    turn: float = 0.0,
) -> tuple[bool, Canvas]:
    """Whether three crops of one object are compared with each other, after others lie where x < 30."""
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(80, 120)) + 1j * rng.normal(size=(80, 120))
    first = [(0, 0), (6, 3), (2, 8)]
    places = np.array([*first, *corners, (90, 50)]) + SIZE / 2
    canvas = Canvas(places, SIZE)
    told: list[int] = []
    plain = Canvas._inner_links

    def inner_links(self: Canvas, part: object) -> object:
        told.append(1)
        return plain(self, part)  # type: ignore[arg-type]

    for batch in (first, corners):
        monkeypatch.setattr(Canvas, "_inner_links", inner_links if batch is corners else plain)
        crops = np.stack([whole[y : y + SIZE, x : x + SIZE] for x, y in batch])[:, None]
        if batch is corners:
            canvas._seen, canvas._agreed, canvas._compared = seen, agreed, compared
            crops = crops * np.exp(1j * turn)
        canvas.add(torch.from_numpy(crops).to(torch.complex64), np.array(batch)[:, None] + SIZE / 2)
    return bool(told), canvas


HERE = [(4, 4), (8, 2), (1, 5)]
ELSEWHERE = [(80, 40), (85, 44), (82, 48)]


@pytest.mark.parametrize(
    ("seen", "agreed", "compared", "compares"),
    [
        (31, 10.0, 10.0, True), (32, 10.0, 10.0, False),
        (32, 9.4, 10.0, True), (32, 9.6, 10.0, False), (32, 0.96, 1.0, False), (32, 0.3, 0.4, True),
    ],
)  # fmt: skip
def test_patches_are_compared_with_each_other_until_enough_were_seen_to_agree(
    seen: int, agreed: float, compared: float, compares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, canvas = asked(monkeypatch, seen, agreed, compared, HERE)
    assert found == compares
    # The canvas is compared with each of the three, and they with each other.
    assert canvas._seen == seen + (6 if compares else 3)


@pytest.mark.parametrize(("turn", "compares"), [(0.25, False), (0.35, True), (0.8, True), (2.0, True)])
def test_those_that_disagree_with_a_settled_canvas_are_compared_all_the_same(
    turn: float, compares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(monkeypatch, 100, 10.0, 10.0, HERE, turn)[0] == compares


@pytest.mark.parametrize("batches", [[2], [1, 1]], ids=str)
@pytest.mark.parametrize("rim", [0.1, 0.5])
def test_an_overlap_counts_by_the_light_of_both(rim: float, batches: list[int]) -> None:
    """A bright middle of 8 columns; what overlaps are 8 of the rim of each."""
    weight = np.full((SIZE, SIZE), rim)
    weight[:, 8:16] = 1
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(SIZE, 60)) + 1j * rng.normal(size=(SIZE, 60))
    crops = np.stack([whole[:, :SIZE], whole[:, 16 : 16 + SIZE] * 1j])[:, None]
    places = np.array([[0.0, 0.0], [16.0, 0.0]])
    found = []
    for align in (False, True):
        canvas, start = Canvas(places, SIZE, weight, align=align), 0
        for count in batches:
            part = torch.from_numpy(crops[start : start + count]).to(torch.complex64)
            canvas.add(part, places[start : start + count, None])
            start += count
        found.append(canvas.finish()[0])
    assert np.array_equal(*found) == (8 * rim**2 / (8 + 16 * rim**2) < 0.05)


def test_a_settled_canvas_takes_patches_that_lie_elsewhere_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, canvas = asked(monkeypatch, 100, 10.0, 10.0, ELSEWHERE)
    assert not found
    assert (canvas._seen, canvas._agreed, canvas._compared) == (100, 10.0, 10.0)
    found, canvas = asked(monkeypatch, 0, 10.0, 10.0, ELSEWHERE)
    assert found
    assert canvas._seen == 3


def test_a_new_canvas_has_seen_nothing() -> None:
    canvas = Canvas(np.zeros((1, 2)), SIZE)
    assert canvas._seen == 0
    assert canvas._agreed == canvas._compared == 2.0


def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops of one object with phases of their own, and their places."""
    rng = np.random.default_rng(2)
    whole = rng.normal(size=(60, 60)) + 1j * rng.normal(size=(60, 60))
    corners = rng.integers(0, 14, (count, 2))
    crops = np.stack([whole[y : y + SIZE, x : x + SIZE] for x, y in corners])
    return crops * np.exp(1j * rng.uniform(-3, 3, count))[:, None, None], corners + SIZE / 2


def stitched(crops: np.ndarray, places: np.ndarray, each: int) -> tuple[np.ndarray, Canvas]:
    canvas = Canvas(places, SIZE)
    for start in range(0, len(crops), each):
        part = torch.from_numpy(crops[start : start + each, None]).to(torch.complex64)
        canvas.add(part, places[start : start + each, None])
    return canvas.finish()[0], canvas


@pytest.mark.parametrize("each", [1, 4, 12])
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_objects_are_compared_alike_whatever_their_unit(factor: float, each: int) -> None:
    crops, places = drawn(12)
    plain, _ = stitched(crops, places, each)
    scaled, _ = stitched(factor * crops, places, each)
    np.testing.assert_allclose(scaled, factor * plain, atol=1e-5 * factor)


@pytest.mark.parametrize("each", [1, 4, 13])
def test_a_patch_of_which_nothing_was_found_says_nothing_and_spoils_nothing(each: int) -> None:
    crops, places = drawn(13)
    crops[6] = 0
    with np.errstate(all="raise"):
        found, canvas = stitched(crops, places, each)
    assert np.isfinite([canvas._agreed, canvas._compared]).all()
    assert np.isfinite(found).all()
    others = np.arange(13) != 6
    alone, _ = stitched(crops[others], places[others], 12)
    # Where all of them lie it takes its share of the mean, and turns no other.
    inner = np.abs(alone) > 0
    turn = np.vdot(found[inner], alone[inner])
    ratio = found[inner] * turn / abs(turn) / alone[inner]
    assert np.abs(ratio.imag).max() < 1e-4
    assert ratio.real.min() > 0.4


@pytest.mark.parametrize("each", [1, 4, 12])
def test_what_patches_do_not_have_in_common_is_no_disagreement(each: int) -> None:
    """Half of each is its own: phases agree as far as they can, and all stay as they are."""
    rng = np.random.default_rng(4)
    whole = rng.normal(size=(60, 60)) + 1j * rng.normal(size=(60, 60))
    corners = rng.integers(0, 8, (12, 2))
    crops = np.stack([whole[y : y + SIZE, x : x + SIZE] for x, y in corners])
    crops = crops + 0.8 * (rng.normal(size=crops.shape) + 1j * rng.normal(size=crops.shape))
    turned, canvas = stitched(crops, corners + SIZE / 2, each)
    assert canvas._compared - 2 < 0.8 * canvas._seen  # coherence is well below one
    plain = Canvas(corners + SIZE / 2, SIZE, align=False)
    for start in range(0, 12, each):
        part = torch.from_numpy(crops[start : start + each, None]).to(torch.complex64)
        plain.add(part, corners[start : start + each, None] + SIZE / 2)
    assert np.array_equal(turned, plain.finish()[0])


@pytest.mark.parametrize("size", [8, 9])
def test_the_middle_pixel_of_a_patch_lies_at_its_position_also_where_the_size_is_odd(size: int) -> None:
    place = np.array([[20.0, 11.0]])
    canvas, patch = Canvas(place, size), torch.zeros(1, 1, size, size, dtype=torch.complex64)
    patch[..., size // 2, size // 2] = 1
    canvas.add(patch, place[None])
    row, column = np.argwhere(canvas.finish()[0] != 0)[0]
    x, y = canvas.origin_xy
    assert (x + column, y + row) == (20.0, 11.0)
