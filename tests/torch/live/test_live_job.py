"""The whole job: what a live run leaves is what an offline one gives from the same frames."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from small import QUIET, small_scan

pytest.importorskip("zmq")
pytest.importorskip("uvicorn")

from ptycho_torch.errors import ConfigError, DataError
from ptycho_torch.live.options import LiveConfig
from ptycho_torch.live.replay import ReplayOptions, Stream, replay
from ptycho_torch.live.session import Session
from ptycho_torch.live.sources import SOURCES
from ptycho_torch.result import Reconstruction, load_reconstruction
from ptycho_torch.scan import open_scan, write_scan
from ptycho_torch.workflows.inference import reconstruct_to
from ptycho_torch.workflows.live import LiveInputs, live_to

SCAN = small_scan(size=32, step=4.0, edge=88, photons=1e6)  # about 200 frames
FAULTS = ReplayOptions(rate=0.0, skew=1.0, drop=0.02, duplicate=0.02, shuffle=True)


@pytest.fixture
def probe_file(tmp_path: Path) -> Path:
    write_scan(SCAN, tmp_path / "scan.npz", measurement="counts")
    return tmp_path / "scan.npz"


def equal(one: Reconstruction, other: Reconstruction) -> None:
    assert np.array_equal(one.origin_xy, other.origin_xy)
    assert np.allclose(one.positions, other.positions)
    for name in ("object", "probe"):
        a, b = getattr(one, name), getattr(other, name)
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)


def offline(folder: Path, probe_file: Path, plan: Stream) -> Reconstruction:
    kept = np.setdiff1d(np.arange(SCAN.n_frames), plan.dropped)
    reconstruct_to(folder, open_scan(probe_file).select(kept), execution=QUIET)
    return load_reconstruction(folder / "reconstruction.npz")


def get(url: str, path: str, method: str = "GET") -> bytes:
    base, _, query = url.partition("?")
    asked = urllib.request.Request(
        f"{base.rstrip('/')}{path}{'&' if '?' in path else '?'}{query}", method=method
    )
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return bytes(answer.read())


def test_the_result_is_the_offline_one_and_the_page_shows_it(tmp_path: Path, probe_file: Path) -> None:
    folder, seen = tmp_path / "frames_in", {}

    def began(session: Session, url: str | None) -> None:
        assert url is not None
        seen.update(session=session, url=url)
        threading.Thread(target=replay, args=(SCAN, "folder", str(folder), FAULTS), daemon=True).start()

    def look() -> None:
        while "url" not in seen:
            time.sleep(0.02)
        session: Session = seen["session"]
        while session.growing.canvas.version < 3:
            time.sleep(0.01)
        seen["state"] = json.loads(get(seen["url"], "/state"))
        seen["image"] = get(seen["url"], "/image?edge=64")
        seen["positions"] = get(seen["url"], "/positions?from=0")
        seen["page"] = get(seen["url"], "/")
        seen["npz"] = get(seen["url"], "/download")
        for path, status in (
            ("/image?edge=9999999", 400),
            ("/control?do=harm", 405),
            ("/state&token=x", 404),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(seen["url"], path)
            assert refused.value.code == status
        with pytest.raises(urllib.error.HTTPError) as stranger:
            urllib.request.urlopen(seen["url"].partition("?")[0] + "state?token=guess", timeout=20)
        assert stranger.value.code == 403
        seen["done"] = True

    viewer = threading.Thread(target=look, daemon=True)
    viewer.start()
    config = LiveConfig(patience=1.0, silence=60.0, linger=0.0, save_scan=True, to_hdf5=True, interval=0.1)
    done = live_to(
        tmp_path / "live", str(folder), config, LiveInputs(probe=probe_file), execution=QUIET, began=began
    )
    viewer.join(20)
    plan = Stream.of(SCAN.n_frames, FAULTS)
    assert seen.get("done")
    # ---- the account
    kept = SCAN.n_frames - len(plan.dropped)
    assert (done.account["unaccounted"], done.account["used_in_last_pass"]) == (0, kept)
    assert done.account["missing"] == len(plan.dropped)
    assert done.account["orientation"] == "as-is"
    # ---- the result
    rec = load_reconstruction(tmp_path / "live" / "reconstruction.npz")
    equal(rec, offline(tmp_path / "offline", probe_file, plan))
    names = {path.name for path in (tmp_path / "live").iterdir()}
    assert names == {
        "reconstruction.npz", "metrics.json", "reconstruction.png", "report.html", "live.json", "scan.npz", "live.h5"
    }  # fmt: skip
    assert open_scan(tmp_path / "live" / "scan.npz").n_frames == kept
    # ---- what was seen meanwhile
    growing = seen["session"].growing
    assert growing.used + growing.backlog == kept
    assert growing.steps["new"] > 1
    assert growing.residual < 0.1
    length = int.from_bytes(seen["image"][:4], "little")
    head = json.loads(seen["image"][4 : 4 + length])
    assert len(seen["image"]) == 4 + length + 4 * head["shape"][0] * head["shape"][1]
    assert seen["state"]["frames"]["received"] > 0
    assert len(seen["positions"]) % 8 == 0
    assert b"Live ptychography" in seen["page"]
    assert b"http" not in seen["page"].replace(b"http-equiv", b"")  # nothing is loaded from elsewhere
    assert seen["npz"].startswith(b"PK")


def test_a_killed_run_goes_on_with_its_frames(tmp_path: Path, probe_file: Path) -> None:
    folder, out = tmp_path / "frames_in", tmp_path / "live"
    sender = SOURCES.get("folder").sender(str(folder))
    counts = np.rint(np.square(np.asarray(SCAN.frames), dtype=np.float64)).astype(np.uint16)
    sender.start(SCAN.n_frames, (SCAN.N, SCAN.N), counts.dtype)
    for number in range(100):
        sender.frame(number, counts[number])
        sender.position(number, *SCAN.positions[number].tolist())
    code = "from ptycho_torch.cli import main; main()"
    words = [
        "live",
        str(folder),
        "-o",
        str(out),
        "--probe-file",
        str(probe_file),
        "--no-page",
        "--no-solving",
    ]
    first = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True)
    numbers = out / "frames" / "numbers.bin"
    for _ in range(6000):
        if (numbers.exists() and numbers.stat().st_size >= 800) or first.poll() is not None:
            break
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGTERM)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 128 + signal.SIGTERM, said
    assert "100 frames are kept" in said
    assert not (out / "reconstruction.npz").exists()
    for path in folder.glob("frame_*"):  # what it has, it needs from nobody
        path.unlink()
    (folder / "positions.csv").write_text("number,x,y\n")
    sender._text = (folder / "positions.csv").open("a")  # type: ignore[attr-defined]
    for number in range(100, SCAN.n_frames):
        sender.frame(number, counts[number])
        sender.position(number, *SCAN.positions[number].tolist())
    sender.end()
    config = LiveConfig(page=False, solving=False, patience=1.0)
    done = live_to(out, str(folder), config, LiveInputs(probe=probe_file), execution=QUIET)
    assert done.account["resumed"] == 100
    assert (done.account["unaccounted"], done.account["used_in_last_pass"]) == (0, SCAN.n_frames)
    plan = Stream.of(SCAN.n_frames, ReplayOptions())
    equal(load_reconstruction(out / "reconstruction.npz"), offline(tmp_path / "offline", probe_file, plan))


@pytest.mark.parametrize(
    ("address", "config", "words"),
    [
        ("tcp://127.0.0.1:1", LiveConfig(), "give --source"),
        ("tcp://nothing", LiveConfig(source="simplon2"), "expected an address such as"),
        ("x.h5", LiveConfig(source="panda"), "positions alone"),
        ("x.h5", LiveConfig(orientation="sideways"), "orientation: expected auto"),
        ("x.h5", LiveConfig(position_unit="um"), "--pixel-size"),
        ("x.h5", LiveConfig(centre="a,b"), "ROW,COLUMN"),
        ("x.h5", LiveConfig(position_keys="x"), "separated by a comma"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_read(
    tmp_path: Path, address: str, config: LiveConfig, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        live_to(tmp_path / "live", address, config, execution=QUIET)


def test_without_a_single_pair_there_is_nothing_to_reconstruct(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "f_0.npy", np.ones((8, 8), np.uint16))
    (folder / "complete").touch()
    config = LiveConfig(page=False, solving=False, patience=0.1)
    with pytest.raises(DataError, match="1 frames and 0 positions"):
        live_to(tmp_path / "live", str(folder), config, execution=QUIET)
