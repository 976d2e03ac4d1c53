"""Saving and reading structure without torch, in a process where torch cannot be imported."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

CODE = """
import sys, json, warnings
sys.modules["torch"] = None
from ptycho_torch.config import TrainingConfig
from ptycho_torch.errors import DependencyError, BundleError
from ptycho_torch.model_manager import save_torch_bundle, load_torch_bundle
from ptycho_torch.bundle import inspect_bundle, verify_bundle, read_bundle
base = sys.argv[1]
models = {n: {"_sentinel": n} for n in ("autoencoder", "diffraction_to_obj")}
save_torch_bundle(models, base, TrainingConfig(), 2.5)
report = {"inspect": inspect_bundle(base), "verify": verify_bundle(base).as_dict()}
with read_bundle(base) as bundle:
    report["sentinel"] = bundle.weights("autoencoder").sentinel
try:
    load_torch_bundle(base)
except DependencyError as error:
    report["load"] = str(error)
for bad in ({}, {"a": 3}, {"a": object()}):
    try:
        save_torch_bundle(bad, base + "bad", TrainingConfig())
    except ValueError as error:
        report.setdefault("bad", []).append(str(error))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    save_torch_bundle({"other": {"_sentinel": 1}}, base + "other", TrainingConfig())
report["warned"] = [str(w.message) for w in caught]
report["loaded"] = [m for m in ("lightning", "h5py") if m in sys.modules]
print(json.dumps(report))
"""


def test_structure_without_torch(tmp_path: Path) -> None:
    base = tmp_path / "deep" / "wts.h5"
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(base)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
    )
    report = json.loads(done.stdout)
    assert report["inspect"]["backend"] == "pytorch"
    assert report["inspect"]["intensity_scale"] == {"value": 2.5, "source": "argument"}
    assert report["inspect"]["params"]["N"] == 64
    assert report["verify"]["exit_status"] == 0
    assert report["sentinel"] == {"_sentinel": "autoencoder"}
    assert "pip install torch" in report["load"]
    assert ["empty" in m or "expected a torch module" in m for m in report["bad"]] == [True] * 3
    assert not (tmp_path / "deep" / "wts.h5bad.zip").exists()
    assert report["warned"] == [
        "unusual set of models for a bundle: missing autoencoder, diffraction_to_obj; extra other"
    ]
    assert report["loaded"] == []
    with zipfile.ZipFile(f"{base}.zip") as z:
        assert pickle.loads(z.read("manifest.dill")) == {
            "models": ["autoencoder", "diffraction_to_obj"],
            "version": "2.0-pytorch",
        }
        assert pickle.loads(z.read("autoencoder/params.dill"))["object.big"] is True
