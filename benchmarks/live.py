"""The `live` benchmark: frames from each source through pairing onto the canvas, with the faults that streams have.

    python benchmarks/live.py

10,000 frames of 128 x 128 counts through each source, and 1,000 with each of ten seeds, sender and receiver on the same
cores: positions come 5 s later or
earlier than their frames, out of order, 1 % of the frames dropped and 1 % sent twice. `solver` is `flat`, which solves nothing
and shows what everything around a solver takes, or `learned`. `rate` is frames a second as they were to be
sent, `sent a second` as they were, `taken` as fast as regions of new frames were solved and stitched; `CPU ms a frame` is what the
receiving process took for everything, what it did while it waited for frames included, waits for other programs not; `latency` is from
when a frame and its position were both sent until the frame was on the canvas, for all frames; `unaccounted` frames were received and neither used nor refused, and `wrong` pairs have another
frame's pixels or position.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from harness import keep, parser, table
from ptycho_torch.bundle.shipped import load_solver
from ptycho_torch.live.engines import FlatEngine, LearnedEngine
from ptycho_torch.live.growing import Growing
from ptycho_torch.live.intake import Intake
from ptycho_torch.live.replay import ReplayOptions, Stream, replay, stored_frames
from ptycho_torch.live.session import Ending, Session
from ptycho_torch.live.sources import SOURCES, SourceOptions
from ptycho_torch.live.spool import Spool
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan

KINDS = ("simplon2", "simplon1", "pva", "swmr", "folder")
SAMPLES = 4
_DISTINCT = 500


def scan_of(count: int, size: int, seed: int) -> Scan:
    """A jittered grid over a random object; the frames repeat, each with its own number in its first pixels."""
    edge = size + 6 * int(np.ceil(np.sqrt(count)))
    obj = make_object("grf", edge, seed)
    positions = make_positions("grid", obj.shape, size, count=count, jitter=1.0, seed=seed)
    some = simulate_scan(obj, make_probe("zoneplate", size), positions[:_DISTINCT], photons=1e5, seed=seed)
    counts = np.resize(np.rint(np.square(np.asarray(some.frames))), (count, size, size))
    counts[:, 0, :2] = np.stack(np.divmod(np.arange(count), 250), 1)
    return replace(some, frames=np.sqrt(counts).astype(np.float32), positions=positions, object_guess=None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def addresses(kind: str, folder: Path) -> tuple[str, str | None]:
    if kind in ("swmr", "folder"):
        return str(folder / ("scan.h5" if kind == "swmr" else "in")), None
    frames = (
        f"pva://127.0.0.1:{free_port()}/BENCH:IMAGE" if kind == "pva" else f"tcp://127.0.0.1:{free_port()}"
    )
    return frames, f"pull+tcp://127.0.0.1:{free_port()}"


class Sent:
    """When each frame and position was first sent (``time.monotonic``, one clock for all processes)."""

    def __init__(self, count: int) -> None:
        context = get_context("fork")
        self.times = {kind: context.RawArray("d", count) for kind in ("frame", "position")}
        self.go = context.Event()

    def __call__(self, kind: str, number: int) -> None:
        self.times[kind][number] = self.times[kind][number] or time.monotonic()

    def both(self) -> np.ndarray:
        """(M,) when the later half of each was sent."""
        return np.maximum(*(np.array(times) for times in self.times.values()))

    def rate(self) -> float:
        """Frames a second, as they were sent."""
        at = np.array(self.times["frame"])
        at = at[at > 0]
        return (len(at) - 1) / float(np.ptp(at))


def send(
    scan: Scan, kind: str, addresses: tuple[str, str | None], options: ReplayOptions, sent: Sent
) -> None:
    frames, places = addresses
    sent.go.wait()  # until somebody listens
    replay(scan, kind, frames, options, positions_to=places, sent=sent)


def one(scan: Scan, kind: str, solver: str, options: ReplayOptions) -> dict[str, Any]:
    """Replay a scan through a source; the sender is a process of its own, as a detector is."""
    plan, sent = Stream.of(scan.n_frames, options), Sent(scan.n_frames)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames, places = addresses(kind, folder)
        # The sender first: p4p's threads do not survive a fork.
        sender = get_context("fork").Process(target=send, args=(scan, kind, (frames, places), options, sent))
        sender.start()
        sources = [SOURCES.get(kind)(frames, SourceOptions(poll=0.02))]
        if places is not None:
            sources.append(SOURCES.get("panda")(places, SourceOptions(samples=SAMPLES)))
        intake = Intake(Spool(folder / "spool"))
        engine = FlatEngine() if solver == "flat" else LearnedEngine(load_solver())
        growing = Growing(intake, engine, scan.probe)  # type: ignore[arg-type]
        session = Session(intake, growing, sources, Ending(patience=5.0, silence=60.0))  # type: ignore[arg-type]
        most = [0]

        def watch() -> None:
            while session.stage != "last pass":
                most[0] = max(most[0], growing.backlog)
                time.sleep(0.02)

        threading.Thread(target=watch, daemon=True).start()
        cpu = time.process_time()
        sent.go.set()
        session.run()
        cpu = time.process_time() - cpu
        sender.join(30)
        row = {"source": kind, "solver": solver, "CPU ms a frame": round(1e3 * cpu / scan.n_frames, 3)}
        return judged(scan, plan, session, options, {**row, "most backlog": most[0]}, sent)


def late(session: Session, sent: Sent) -> list[int | None]:
    """Median and 99 % of the milliseconds from when a frame and its position were both sent to the canvas."""
    growing = session.growing
    shown = growing.shown[: len(growing.positions)]
    number_of = {pair.slot: pair.number for pair in session.intake.pairs()}
    numbers = np.array([number_of[slot] for slot in growing.slots.tolist()])
    seen = shown > 0
    if not seen.any():
        return [None, None]
    found = np.quantile(shown[seen] - sent.both()[numbers[seen]], [0.5, 0.99])
    return [round(1e3 * value) for value in found.tolist()]


def judged(
    scan: Scan, plan: Stream, session: Session, options: ReplayOptions, row: dict[str, Any], sent: Sent
) -> dict[str, Any]:
    facts, pairs = session.facts(), session.intake.pairs()
    counts = stored_frames(scan)
    wrong = 0
    for start in range(0, len(pairs), 256):
        part = pairs[start : start + 256]
        got = session.intake.spool.read(np.array([pair.slot for pair in part]))
        for frame, pair in zip(got, part, strict=True):
            place = scan.positions[pair.number]
            right = np.array_equal(frame, counts[pair.number]) and np.allclose((pair.x, pair.y), place)
            wrong += not right
    account = facts["frames"]
    busy = session.growing.busy_seconds
    median, most = late(session, sent)
    return {
        **row,
        "rate": options.rate,
        "sent a second": round(sent.rate()),
        "skew (s)": options.skew,
        "seed": options.seed,
        "frames": account["received"],
        "used": session.growing.used,
        "refused": account["refused"],
        "why": ", ".join(f"{n} {why}" for why, n in account["why"].items()),
        "missing": facts["missing"],
        "unaccounted": account["received"] - account["refused"] - account["paired"],
        "wrong": wrong,
        "lost": scan.n_frames - len(plan.dropped) - account["paired"],
        "taken": round(session.growing.used / max(busy, 1e-9)),
        "latency median (ms)": median,
        "latency 99 % (ms)": most,
    }


_SCANS: list[Scan] = []
"""Handed to the processes of the runs by the fork, which copies nothing."""


def apart(frames: int, *what: Any) -> dict[str, Any]:
    """A run in a process of its own, which forks its sender before it uses p4p: its threads survive no fork."""
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        return pool.submit(_run, frames, *what).result()


def _run(frames: int, *what: Any) -> dict[str, Any]:
    return one(_SCANS[0].select(slice(0, frames)), *what)


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    count, size = (500, 64) if arguments.quick else (arguments.frames, 128)
    rows: list[dict[str, Any]] = []
    scan = scan_of(max(count, arguments.short), size, arguments.seed)
    _SCANS[:] = [scan]

    def add(frames: int, kind: str, solver: str, options: ReplayOptions) -> None:
        rows.append(apart(frames, kind, solver, options))
        print(table(rows[-1:]), flush=True)
        keep("live", arguments, rows)  # a long run that is stopped leaves what it has

    def faults(seed: int) -> ReplayOptions:
        skew = 5.0 if seed % 2 == 0 else -5.0
        return ReplayOptions(arguments.rate, skew, 0.01, 0.01, True, SAMPLES, seed)

    for kind in arguments.sources:
        if count:
            add(count, kind, "flat", faults(arguments.seed))
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        for kind in arguments.sources:
            add(arguments.short, kind, "flat", faults(seed))
    for rate in arguments.learned:
        add(
            min(scan.n_frames, int(rate * 20)),
            "simplon2",
            "learned",
            ReplayOptions(rate, 0.0, samples=SAMPLES),
        )
    return rows


if __name__ == "__main__":
    made = parser(__doc__, shared=False)
    made.add_argument("--frames", type=int, default=10_000)
    made.add_argument("--rate", type=float, default=2000.0)
    made.add_argument("--seeds", type=int, default=10, help="seeds of the short runs")
    made.add_argument("--short", type=int, default=1000, help="frames of a short run")
    made.add_argument("--sources", nargs="*", default=list(KINDS), choices=KINDS)
    made.add_argument("--learned", nargs="*", type=float, default=[20.0], help="rates, frames a second")
    given = made.parse_args()
    if given.threads is not None:
        import torch

        torch.set_num_threads(given.threads)
    found = main(given)
    print(table(found))
