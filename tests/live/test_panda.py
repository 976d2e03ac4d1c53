"""Encoder samples and what a position message may hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("zmq")

from ptycho_torch.errors import DataError
from ptycho_torch.live.sources.base import SourceOptions
from ptycho_torch.live.sources.panda import Panda, Samples


@given(st.integers(1, 5), st.integers(1, 9), st.randoms(use_true_random=False))
def test_means_do_not_depend_on_how_samples_come(each: int, frames: int, random: Any) -> None:
    values = np.random.default_rng(0).normal(size=(each * frames, 2))
    pieces, at = [], 0
    while at < len(values):
        size = random.randint(1, 7)
        pieces.append((at, values[at : at + size]))
        at += size
    pieces += random.sample(pieces, len(pieces) // 2)  # some come twice
    random.shuffle(pieces)
    samples, got = Samples(each), {}
    for first, part in pieces:
        for number, x, y in samples.add(first, part[:, 0], part[:, 1]):
            assert each == 1 or number not in got
            got[number] = x, y
    wanted = values.reshape(frames, each, 2).mean(1)
    assert sorted(got) == list(range(frames))
    assert np.allclose([got[n] for n in range(frames)], wanted)


def test_what_is_left_at_the_end_is_the_mean_of_what_came() -> None:
    samples = Samples(4)
    assert samples.add(0, np.array([1.0, 3.0]), np.array([2.0, 2.0])) == []
    assert samples.rest() == [(0, 2.0, 2.0)]


class Heard:
    """A receiver that remembers."""

    def __init__(self) -> None:
        self.places: list[tuple[int, float, float]] = []
        self.ended: list[str] = []

    def position(self, number: int, x: float, y: float) -> None:
        self.places.append((number, x, y))

    def positions(self, batch: Sequence[tuple[int, float, float]]) -> None:
        self.places += batch

    def end(self, kind: str, count: int | None = None) -> None:
        self.ended.append(kind)

    def say(self, text: str) -> None:
        pass

    def refuse(self, kind: str, reason: str) -> None:
        raise AssertionError(reason)


@pytest.fixture
def panda() -> Iterator[Panda]:
    made = Panda("tcp://127.0.0.1:9", SourceOptions(samples=2))
    monitor = made._socket.get_monitor_socket()  # held: whoever stops a monitor waits for its other end
    yield made
    made._socket.disable_monitor()
    monitor.close()
    made._socket.close()


def channels(first: Any = 0, x: Any = (1.0, 3.0), y: Any = (5.0, 7.0)) -> dict[str, Any]:
    return {
        "msg_type": "data",
        "datasets": {
            "/INENC1.VAL.Value": {"starting_sample_number": first, "data": x},
            "/INENC2.VAL.Value": {"starting_sample_number": first, "data": y},
        },
    }


def test_messages_are_understood(panda: Panda) -> None:
    heard = Heard()
    for message in ({"msg_type": "start"}, channels(), {"frame_number": 9, "x": 1, "y": 2}):
        assert not panda._take([json.dumps(message).encode()], heard)  # type: ignore[arg-type]
    assert panda._take([b'{"msg_type": "stop"}'], heard)  # type: ignore[arg-type]
    assert (heard.places, heard.ended) == ([(0, 2.0, 6.0), (9, 1, 2)], ["position"])


@pytest.mark.parametrize(
    "message",
    [
        b"", b"\xff\xfe", b"[" * 100_000, b"[]", b"{}", b'{"msg_type": "data"}', b'{"msg_type": 3}',
        json.dumps(channels(first=-4)).encode(), json.dumps(channels(first=1 << 90)).encode(),
        json.dumps(channels(first=1.5)).encode(),
        json.dumps(channels(x=[1.0])).encode(), json.dumps(channels(x=[["a"]])).encode(),
        json.dumps(channels(x={"a": 1})).encode(),
        json.dumps(channels(x=[[1.0, 2.0]], y=[[1.0, 2.0]])).encode(), b'{"frame_number": 1, "x": "a", "y": 2}',
        b'{"msg_type": "data", "datasets": {"x": {}, "y": {}}}',
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(panda: Panda, message: bytes) -> None:
    with pytest.raises(DataError):
        panda._take([message], Heard())  # type: ignore[arg-type]
