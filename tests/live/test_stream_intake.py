"""The receiver: what it takes, what it refuses, and that it says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ptycho_torch.live.intake import Cutting, Intake
from ptycho_torch.live.spool import Spool

FRAME = np.ones((8, 8), np.uint16)


def why(intake: Intake, kind: str = "frames") -> dict[str, int]:
    found: dict[str, int] = intake.facts()[kind]["why"]
    return found


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (np.ones((8, 9), np.uint16), "shape (8, 9), others have (8, 8)"),
        (np.ones((8, 8), np.uint32), "type uint32, others have uint16"),
        (np.ones((8, 8), np.float32), "type float32, others have uint16"),
    ],
)
def test_frames_unlike_the_others_are_refused(tmp_path: Path, frame: np.ndarray, reason: str) -> None:
    intake = Intake(Spool(tmp_path))
    intake.frame(0, FRAME)
    intake.frame(1, frame)
    intake.frame(1, FRAME)
    assert why(intake) == {reason: 1}
    assert intake.facts()["frames"]["waiting"] == 2
    assert any(reason in text for _, text in intake.said)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (np.full((8, 8), np.nan, np.float32), "values that are not finite"),
        (np.full((8, 8), -1, np.int32), "values below 0"),
        (np.ones((8, 9), np.uint16), "frames are (8, 9), not square: give --crop"),
        (np.ones((16, 16), np.uint16), "frames of 16 pixels, the probe has 8: give --crop"),
    ],
)
def test_frames_that_cannot_be_used_are_refused(tmp_path: Path, frame: np.ndarray, reason: str) -> None:
    size = None if frame.shape == (8, 9) else 8
    intake = Intake(Spool(tmp_path), Cutting(size=size))
    intake.frame(0, frame)
    assert why(intake) == {reason: 1}
    intake.frame(0, FRAME)  # it has not decided what frames are
    assert intake.facts()["frames"]["waiting"] == 1


@pytest.mark.parametrize("far", [(np.nan, 0.0), (np.inf, 0.0), (1e9, 1e9), ("a", None)])
def test_positions_that_would_need_an_endless_canvas_are_refused(
    tmp_path: Path, far: tuple[float, float]
) -> None:
    intake = Intake(Spool(tmp_path))
    intake.position(0, 1.0, 2.0)
    intake.position(1, *far)
    intake.position(1, 2.0, 3.0)
    assert sum(why(intake, "positions").values()) == 1
    assert intake.facts()["positions"]["waiting"] == 2


def test_another_series_is_refused_and_the_same_goes_on(tmp_path: Path) -> None:
    intake = Intake(Spool(tmp_path))
    intake.start("5", 3)
    intake.frame(0, FRAME, (1.0, 2.0), "5")
    intake.start("6", 3)
    intake.frame(1, FRAME, (1.0, 2.0), "6")
    intake.start("5", 3)
    intake.frame(1, FRAME, (5.0, 2.0), "5")
    assert why(intake) == {"another series": 1}
    assert [pair.number for pair in intake.pairs()] == [0, 1]
    assert intake.facts()["missing"] == 0  # one may still come
    intake.close()
    assert intake.facts()["missing"] == 1


def test_units_first_number_and_crop(tmp_path: Path) -> None:
    intake = Intake(Spool(tmp_path), Cutting(4, centre=(2, 9)), scale=10.0, first=1)
    frame = np.arange(6 * 12, dtype=np.uint16).reshape(6, 12)
    intake.frame(1, frame)
    intake.position(0, 0.5, 0.25)
    (pair,) = intake.pairs()
    assert (pair.number, pair.x, pair.y) == (0, 5.0, 2.5)
    assert np.array_equal(intake.spool.read(np.array([0]))[0], frame[0:4, 7:11])


def test_pixels_that_cannot_count_are_masked(tmp_path: Path) -> None:
    intake = Intake(Spool(tmp_path))
    mask = np.zeros((8, 8), bool)
    mask[1, 2] = True
    intake.start("1", None, mask)
    frame = FRAME.copy()
    frame[3, 3] = 65535
    intake.frame(0, frame)
    assert intake.bad is not None
    assert np.argwhere(intake.bad).tolist() == [[1, 2], [3, 3]]


def test_a_full_disk_is_said_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    intake = Intake(spool)
    usage = type("Usage", (), {"free": 1, "total": 1000})
    monkeypatch.setattr("ptycho_torch.live.spool.shutil.disk_usage", lambda _: usage)
    intake.frame(0, FRAME)
    assert why(intake) == {"the disk is full": 1}
    assert intake.facts()["frames"]["waiting"] == 0


def test_an_earlier_run_is_gone_on_with(tmp_path: Path) -> None:
    first = Intake(Spool(tmp_path))
    first.frame(0, FRAME, (1.0, 2.0))
    first.frame(4, FRAME * 4)
    first.position(5, 3.0, 4.0)
    first.spool.close()
    again = Intake(Spool(tmp_path))
    assert again.resumed == 2
    assert again.quiet is not None  # silence ends it, though nothing new ever comes
    again.frame(0, FRAME)
    again.frame(5, FRAME * 5)
    again.position(4, 9.0, 9.0)
    assert [(p.number, p.x) for p in again.pairs()] == [(0, 1.0), (4, 9.0), (5, 3.0)]
    assert [int(f.max()) for f in again.spool.read(np.array([p.slot for p in again.pairs()]))] == [1, 4, 5]
    assert why(again) == {"duplicate": 1}


def test_a_source_that_never_waits_is_said_to_hold_its_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = Intake(Spool(tmp_path))
    clock = [0.0]
    monkeypatch.setattr("ptycho_torch.live.intake.time.monotonic", lambda: clock[0])
    for waited, expected in ((0.0, "held up"), (0.0, None), (1.0, "keeps up")):
        before = len(intake.said)
        for _ in range(3):
            clock[0] += 1.0
            intake.waited(waited)
        texts = [text for _, text in list(intake.said)[before:]]
        assert (expected is None) == (not texts)
        assert expected is None or expected in texts[0]


def test_time_in_which_no_source_came_to_look_is_not_silence(tmp_path: Path) -> None:
    intake = Intake(Spool(tmp_path))
    assert intake.quiet is None
    intake.waited(0.2)
    intake.position(0, 1.0, 1.0)
    assert intake._last_arrival is not None
    intake._last_arrival -= 100.0  # the machine slept
    assert intake.quiet == 0.0
    intake.waited(60.0)
    assert intake.quiet == 1.0
    intake.left()
    assert intake.quiet is not None
    assert intake.quiet >= 100.0


def test_what_comes_after_the_end_is_refused(tmp_path: Path) -> None:
    intake = Intake(Spool(tmp_path))
    intake.position(0, 1.0, 1.0)
    intake.close()
    intake.frame(0, FRAME)
    intake.position(1, 1.0, 1.0)
    assert why(intake) == {"after the end": 1}
    assert why(intake, "positions") == {"after the end": 1, "no frame came": 1}
    assert intake.pairs() == []


def test_a_detector_that_begins_anew_does_not_call_back_the_encoder(tmp_path: Path) -> None:
    intake = Intake(Spool(tmp_path))
    intake.end("position")
    intake.end("frame")
    intake.start("1")
    assert intake.ended == {"position"}
