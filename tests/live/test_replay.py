"""What a replayed scan looks like as a stream."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.live.replay import ReplayOptions, Stream


@given(
    st.integers(1, 80), st.floats(-3, 3), st.floats(0, 1), st.floats(0, 1), st.booleans(), st.integers(0, 99)
)
def test_faults_are_as_asked_for(
    count: int, skew: float, drop: float, duplicate: float, shuffle: bool, seed: int
) -> None:
    options = ReplayOptions(100.0, skew, drop, duplicate, shuffle, seed=seed)
    plan = Stream.of(count, options)
    sent: dict[str, list[int]] = {"frame": [], "position": []}
    for _, kind, number in plan.events:
        sent[kind].append(number)
    assert set(sent["position"]) == set(range(count))
    assert set(sent["frame"]) == set(range(count)) - set(plan.dropped)
    assert len(plan.dropped) == round(drop * count)
    twice = min(count - len(plan.dropped), round(duplicate * count))
    assert len(sent["frame"]) == count - len(plan.dropped) + twice
    times = [at for at, _, _ in plan.events]
    assert times == sorted(times)
    assert times[0] == 0


def test_skew_is_the_lateness_of_positions() -> None:
    for skew in (-2.0, 2.0):
        plan = Stream.of(10, ReplayOptions(rate=10.0, skew=skew))
        at = {(kind, number): when for when, kind, number in plan.events}
        assert abs(at["position", 3] - at["frame", 3] - skew) < 1e-9


def test_shuffled_frames_and_positions_lose_their_order_each_in_its_own_way() -> None:
    plan = Stream.of(200, ReplayOptions(shuffle=True))
    frames, places = ([n for _, k, n in plan.events if k == kind] for kind in ("frame", "position"))
    assert frames != sorted(frames)
    assert places != frames
