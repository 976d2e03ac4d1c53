"""``ptychopinn info``: scans, bundles and results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho_torch.cli.app import app
from ptycho_torch.cli.info import blocks
from ptycho_torch.result import Reconstruction, save_reconstruction
from ptycho_torch.scan import write_scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan


def call(*arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == code, done.output
    return done


def scan_file(folder: Path, measurement: str, step: float = 6.0) -> Path:
    obj = make_object("grf", 96, 0)
    made = simulate_scan(
        obj, make_probe("disk", 32), make_positions("grid", obj.shape, 32, step=step), photons=1e4
    )
    write_scan(made, folder / "scan.npz", measurement=measurement)
    return folder / "scan.npz"


def test_a_scan_of_counts(tmp_path: Path) -> None:
    facts = json.loads(call("info", scan_file(tmp_path, "counts"), "--json").stdout)
    assert (facts["kind"], facts["N"], facts["stored_as"]) == ("scan", 32, "counts")
    assert facts["photons_per_frame"] == pytest.approx(1e4, rel=0.2)
    assert facts["step"] == pytest.approx(6.0, abs=0.5)
    assert 0.3 < facts["overlap"] < 0.9
    assert facts["plan"]["seconds"] > 0
    assert facts["plan"]["bytes"] > 1e8


def test_less_overlap_is_less_overlap(tmp_path: Path) -> None:
    near = json.loads(call("info", scan_file(tmp_path, "counts", 6), "--json").stdout)["overlap"]
    far = json.loads(call("info", scan_file(tmp_path, "counts", 9), "--json").stdout)["overlap"]
    assert 1 - far == pytest.approx((1 - near) * 1.5, rel=0.1)


def test_the_words_say_why_and_what_next_and_a_picture_is_drawn(tmp_path: Path) -> None:
    shown = call("info", scan_file(tmp_path, "amplitude"), "--picture", tmp_path / "p.png").stdout
    assert "amplitude" in shown
    assert "ptychopinn reconstruct scan.npz" in shown
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_result_and_its_folder(tmp_path: Path) -> None:
    image = np.exp(1j * np.linspace(0, 1, 30 * 20)).reshape(30, 20)
    rec = Reconstruction(
        image, np.ones((30, 20)), np.zeros(2), np.zeros((4, 2)), np.ones((1, 8, 8)), solver="epie"
    )
    save_reconstruction(rec, tmp_path / "reconstruction.npz")
    for path in (tmp_path, tmp_path / "reconstruction.npz"):
        facts = json.loads(call("info", path, "--json").stdout)
        assert (facts["kind"], facts["object_shape"], facts["solver"]) == ("result", [30, 20], "epie")


def test_a_bundle() -> None:
    bundle = Path(__file__).parents[2] / "data" / "bundle_v1_unrolled.zip"
    facts = json.loads(call("info", bundle, "--json").stdout)
    assert (facts["kind"], facts["backend"]) == ("bundle", "pytorch")
    assert "self-test" in call("info", bundle).stdout


def test_nothing_and_noise_are_refused(tmp_path: Path) -> None:
    assert "no such file" in call("info", tmp_path / "none", code=2).output
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 and no more")
    call("info", tmp_path / "x.npz", code=2)
    (tmp_path / "y.zip").write_bytes(b"PK\x03\x04 and no more")
    call("info", tmp_path / "y.zip", code=2)
    os.mkfifo(tmp_path / "pipe")
    assert "expected a regular file, found a FIFO" in call("info", tmp_path / "pipe", code=2).output


def test_blocks_show_where_it_is_dark() -> None:
    image = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [np.nan, 1.0]])
    first, second = blocks(image, width=2).split("\n")
    assert first == "\x1b[38;5;255;48;5;255m▀\x1b[38;5;232;48;5;232m▀\x1b[0m"
    assert second == "\x1b[38;5;232;48;5;232m▀\x1b[38;5;255;48;5;255m▀\x1b[0m"
    assert blocks(np.ones((100, 100)), width=10).count("\n") == 4
