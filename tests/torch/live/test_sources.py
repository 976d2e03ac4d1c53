"""Each source against the real protocol library: skewed, shuffled, dropped, doubled; nothing unaccounted for."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import small_scan

from ptycho_torch.live.engines import FlatEngine
from ptycho_torch.live.growing import Growing
from ptycho_torch.live.intake import Intake
from ptycho_torch.live.replay import ReplayOptions, Stream, replay, stored_frames
from ptycho_torch.live.session import Ending, Session
from ptycho_torch.live.sources import SOURCES, Source, SourceOptions
from ptycho_torch.live.spool import Spool
from ptycho_torch.scan import Scan, write_scan

SCAN = small_scan(size=16, step=3.0, edge=66)  # about 300 frames
NEEDED = {"simplon1": "zmq", "simplon2": "cbor2", "pva": "p4p"}
SAMPLES = 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def where(kind: str, folder: Path) -> tuple[str, str | None]:
    """Addresses of frames and of positions; None: they come together."""
    if kind in NEEDED:
        pytest.importorskip(NEEDED[kind])
        pytest.importorskip("zmq")
        places = f"pull+tcp://127.0.0.1:{free_port()}"
        scheme = "pva://" if kind == "pva" else "tcp://"
        return f"{scheme}127.0.0.1:{free_port()}" + ("/TEST:IMAGE" if kind == "pva" else ""), places
    return str(folder / ("a.h5" if kind == "swmr" else "in")), None


def session_of(folder: Path, kind: str, address: str, places: str | None, **ending: float) -> Session:
    sources: list[Source] = [SOURCES.get(kind)(address, SourceOptions(poll=0.01))]
    if places is not None:
        sources.append(SOURCES.get("panda")(places, SourceOptions(samples=SAMPLES)))
    intake = Intake(Spool(folder / "spool"))
    growing = Growing(intake, FlatEngine(), SCAN.probe)
    waits: dict[str, Any] = {"patience": 1.0, "silence": 20.0, **ending}
    return Session(intake, growing, sources, Ending(**waits))


def sending(
    scan: Scan, kind: str, address: str, places: str | None, options: ReplayOptions, folder: Path
) -> threading.Thread:
    """Replay in a thread; of HDF5 in another process, since in this one reader and writer would share the file."""

    def send() -> None:
        if kind != "swmr":
            replay(scan, kind, address, options, positions_to=places)
            return
        write_scan(scan, folder / "scan.npz", measurement="counts")
        code = (
            "from ptycho_torch.scan import open_scan; from ptycho_torch.live.replay import *;"
            f"replay(open_scan({str(folder / 'scan.npz')!r}), {kind!r}, {address!r},"
            f" ReplayOptions(**{asdict(options)!r}))"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def check(session: Session, plan: Stream, missing: set[int] | None = None) -> None:
    """All that was sent is accounted for, and every pair holds its own frame and position."""
    facts, pairs = session.facts(), session.intake.pairs()
    lost = set(plan.dropped) | (missing or set())
    assert [pair.number for pair in pairs] == [n for n in range(SCAN.n_frames) if n not in lost]
    frames = session.intake.spool.read(np.array([pair.slot for pair in pairs]))
    counts = stored_frames(SCAN)
    assert all(np.array_equal(frame, counts[pair.number]) for frame, pair in zip(frames, pairs, strict=True))
    places = np.array([(pair.x, pair.y) for pair in pairs])
    assert np.allclose(places, SCAN.positions[[pair.number for pair in pairs]], atol=1e-9)
    for account in (facts["frames"], facts["positions"]):
        assert account["received"] == account["paired"] + account["refused"] + account["waiting"]
        assert account["waiting"] == 0
    assert facts["frames"]["paired"] == session.growing.used == len(pairs)
    assert facts["missing"] == len(lost)


@pytest.mark.parametrize(("seed", "skew"), [(0, 0.3), (1, -0.3)])
@pytest.mark.parametrize("kind", ["simplon1", "simplon2", "pva", "swmr", "folder"])
def test_nothing_is_lost_and_nothing_is_paired_wrongly(
    tmp_path: Path, kind: str, seed: int, skew: float
) -> None:
    address, places = where(kind, tmp_path)
    options = ReplayOptions(1500.0, skew, 0.01, 0.01, True, SAMPLES, seed)
    plan = Stream.of(SCAN.n_frames, options)
    session = session_of(tmp_path, kind, address, places)
    thread = sending(SCAN, kind, address, places, options, tmp_path)
    session.run()
    thread.join(20)
    check(session, plan)
    facts = session.facts()
    doubled = sum(k == "frame" for _, k, _ in plan.events) - (SCAN.n_frames - len(plan.dropped))
    # PVAccess keeps the newest update only; one that is posted twice may be seen once.
    assert facts["frames"]["why"].get("duplicate", 0) == doubled
    assert facts["positions"]["why"] == {"no frame came": len(plan.dropped), "duplicate": doubled}


@pytest.mark.parametrize("often", [True, False])
def test_a_sender_that_is_killed_and_starts_anew_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, often: bool
) -> None:
    """And that is said, even where the scan ends before connections are looked at again."""
    if not often:
        monkeypatch.setattr("ptycho_torch.live.sources.sockets._LOOK", 1e9)
    address, places = where("simplon2", tmp_path)
    session = session_of(tmp_path, "simplon2", address, places, silence=60.0)
    running = threading.Thread(target=session.run, daemon=True)
    running.start()
    first = SOURCES.get("simplon2").sender(address)
    counts = stored_frames(SCAN)
    first.start(SCAN.n_frames, (SCAN.N, SCAN.N), counts.dtype)
    for number in range(100):
        first.frame(number, counts[number])
    while session.intake.pairing.frames.received < 100:
        running.join(0.02)
    first._socket.close()  # type: ignore[attr-defined]
    options = ReplayOptions(rate=0.0, samples=SAMPLES)
    replay(SCAN, "simplon2", address, options, positions_to=places)
    running.join(30)
    check(session, Stream.of(SCAN.n_frames, options))
    facts = session.facts()
    assert facts["frames"]["why"] == {"duplicate": 100}
    said = " ".join(text for _, text in session.intake.said)
    assert "the connection ended" in said
    assert "connected again" in said


HOSTILE = [
    b"",
    b"\xff" * 40,
    b"{}",
    b"\x81" * 100_000,
    b"[" * 100_000,
    b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"x" * 900_000,
]


@pytest.mark.parametrize("kind", ["simplon1", "simplon2"])
def test_hostile_messages_are_counted_and_harm_nothing(tmp_path: Path, kind: str) -> None:
    address, places = where(kind, tmp_path)
    assert places is not None
    import zmq

    options = SourceOptions(most_bytes=1 << 20)
    sources = [
        SOURCES.get(kind)(address, options),
        SOURCES.get("panda")(places, SourceOptions(samples=SAMPLES)),
    ]
    intake = Intake(Spool(tmp_path / "spool"))
    session = Session(intake, Growing(intake, FlatEngine(), SCAN.probe), sources, Ending(patience=1.0))
    running = threading.Thread(target=session.run, daemon=True)
    running.start()

    def until(done: Callable[[], bool]) -> None:
        for _ in range(2000):
            if done():
                return
            running.join(0.01)
        raise AssertionError(f"not within 20 s: {session.facts()}")

    with zmq.Context.instance().socket(zmq.PUSH) as peer:
        peer.linger = 2000
        peer.bind(address)
        for message in HOSTILE:
            peer.send_multipart([message])
            peer.send_multipart([message] * 3)
        peer.send_multipart([b"{}"] * 100)
        until(lambda: intake.pairing.frames.refused.total() == 2 * len(HOSTILE) + 1)
        peer.send(b"y" * (2 << 20))  # above the limit: that ends the connection
        until(lambda: intake.pairing.frames.refused.total() == 2 * len(HOSTILE) + 2)
        peer.linger = 0
    replay(SCAN, kind, address, ReplayOptions(rate=0.0, samples=SAMPLES), positions_to=places)
    running.join(30)
    facts = session.facts()
    assert [pair.number for pair in intake.pairs()] == list(range(SCAN.n_frames))
    assert facts["frames"]["refused"] == 2 * len(HOSTILE) + 2
    assert facts["frames"]["why"]["a message above the limit, or not ZeroMQ: connection ended"] == 1
    assert facts["frames"]["received"] == SCAN.n_frames + facts["frames"]["refused"]


def test_a_folder_with_strange_files_is_read_around_them(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    session = session_of(tmp_path, "folder", str(folder), None)
    options = ReplayOptions(rate=0.0)
    folder.mkdir()
    (folder / "frame_without.npy").write_bytes(b"no number")
    (folder / "z_901.npy").write_bytes(
        b"\x93NUMPY\x01\x00v\x00{'descr': '<u2', 'fortran_order': False, 'shape': (99999999, 99999999)}"
    )
    np.save(folder / "z_902.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "z_903.npz").write_bytes(b"PK\x03\x04 and nothing")
    (folder / "notes.txt").write_text("hello")
    sending(SCAN, "folder", str(folder), None, options, tmp_path)
    session.run()
    pairs = session.intake.pairs()
    assert [pair.number for pair in pairs] == list(range(SCAN.n_frames))


def test_positions_in_another_growing_file(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    counts = stored_frames(SCAN)
    with h5py.File(tmp_path / "frames.h5", "w", libver="latest") as file:
        file["entry/data/data"] = counts
    with h5py.File(tmp_path / "places.h5", "w", libver="latest") as file:
        file["x"], file["y"] = SCAN.positions.T[:, ::-1]
        file["number"] = np.arange(SCAN.n_frames)[::-1]
    sources = [SOURCES.get("swmr")(str(tmp_path / name)) for name in ("frames.h5", "places.h5")]
    intake = Intake(Spool(tmp_path / "spool"))
    session = Session(intake, Growing(intake, FlatEngine(), SCAN.probe), sources, Ending(patience=0.5))
    session.run()
    check(session, Stream.of(SCAN.n_frames, ReplayOptions()))


def test_a_growing_file_that_is_made_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    """Its writer was killed; the next one sends in another order, and has written more by the time we look."""
    h5py = pytest.importorskip("h5py")
    from ptycho_torch.live.sources.base import Peer

    source: Any = SOURCES.get("swmr")(str(tmp_path / "a.h5"), SourceOptions(poll=0.0))
    intake = Intake(Spool(tmp_path / "spool"))
    for numbers in ([4, 2], [0, 1, 2, 3, 4]):
        with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
            file["data"] = np.array([np.full((8, 8), n, np.uint16) for n in numbers])
            file["number"] = np.array(numbers)
        with h5py.File(tmp_path / "a.h5") as file:
            source._follow(file, False, intake, threading.Event(), Peer(intake, "a.h5"))
    assert intake.pairing.frames.waiting == 5
    assert intake.facts()["frames"]["why"] == {"duplicate": 2}
    kept, _ = intake.spool.kept()
    assert intake.spool.read(np.arange(5))[:, 0, 0].tolist() == kept.tolist()


WRITES = """
import sys, numpy as np
from ptycho_torch.live.sources import SOURCES
sender = SOURCES.get("swmr").sender(sys.argv[1])
sender.start(20, (8, 8), np.dtype("u2"))
for number in range(20):
    sender.frame(number, np.full((8, 8), number, "u2"))
    sender._flush()
    if number in (0, 9):
        input()
"""


def test_a_file_that_grows_is_seen_to_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its writer has it open, and without opening it anew."""
    monkeypatch.setattr("ptycho_torch.live.sources.swmr._REOPEN", 1e9)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(tmp_path / "a.h5")], stdin=subprocess.PIPE, text=True
    )
    assert writer.stdin is not None
    intake, stop = Intake(Spool(tmp_path / "spool")), threading.Event()
    source = SOURCES.get("swmr")(str(tmp_path / "a.h5"), SourceOptions(poll=0.01))
    reader = threading.Thread(target=source.read, args=(intake, stop), daemon=True)
    reader.start()
    for count in (1, 10):
        for _ in range(2000):
            if intake.pairing.frames.received >= count:
                break
            reader.join(0.01)
        assert intake.pairing.frames.received == count
        writer.stdin.write("\n")
        writer.stdin.flush()
    assert writer.wait(20) == 0
    stop.set()
    reader.join(10)
