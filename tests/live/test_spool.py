"""Frames on disk: found again, whole, by a program that is started anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ptycho_torch.errors import OutputError
from ptycho_torch.live.orientation import ORIENTATIONS, Orientation
from ptycho_torch.live.spool import Spool, SpoolFrames

FRAMES = np.random.default_rng(0).integers(0, 999, (9, 6, 6), dtype=np.uint16)


def filled(folder: Path) -> Spool:
    spool = Spool(folder)
    spool.begin((6, 6), FRAMES.dtype, "7")
    for number, frame in enumerate(FRAMES):
        assert spool.append([10 * number], [frame]) == number
        assert spool.note([(10 * number, 0.5 * number, -number)])
    return spool


def test_frames_come_back_in_any_order(tmp_path: Path) -> None:
    spool = filled(tmp_path / "s")
    slots = np.array([3, 4, 5, 0, 8, 8, 7])
    assert np.array_equal(spool.read(slots), FRAMES[slots])


def test_what_a_killed_program_left_is_gone_on_with(tmp_path: Path) -> None:
    filled(tmp_path / "s").close()
    with (tmp_path / "s" / "frames.bin").open("ab") as stream:
        stream.write(b"half a frame")
    with (tmp_path / "s" / "positions.bin").open("ab") as stream:
        stream.write(b"part")
    again = Spool(tmp_path / "s")
    numbers, places = again.kept()
    assert (again.count, again.series, again.dtype) == (9, "7", np.uint16)
    assert numbers.tolist() == [10 * n for n in range(9)]
    assert places["x"].tolist() == [0.5 * n for n in range(9)]
    assert again.append([90], [FRAMES[0]]) == 9
    assert np.array_equal(again.read(np.arange(10)), np.concatenate([FRAMES, FRAMES[:1]]))


def test_a_frame_without_its_number_is_cut_off(tmp_path: Path) -> None:
    spool = filled(tmp_path / "s")
    spool.close()
    path = tmp_path / "s" / "numbers.bin"
    path.write_bytes(path.read_bytes()[:-3])
    again = Spool(tmp_path / "s")
    assert again.count == 8
    assert again.append([80], [FRAMES[8]]) == 8
    assert np.array_equal(again.read(np.arange(9)), FRAMES)


def test_two_programs_cannot_share_a_folder(tmp_path: Path) -> None:
    spool = filled(tmp_path / "s")
    with pytest.raises(OutputError, match="another 'ptychopinn live'"):
        Spool(tmp_path / "s")
    spool.close(remove=True)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"spool": "other", "shape": [6, 6], "dtype": "uint16"}'])
def test_another_folder_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "spool.json").write_text(text)
    with pytest.raises(OutputError, match=r"spool\.json: expected"):
        Spool(tmp_path)


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: o.name)
def test_frames_of_a_scan_are_turned_as_they_are_read(tmp_path: Path, orientation: Orientation) -> None:
    spool = filled(tmp_path / "s")
    frames = SpoolFrames(spool, np.array([2, 0, 1]), orientation)
    assert np.array_equal(frames[:], orientation.turn(FRAMES[[2, 0, 1]]))
    assert np.array_equal(frames[[1]], orientation.turn(FRAMES[[0]]))
