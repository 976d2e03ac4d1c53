"""The package ``ptycho``, name by name, as ptychodus and older scripts use it: light at import."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch.compat import parameters
from ptycho_torch.errors import ConfigError, ScanError
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan


@pytest.fixture(autouse=True)
def own_cfg(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(parameters.cfg)
    parameters.cfg.clear()
    yield
    parameters.cfg.clear()
    parameters.cfg.update(before)


def test_configuration_imports_no_framework() -> None:
    code = (
        "import sys, ptycho.config.config, ptycho.params, ptycho.raw_data, ptycho.loader;"
        "bad = {'torch', 'lightning', 'tensorflow', 'keras'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_modules_are_attributes_without_an_import_of_their_own() -> None:
    code = (
        "import ptycho.loader, ptycho.params; ptycho.probe.set_probe_guess; ptycho.tf_helper.reassemble_position;"
        "ptycho.model_manager.save; ptycho.model.params; ptycho.workflows"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    import ptycho

    with pytest.raises(AttributeError, match="nonsense"):
        ptycho.nonsense  # noqa: B018


def test_configuration_is_plain_and_mutable() -> None:
    from ptycho.config import config as c

    model = c.ModelConfig(N=0, gridsize=1, n_filters_scale=2, model_type="pinn", probe_scale=4.0)
    config = c.TrainingConfig(model=model, nepochs=3, nll_weight=1.0, mae_weight=0.0, output_dir=Path())
    config = pickle.loads(pickle.dumps(config))
    config.model.N = 128
    assert config.model.N == 128
    assert c.InferenceConfig(model=model, model_path=Path(), test_data_file=Path(), debug=True).debug
    assert c.PyTorchExecutionConfig().accelerator == "auto"
    flat = c.dataclass_to_legacy_dict(config)
    assert flat["N"] == 128
    assert flat["object.big"] is True
    c.validate_training_config(config)
    config.nepochs = 0
    with pytest.raises(ConfigError, match="nepochs"):
        c.validate_training_config(config)
    with pytest.raises(ValueError, match="gridsize"):
        c.validate_model_config(c.ModelConfig(gridsize=-1))
    c.validate_inference_config(c.InferenceConfig())


def test_yaml(tmp_path: Path) -> None:
    from ptycho.config.config import load_yaml_config

    (tmp_path / "c.yaml").write_text("nepochs: 7\nmodel:\n  N: 32\n")
    assert load_yaml_config(tmp_path / "c.yaml") == {"nepochs": 7, "model": {"N": 32}}


def test_params() -> None:
    from ptycho import params
    from ptycho.config.config import ModelConfig, update_legacy_dict

    assert params.cfg is parameters.cfg
    with pytest.raises(KeyError):
        params.get("intensity_scale")
    update_legacy_dict(params.cfg, ModelConfig(N=64, gridsize=2, offset=4))
    assert params.get("bigN") == 68 == params.params()["bigN"]
    params.set("intensity_scale", 3.0)
    from ptycho import model

    assert model.params() == {"intensity_scale": 3.0}


def _scan(size: int = 32) -> Scan:
    obj = make_object("grf", 72, 0)
    positions = make_positions("grid", obj.shape, size, step=8.0, jitter=0.4, seed=0)
    return simulate_scan(obj, make_probe("zoneplate", size), positions, photons=1e4)


def _raw(scan, counts: bool = False, probe=None):
    from ptycho.raw_data import RawData

    frames = np.rint(scan.frames**2).astype(np.uint16) if counts else scan.frames
    return RawData.from_coords_without_pc(
        xcoords=scan.positions[:, 0], ycoords=scan.positions[:, 1], diff3d=frames,
        probeGuess=scan.probe[0] if probe is None else probe,
        scan_index=np.zeros(scan.n_frames, int), objectGuess=scan.object_guess,
    )  # fmt: skip


def test_raw_data_keeps_what_it_is_given() -> None:
    scan = _scan()
    raw = _raw(scan)
    assert np.array_equal(raw.diff3d, scan.frames)
    assert np.allclose(raw.probeGuess, scan.probe[0])
    assert np.allclose(raw.xcoords, scan.positions[:, 0])
    assert np.allclose(raw.ycoords, scan.positions[:, 1])
    assert (raw.scan_index == 0).all()
    assert raw.objectGuess.shape == scan.object_guess.shape


def test_counts_become_amplitudes() -> None:
    scan = _scan()
    assert np.allclose(_raw(scan, counts=True).diff3d, scan.frames, atol=1e-3)
    assert _raw(scan, counts=True).scan.counts_known


def test_mode_stacks_are_kept() -> None:
    scan = _scan()
    stack = np.stack([scan.probe[0], 0.2 * scan.probe[0].T])
    assert _raw(scan, probe=stack).probeGuess.shape == (2, 32, 32)


def test_wrong_arrays_are_named() -> None:
    from ptycho.raw_data import RawData

    scan = _scan()
    good = {
        "xcoords": scan.positions[:, 0],
        "ycoords": scan.positions[:, 1],
        "diff3d": scan.frames,
        "probeGuess": scan.probe[0],
    }
    for key, value in (
        ("ycoords", scan.positions[:-1, 1]),
        ("diff3d", scan.frames[0]),
        ("diff3d", -scan.frames),
        ("probeGuess", scan.probe[0][:-2, :-2]),
    ):
        with pytest.raises(ScanError, match=key):
            RawData.from_coords_without_pc(**{**good, key: value})


def test_files(tmp_path: Path) -> None:
    from ptycho.raw_data import RawData
    from ptycho_torch.scan import write_scan

    scan = _scan()
    write_scan(scan, tmp_path / "scan.npz")
    assert RawData.from_file(tmp_path / "scan.npz").diff3d.shape == scan.frames.shape


@pytest.mark.parametrize("gridsize", [1, 2])
def test_groups(gridsize: int) -> None:
    scan, members = _scan(), gridsize**2
    data = _raw(scan).generate_grouped_data(32, K=7, nsamples=1, gridsize=gridsize)
    count = scan.n_frames
    assert data["diffraction"].shape == data["X_full"].shape == (count, 32, 32, members)
    for name in ("coords_offsets", "coords_start_offsets"):
        assert data[name].shape == (count, 1, 2, 1)
    for name in ("coords_relative", "coords_start_relative", "coords_nn", "coords_start_nn"):
        assert data[name].shape == (count, 1, 2, members)
    assert data["nn_indices"].shape == (count, members)
    assert np.allclose(data["coords_offsets"] - data["coords_relative"], data["coords_nn"], atol=1e-4)
    assert np.allclose((data["X_full"] ** 2).sum((1, 2)).mean(), 16**2, rtol=0.05)
    frames = data["nn_indices"][3]
    assert np.array_equal(data["diffraction"][3], np.moveaxis(scan.frames[frames], 0, -1))
    few = _raw(scan).generate_grouped_data(32, K=1, nsamples=5, gridsize=gridsize)
    assert len(few["X_full"]) == 5
    with pytest.raises(ScanError, match="N:"):
        _raw(scan).generate_grouped_data(64, gridsize=gridsize)


def test_loader() -> None:
    from ptycho import loader
    from ptycho_torch.errors import DataError

    scan = _scan()
    data = _raw(scan).generate_grouped_data(32)
    container = loader.load(lambda: data, scan.probe, which=None, create_split=False)
    assert np.allclose(container.X * 2.0, 2 * data["X_full"])
    assert container.local_offsets.shape == (scan.n_frames, 1, 2, 1)
    assert len(container) == scan.n_frames
    parts = [loader.load(lambda: (data, 0.75), scan.probe, which, True) for which in ("train", "test")]
    assert sum(map(len, parts)) == scan.n_frames
    assert np.array_equal(np.concatenate([p.X for p in parts]), container.X)
    with pytest.raises(DataError, match="which"):
        loader.load(lambda: (data, 0.5), None, None, True)


def test_probe_guess() -> None:
    import ptycho.params
    import ptycho.probe

    with pytest.raises(KeyError):
        ptycho.probe.get_probe()
    ptycho.probe.set_probe_guess(None, np.ones((32, 32)))
    assert ptycho.params.get("probe").dtype == np.complex64
    assert ptycho.probe.get_probe().shape == (32, 32)
