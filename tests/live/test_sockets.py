"""What senders owe to whoever listens: the last message as well as the first."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
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
