"""What senders owe to whoever listens: the last message as well as the first."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("zmq")
pytest.importorskip("cbor2")

from ptycho_torch.errors import ConfigError
from ptycho_torch.live.intake import Intake
from ptycho_torch.live.sources import SOURCES, SourceOptions
from ptycho_torch.live.sources.panda import PandaSender
from ptycho_torch.live.sources.sockets import connected, let_go, subscribed
from ptycho_torch.live.spool import Spool

COUNT = (
    300  # over TCP: through ipc, ZeroMQ itself loses what a full receiver had not read when its peer closed
)
FRAME = (128, 128)
SENDS = f"""
import os, sys, numpy as np
from ptycho_torch.live.sources import SOURCES
sender = SOURCES.get("simplon2").sender(sys.argv[1])
sender.start({COUNT}, {FRAME}, np.dtype("f4"))
for number in range({COUNT}):
    sender.frame(number, np.full({FRAME}, number, "f4"))
sender.end()
os._exit(0)  # as a process of multiprocessing ends: nothing is tidied up
"""


def address_of(prefix: str = "") -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"{prefix}tcp://127.0.0.1:{probe.getsockname()[1]}"


def reading(source: Any, intake: Intake) -> threading.Thread:
    thread = threading.Thread(target=source.read, args=(intake, threading.Event()), daemon=True)
    thread.start()
    return thread


def test_a_sender_that_exits_at_once_has_sent_everything(tmp_path: Path) -> None:
    """More than fits into the buffers of both systems, and a receiver that comes to read late."""
    address = address_of()
    source = SOURCES.get("simplon2")(address, SourceOptions(most_bytes=1 << 40))
    sender = subprocess.Popen([sys.executable, "-c", SENDS, address])
    time.sleep(2.0)
    intake = Intake(Spool(tmp_path / "spool"))
    thread = reading(source, intake)
    assert sender.wait(30) == 0
    thread.join(30)
    assert not thread.is_alive()  # the end of the series came
    assert intake.pairing.frames.received == intake.pairing.frames.waiting == COUNT


@pytest.mark.parametrize("prefix", ["", "pull+"])
def test_positions_wait_for_whoever_listens(tmp_path: Path, prefix: str) -> None:
    address = address_of(prefix)

    def send() -> None:
        sender = PandaSender(address, 2)
        sender.start(COUNT, FRAME, np.dtype("u2"))
        for number in range(COUNT):
            sender.position(number, number, 1.0)
        sender.end()

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    time.sleep(0.3)
    intake = Intake(Spool(tmp_path / "spool"))
    thread = reading(SOURCES.get("panda")(address, SourceOptions(samples=2)), intake)
    sending.join(20)
    thread.join(20)
    assert not sending.is_alive()
    assert intake.pairing.positions.received == COUNT
    assert intake.ended == {"position"}


def test_a_subscriber_that_is_slow_holds_the_sender_up() -> None:
    import zmq

    address = address_of()
    sender = PandaSender(address, 1000)
    with zmq.Context() as context, context.socket(zmq.SUB) as slow:
        slow.set_hwm(4)
        slow.subscribe(b"")
        slow.connect(address)
        sending = threading.Thread(
            target=lambda: [sender.position(number, 1.0, 1.0) for number in range(1000)], daemon=True
        )
        subscribed(sender._socket)
        sending.start()
        sending.join(1.0)
        got = 0
        while got < 1000 and slow.poll(10_000):
            slow.recv()
            got += 1
        sending.join(20)
        sender.end()  # while somebody is there to take the last message
    assert got == 1000


def test_nobody_there_is_said() -> None:
    import zmq

    with pytest.raises(ConfigError, match="nobody subscribed"):
        subscribed(connected(address_of(), "XPUB", bind=True), 0.05)
    address = address_of()
    sender = connected(address, "PUSH", bind=True)
    with zmq.Context() as context, context.socket(zmq.PULL) as deaf:
        deaf.set_hwm(1)
        deaf.linger = 0
        deaf.connect(address)
        for _ in range(50):
            sender.send(bytes(1 << 20))
        with pytest.raises(ConfigError, match="were not taken"):
            let_go(sender, 0.2)


def joined(port: int, connects: bool) -> socket.socket:
    """A raw connection to a receiver, which connects to us or is connected to."""
    if not connects:
        with socket.create_server(("127.0.0.1", port)) as listening:
            return listening.accept()[0]
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port))
        time.sleep(0.01)


def endless(port: int, connects: bool, ended: threading.Event) -> None:
    """Speak ZeroMQ as a detector does, and send parts behind which more follow until the connection is ended."""
    ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH"
    with joined(port, connects) as peer:
        peer.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 32))
        peer.sendall(b"\x04" + bytes([len(ready)]) + ready)
        got = b""
        while b"READY" not in got:
            got += peer.recv(4096)
        with contextlib.suppress(OSError):
            while True:
                peer.sendall(b"\x03" + (60_000).to_bytes(8, "big") + bytes(60_000))
    ended.set()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells what a connection received"
)
@pytest.mark.parametrize("prefix", ["", "@"])
def test_a_message_without_an_end_ends_its_connection(tmp_path: Path, prefix: str) -> None:
    address, ended = address_of(prefix), threading.Event()
    port = int(address.rpartition(":")[2])
    threading.Thread(target=endless, args=(port, bool(prefix), ended), daemon=True).start()
    intake = Intake(Spool(tmp_path / "spool"))
    reading(SOURCES.get("simplon2")(address, SourceOptions(most_bytes=1 << 20)), intake)
    assert ended.wait(30)
    for _ in range(1000):
        if intake.pairing.frames.refused:
            break
        time.sleep(0.01)
    assert intake.facts()["frames"]["why"]["an endless message: connection ended"] == 1


ODD: dict[str, Any] = {
    "a frame number below 0": {"image_id": -1},
    "a frame number that no array has": {"image_id": 2**63},
    "a frame number of a thousand digits": {"image_id": 10**1000},
    "a frame number that is none": {"image_id": 1.0},
    "a series whose name takes megabytes": {"series_id": "x" * 500_000},
    "a series of a million digits": {"series_id": 1 << 400_000},
    "a channel whose name Python does not print": {"data": {1 << 40_000: 0, 1: 0}},
    "no channels": {"data": {}},
    "two axes that are three": {"shape": [4, 4, 4]},
    "a shape that fills all memory": {"shape": [1 << 31, 1 << 31]},
    "another size in the stream": {"claims": 1 << 60},
    "nothing but a header": {"claims": 32, "packed": b""},
}


def odd(cbor: Any, changed: dict[str, Any]) -> bytes:
    """An image of 4 x 4 with something wrong in it."""
    tag = cbor.CBORTag
    packed = (
        changed.get("claims", 32).to_bytes(8, "big") + bytes([0, 0, 32, 0]) + changed.get("packed", bytes(40))
    )
    array = tag(40, [changed.get("shape", [4, 4]), tag(69, tag(56500, ["bslz4", 2, packed]))])
    image = {"type": "image", "series_id": 1, "image_id": 5, "data": {"a": array}}
    made: bytes = cbor.dumps({**image, **{key: changed[key] for key in image if key in changed}})
    return made


@pytest.mark.parametrize("what", ODD)
def test_odd_images_are_counted_and_the_next_is_read(tmp_path: Path, what: str) -> None:
    import cbor2

    source: Any = SOURCES.get("simplon2")(address_of(), SourceOptions(most_bytes=1 << 20))
    intake = Intake(Spool(tmp_path / "spool"))
    with sent_by_hand(source, intake) as peer:
        peer.send(odd(cbor2, ODD[what]))
        good = cbor2.CBORTag(40, [[4, 4], cbor2.CBORTag(69, np.ones((4, 4), "u2").tobytes())])
        peer.send(cbor2.dumps({"type": "image", "series_id": 1, "image_id": 0, "data": {"a": good}}))
        peer.send(cbor2.dumps({"type": "end", "series_id": 1}))
    frames = intake.pairing.frames
    assert (frames.received, frames.refused.total(), frames.waiting) == (2, 1, 1)


ODD_PLACES: dict[str, Any] = {
    "no number": {"frame_number": 1, "x": float("nan"), "y": 0.0},
    "no end": {"frame_number": 1, "x": float("inf"), "y": 0.0},
    "beyond all samples": {"frame_number": 1, "x": 1e300, "y": 0.0},
    "more than a number can be": {"frame_number": 1, "x": 10**400, "y": 0.0},
    "of no frame": {"frame_number": -1, "x": 0.0, "y": 0.0},
    "of a frame beyond counting": {"frame_number": 2**63, "x": 0.0, "y": 0.0},
    "without channels": {"msg_type": "data", "datasets": {}},
    "of samples that are lists": {
        "msg_type": "data",
        "datasets": {name: {"starting_sample_number": 0, "data": [[1.0], [2.0, 3.0]]} for name in "xy"},
    },
    "of samples before the first": {
        "msg_type": "data",
        "datasets": {name: {"starting_sample_number": -4, "data": [1.0] * 4} for name in "xy"},
    },
}


@pytest.mark.parametrize("what", ODD_PLACES)
def test_odd_positions_are_counted_and_the_next_is_read(tmp_path: Path, what: str) -> None:
    source = SOURCES.get("panda")(address_of("pull+"), SourceOptions())
    intake = Intake(Spool(tmp_path / "spool"))
    with sent_by_hand(source, intake) as peer:
        peer.send(json.dumps(ODD_PLACES[what]).encode())
        peer.send(b'{"frame_number": 0, "x": 1.0, "y": 2.0}')
        peer.send(b'{"msg_type": "stop"}')
    places = intake.pairing.positions
    assert (places.received, places.refused.total(), places.waiting) == (2, 1, 1)


@contextlib.contextmanager
def sent_by_hand(source: Any, intake: Intake) -> Iterator[Any]:
    """A socket whose messages a source has read when the block ends; the last one must say so."""
    import zmq

    thread = reading(source, intake)
    with zmq.Context() as context, context.socket(zmq.PUSH) as peer:
        peer.bind(source.address.removeprefix("pull+"))
        yield peer
        thread.join(20)
    assert not thread.is_alive()


def test_millions_of_samples_in_a_message_take_little_memory(tmp_path: Path) -> None:
    """They are handed on in parts; what is waiting is bounded, and what gives way is counted."""

    class Counted(Intake):
        most = 0

        def positions(self, batch: Any) -> None:
            self.most = max(self.most, len(batch))
            super().positions(batch)

    intake = Counted(Spool(tmp_path / "spool"), most_waiting=100)
    source = SOURCES.get("panda")(address_of("pull+"), SourceOptions())
    sets = {name: {"starting_sample_number": 0, "data": [1] * 20_000} for name in "xy"}
    with sent_by_hand(source, intake) as peer:
        peer.send(json.dumps({"msg_type": "data", "datasets": sets}).encode())
        peer.send(b'{"msg_type": "stop"}')
    assert intake.most < 10_000
    places = intake.pairing.positions
    assert (places.received, places.waiting) == (20_000, 100)
    assert places.refused == {"no frame, and too many wait": 19_900}
