"""``inspect``, ``verify``, ``export`` and ``convert`` as a user calls them."""

from __future__ import annotations

import base64
import json
import sys
import zlib
from pathlib import Path

import numpy as np
from calling import call


def test_bundles_are_inspected_verified_exported(folder: Path, tmp_path: Path) -> None:
    about = json.loads(call("inspect", folder / "run", "--json").stdout)
    assert about["params"]["N"] == 32
    assert "provenance: seed" in call("inspect", folder / "run").stdout
    assert call("verify", folder / "run").exit_code == 0
    assert call("export", folder / "run", "--safetensors", tmp_path / "w.safetensors", "-q").exit_code == 0
    from safetensors import safe_open

    with safe_open(tmp_path / "w.safetensors", "np") as opened:
        assert any(key.startswith("core.generator") for key in opened.keys())  # noqa: SIM118


def test_damage_and_drift_have_their_own_status(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "run" / "wts.h5.zip").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "damaged.zip").write_bytes(data)
    done = call("verify", tmp_path / "damaged.zip")
    assert done.exit_code == 3
    assert "integrity" in done.stdout
    assert call("verify", tmp_path / "missing.zip").exit_code == 2
    _with_other_answer(folder / "run" / "wts.h5.zip", tmp_path / "drift.zip")
    done = call("verify", tmp_path / "drift.zip")
    assert done.exit_code == 4, done.output
    assert "drift" in done.stdout


def _with_other_answer(path: Path, target: Path) -> None:
    """The bundle with a self-test that expects something else."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))
    from bundle_models import members, put

    content = members(path)
    side = json.loads(content["bundle.json"])
    output = side["self_test"]["output"]
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(output["zlib_base64"])), "<c8") * 1.5
    output["zlib_base64"] = base64.b64encode(zlib.compress(numbers.astype("<c8").tobytes())).decode()
    put(target, {**content, "bundle.json": json.dumps(side).encode()})


def test_tensorflow_archives_are_converted(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from keras_archives import Program, write_archive

    write_archive(tmp_path / "old.zip", Program())
    assert json.loads(call("inspect", tmp_path / "old.zip", "--json").stdout)["backend"] == "tensorflow"
    done = call("convert", tmp_path / "old.zip", tmp_path / "new.zip")
    assert done.exit_code == 0, done.output
    assert "optimiser" in done.stdout
    assert call("verify", tmp_path / "new.zip").exit_code == 0
    assert call("convert", tmp_path / "new.zip", tmp_path / "newer.zip").exit_code == 2
