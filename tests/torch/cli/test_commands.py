"""Bad input to the commands: one clear line, a status, nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import QUICK, call, process
from small import small_scan

from ptycho_torch.scan import write_scan


def _scan_arrays() -> dict[str, np.ndarray]:
    scan = small_scan()
    return {
        "diff3d": scan.frames, "xcoords": scan.positions[:, 0], "ycoords": scan.positions[:, 1],
        "probeGuess": scan.probe[0],
    }  # fmt: skip


def _set(key: str, index: Any, value: float) -> Any:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[key] = np.array(arrays[key])
        arrays[key][index] = value

    return change


BAD: dict[str, tuple[Any, tuple[str, ...]]] = {
    "missing frames": (lambda a: a.pop("diff3d"), ("diff3d",)),
    "missing x": (lambda a: a.pop("xcoords"), ("xcoords",)),
    "NaN": (_set("diff3d", (0, 3, 3), np.nan), ("diff3d", "finite", "found nan", "frame 0")),
    "infinite": (_set("diff3d", (0, 3, 3), np.inf), ("diff3d",)),
    "negative": (_set("diff3d", (0, 3, 3), -1.0), ("diff3d", "at least 0", "found -1.0", "frame 0")),
    "not square": (lambda a: a.update(diff3d=a["diff3d"][:, :, :-2]), ("diff3d", "30")),
    "lengths": (lambda a: a.update(xcoords=a["xcoords"][:-1]), ("xcoords",)),
    "probe size": (lambda a: a.update(probeGuess=a["probeGuess"][:-2, :-2]), ("probeGuess", "30")),
    "NaN positions": (_set("ycoords", 2, np.nan), ("ycoords",)),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["train", "reconstruct"])
def test_bad_scans_get_one_clear_line(folder: Path, tmp_path: Path, name: str, command: str) -> None:
    change, parts = BAD[name]
    arrays = _scan_arrays()
    change(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    _refused(folder, tmp_path, command, "bad.npz", *parts)


@pytest.mark.parametrize("command", ["train", "reconstruct"])
def test_files_that_are_no_scan(folder: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "bad.npz").write_bytes(b"this is not an NPZ")
    _refused(folder, tmp_path, command, "bad.npz")
    (tmp_path / "bad.npz").unlink()
    _refused(folder, tmp_path, command, "bad.npz")


def _refused(folder: Path, tmp_path: Path, command: str, *parts: str, extra: tuple[Any, ...] = ()) -> None:
    scan = tmp_path / "bad.npz"
    before = ["train", scan] if command == "train" else ["reconstruct", scan, "--model", folder / "run"]
    done = call(*before, "-o", tmp_path / "out", *extra, *(QUICK if command == "train" else []))
    assert done.exit_code == 2, done.output
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert all(part in line for part in parts), line
    written = [p.name for p in (tmp_path / "out").iterdir()] if (tmp_path / "out").exists() else []
    assert not {"wts.h5.zip", "metrics.json", "reconstruction.npz"} & set(written)


def test_too_few_frames_for_a_group(folder: Path, tmp_path: Path) -> None:
    write_scan(small_scan().select(slice(0, 3)), tmp_path / "bad.npz")
    _refused(folder, tmp_path, "train", "4", "3", extra=("--gridsize", 2))


def test_a_bundle_for_another_size(folder: Path, tmp_path: Path) -> None:
    write_scan(small_scan(16, edge=40), tmp_path / "bad.npz")
    _refused(folder, tmp_path, "reconstruct", "32x32", "16x16")


def test_a_bundle_that_is_none(folder: Path, tmp_path: Path) -> None:
    done = call("reconstruct", folder / "scan.npz", "--model", tmp_path / "no.zip", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "no.zip" in done.stderr


def test_outputs_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for before in (
        ["train", folder / "scan.npz", *QUICK],
        ["reconstruct", folder / "scan.npz", "--model", folder / "run"],
    ):
        done = call(*before, "-o", tmp_path / "file")
        assert done.exit_code == 2
        assert "file" in done.stderr
    assert (tmp_path / "file").read_text() == "in the way"
    if os.geteuid():  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        assert (
            call(
                "reconstruct", folder / "scan.npz", "--model", folder / "run", "-o", tmp_path / "locked"
            ).exit_code
            == 2
        )


def test_a_full_disk_leaves_earlier_outputs(folder: Path, tmp_path: Path) -> None:
    """A limit on file size stands for the full disk: writing the same bytes fails half-way."""
    (tmp_path / "reconstruction.npz").write_bytes(b"earlier")
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192));"
        "sys.argv = ['ptychopinn', *sys.argv[1:]]; from ptycho_torch.cli import main; main()"
    )
    arguments = ["reconstruct", folder / "scan.npz", "--model", folder / "run", "-o", tmp_path, "--quiet"]
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "mpl"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert (tmp_path / "reconstruction.npz").read_bytes() == b"earlier"
    assert not [p for p in tmp_path.iterdir() if p.is_file() and p.name != "reconstruction.npz"]


def test_errors_are_json_too(folder: Path, tmp_path: Path) -> None:
    done = process(
        "reconstruct", tmp_path / "no.npz", "--model", folder / "run", "-o", tmp_path / "out", "--json"
    )
    assert done.returncode == 2
    assert "no.npz" in json.loads(done.stdout)["error"]


def test_the_usage_line_names_what_the_texts_name() -> None:
    """And not the argument that only catches the order of earlier versions, nor values of switches."""
    for command, usage in (("reconstruct", "SCAN"), ("train", "[SCAN...]"), ("evaluate", "IMAGE REFERENCE")):
        shown = call(command, "--help").output
        assert f"{command} [OPTIONS] {usage}" in shown
        assert "second" not in shown
        assert "bool" not in shown
