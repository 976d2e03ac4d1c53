"""Whatever brought the frames, in whatever order: the last pass gives what an offline run of the same frames gives."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from small import QUIET, small_scan

from ptycho_torch.config import InferenceConfig
from ptycho_torch.live.options import LiveConfig
from ptycho_torch.live.replay import ReplayOptions, Stream
from ptycho_torch.live.session import Session
from ptycho_torch.result import Reconstruction, load_reconstruction
from ptycho_torch.scan import open_scan, write_scan
from ptycho_torch.workflows.inference import reconstruct_to
from ptycho_torch.workflows.live import LiveInputs, live_to

SCAN = small_scan(size=32, step=5.0, edge=66, photons=1e6)  # about 49 frames
FAULTS = ReplayOptions(rate=400.0, skew=-0.1, drop=0.05, duplicate=0.05, shuffle=True)
QUICK = InferenceConfig(effort="quick")
NEEDED = {"simplon1": "zmq", "simplon2": "cbor2", "pva": "p4p"}


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("equal") / "scan.npz"
    write_scan(SCAN, path, measurement="counts")
    return path


@pytest.fixture(scope="module")
def offline(scan_file: Path) -> Reconstruction:
    kept = np.setdiff1d(np.arange(SCAN.n_frames), Stream.of(SCAN.n_frames, FAULTS).dropped)
    reconstruct_to(scan_file.parent / "offline", open_scan(scan_file).select(kept), None, QUICK, QUIET)
    return load_reconstruction(scan_file.parent / "offline" / "reconstruction.npz")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def where(kind: str, folder: Path) -> tuple[str, str | None]:
    """Addresses of frames and of positions; None: they come together."""
    if kind not in NEEDED:
        return str(folder / ("a.h5" if kind == "swmr" else "in")), None
    for module in (NEEDED[kind], "zmq"):
        pytest.importorskip(module)
    address = f"127.0.0.1:{free_port()}"
    frames = f"pva://{address}/TEST:EQUAL" if kind == "pva" else f"tcp://{address}"
    return frames, f"pull+tcp://127.0.0.1:{free_port()}"


@pytest.mark.parametrize("kind", ["simplon1", "simplon2", "pva", "swmr", "folder"])
def test_the_last_pass_is_the_offline_one(
    tmp_path: Path, scan_file: Path, offline: Reconstruction, kind: str
) -> None:
    frames_at, places_at = where(kind, tmp_path)
    code = (
        "from ptycho_torch.scan import open_scan; from ptycho_torch.live.replay import *;"
        f"replay(open_scan({str(scan_file)!r}), {kind!r}, {frames_at!r}, ReplayOptions(**{asdict(FAULTS)!r}),"
        f" positions_to={places_at!r})"
    )
    senders: list[subprocess.Popen[bytes]] = []

    def began(session: Session, url: str | None) -> None:
        # Another process: within one, reader and writer of an HDF5 file would share it.
        senders.append(subprocess.Popen([sys.executable, "-c", code]))

    config = LiveConfig(source=kind, positions=places_at, orientation="as-is", page=False, patience=3.0)
    done = live_to(
        tmp_path / "live", frames_at, config, LiveInputs(probe=scan_file), QUICK, QUIET, began=began
    )
    assert senders[0].wait(60) == 0
    plan = Stream.of(SCAN.n_frames, FAULTS)
    assert done.account["unaccounted"] == 0
    assert done.account["used_in_last_pass"] == SCAN.n_frames - len(plan.dropped)
    assert done.account["frames"]["why"] == {"duplicate": round(0.05 * SCAN.n_frames)}
    got = load_reconstruction(tmp_path / "live" / "reconstruction.npz")
    assert np.array_equal(got.origin_xy, offline.origin_xy)
    assert np.allclose(got.positions, offline.positions)
    for name in ("object", "probe"):
        a, b = getattr(got, name), getattr(offline, name)
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)
