"""Pairing: every order, every fault, everything accounted for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.live.pairing import MOST_NUMBER, Pairing

events = st.lists(st.tuples(st.booleans(), st.integers(-2, 12)), max_size=60)


@given(events)
def test_whatever_comes_is_paired_by_number_or_refused_or_waits(given_events: list[tuple[bool, int]]) -> None:
    pairing, pairs = Pairing(), []
    first: dict[tuple[bool, int], int] = {}
    for at, (is_frame, number) in enumerate(given_events):
        if number >= 0:
            first.setdefault((is_frame, number), at)
        pair = pairing.frame(number, at) if is_frame else pairing.position(number, float(at), -float(at))
        if pair is not None:
            pairs.append(pair)
        for account in (pairing.frames, pairing.positions):
            assert account.waiting >= 0
    frames = {n for is_frame, n in first if is_frame}
    places = {n for is_frame, n in first if not is_frame}
    assert {pair.number for pair in pairs} == frames & places
    assert len(pairs) == len(frames & places)
    for pair in pairs:  # the first of each counts, and each lies where its own position says
        assert pair.slot == first[True, pair.number]
        assert pair.x == first[False, pair.number] == -pair.y
    assert pairing.frames.waiting == len(frames - places)
    assert pairing.positions.waiting == len(places - frames)
    pairing.close()
    for account, kind in ((pairing.frames, True), (pairing.positions, False)):
        assert account.waiting == 0
        assert account.received == sum(is_frame is kind for is_frame, _ in given_events)
        assert account.received == account.paired + account.refused.total()


def test_what_waits_is_bounded_and_what_gives_way_is_counted() -> None:
    pairing = Pairing(most_waiting=10)
    for number in range(25):
        pairing.frame(number, number)
    assert (pairing.frames.waiting, pairing.frames.refused.total()) == (10, 15)
    assert pairing.position(3, 0, 0) is None  # its frame gave way
    pair = pairing.position(20, 1, 2)
    assert pair is not None
    assert pair.number == 20


def test_gigantic_numbers_take_no_memory() -> None:
    pairing = Pairing()
    assert pairing.frame(MOST_NUMBER, 0) is None
    assert pairing.position(1 << 80, 0.0, 0.0) is None
    assert pairing.frames.refused == pairing.positions.refused == {"number out of range": 1}
    assert not pairing.knows(1 << 80)


def test_missing_are_the_numbers_below_the_highest_that_no_frame_had() -> None:
    pairing = Pairing()
    for number in (0, 1, 4):
        pairing.frame(number, number)
    pairing.position(6, 0, 0)
    assert pairing.missing() == 4
    assert pairing.missing(9) == 6
    pairing.close()  # frames that came are not missing for want of a position
    assert pairing.missing(9) == 6
