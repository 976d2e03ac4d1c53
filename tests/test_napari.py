"""What napari is given, without napari: layers as its manual defines them, and a manifest that names the reader."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import ptycho_torch
from ptycho_torch.napari import get_reader
from ptycho_torch.result import Reconstruction, save_reconstruction
from ptycho_torch.scan import write_scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan


def test_a_result_lies_where_its_positions_do(tmp_path: Path) -> None:
    image = np.full((20, 30), 2.0, np.complex64)
    rec = Reconstruction(
        image, np.ones((20, 30)), np.array([-4.0, 7.0]), np.array([[1.0, 9.0]]), np.ones((1, 8, 8))
    )
    path = str(save_reconstruction(rec, tmp_path / "r.npz"))
    reader = get_reader(path)
    assert reader is not None
    (amplitude, said, kind), (_, turned, _), (spots, _, points) = reader(path)
    assert (kind, points) == ("image", "points")
    assert amplitude.max() == 2
    assert said["translate"] == turned["translate"] == (7.0, -4.0)
    assert spots.tolist() == [[9.0, 1.0]]


@pytest.mark.parametrize("probe", [True, False])
def test_a_scan_and_what_is_neither(tmp_path: Path, probe: bool) -> None:
    obj = make_object("grf", 64, 0)
    made = simulate_scan(obj, make_probe("disk", 32), make_positions("grid", obj.shape, 32, step=8.0))
    write_scan(made if probe else replace(made, probe=None), tmp_path / "s.npz")
    reader = get_reader(str(tmp_path / "s.npz"))
    assert reader is not None
    frames, _, _ = reader(str(tmp_path / "s.npz"))[0]
    np.testing.assert_allclose(np.expm1(frames), np.square(made.frames[:]), rtol=1e-3, atol=1e-3)
    (tmp_path / "x.npz").write_bytes(b"PK nothing")
    assert get_reader(str(tmp_path / "x.npz")) is None


def test_the_manifest_names_the_reader() -> None:
    manifest = yaml.safe_load((Path(ptycho_torch.__file__).parent / "napari.yaml").read_text())
    module, name = manifest["contributions"]["commands"][0]["python_name"].split(":")
    assert getattr(importlib.import_module(module), name) is get_reader
