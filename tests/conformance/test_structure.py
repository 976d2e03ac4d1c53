"""Rows of the bundle's contract that need no torch: what is written, and what reads it."""

from __future__ import annotations

import json
import pickle
import string
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ptycho.params
from ptycho.config.config import ModelConfig, TrainingConfig, dataclass_to_legacy_dict
from ptycho_torch.bundle import inspect_bundle, read_bundle, verify_bundle
from ptycho_torch.errors import PtychoError
from ptycho_torch.model_manager import save_torch_bundle

NAMES = ("autoencoder", "diffraction_to_obj")
SENTINELS = {name: {"_sentinel": "torch_unavailable", "name": name} for name in NAMES}


@pytest.fixture(autouse=True)
def own_cfg() -> Iterator[None]:
    before = dict(ptycho.params.cfg)
    ptycho.params.cfg.clear()
    yield
    ptycho.params.cfg.clear()
    ptycho.params.cfg.update(before)


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(
        model=ModelConfig(N=64, gridsize=2), train_data_file=Path("data/train.npz"), n_groups=10, **changes
    )


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def params_of(path: Path, model: str = "autoencoder") -> dict[str, Any]:
    found: dict[str, Any] = pickle.loads(contents(path)[f"{model}/params.dill"])
    return found


def put(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


# ---- what is written


def test_the_file_is_base_path_plus_zip_and_folders_are_made(tmp_path: Path) -> None:
    for base in (tmp_path / "a" / "wts.h5", str(tmp_path / "b" / "c" / "wts.h5")):
        assert save_torch_bundle(SENTINELS, base, config()) is None
        assert Path(f"{base}.zip").is_file()


def test_members_are_those_of_the_contract(tmp_path: Path) -> None:
    save_torch_bundle(SENTINELS, tmp_path / "wts.h5", config())
    expected = {f"{name}/{part}" for name in NAMES for part in ("model.pth", "params.dill")}
    assert contents(tmp_path / "wts.h5.zip").keys() == expected | {"manifest.dill", "bundle.json"}


def test_manifest_is_models_and_version_and_nothing_else(tmp_path: Path) -> None:
    save_torch_bundle(SENTINELS, tmp_path / "wts.h5", config())
    manifest = pickle.loads(contents(tmp_path / "wts.h5.zip")["manifest.dill"])
    assert manifest == {"models": list(NAMES), "version": "2.0-pytorch"}


def test_params_hold_the_flat_configuration_scale_and_version(tmp_path: Path) -> None:
    given_config = config()
    save_torch_bundle(SENTINELS, tmp_path / "wts.h5", given_config)
    flat = {
        k: str(v) if isinstance(v, Path) else v for k, v in dataclass_to_legacy_dict(given_config).items()
    }
    for name in NAMES:
        params = params_of(tmp_path / "wts.h5.zip", name)
        assert {k: params[k] for k in flat} == flat
        assert params["_version"] == "2.0-pytorch"
        assert isinstance(params["intensity_scale"], float)
        assert params["train_data_file_path"] == "data/train.npz"
    for key in (
        "N", "gridsize", "model_type", "nphotons", "n_groups", "neighbor_count", "batch_size", "nepochs",
        "architecture", "object.big",
    ):  # fmt: skip
        assert key in params


def test_a_backend_in_the_manifest_is_read_and_must_be_right(tmp_path: Path) -> None:
    save_torch_bundle(SENTINELS, tmp_path / "wts.h5", config())
    members = contents(tmp_path / "wts.h5.zip")
    del members["bundle.json"]
    manifest = {"models": list(NAMES), "version": "2.0-pytorch"}
    members["manifest.dill"] = pickle.dumps({**manifest, "backend": "pytorch"})
    assert inspect_bundle(put(tmp_path / "a.zip", members))["backend"] == "pytorch"
    for wrong in ("tensorflow", "jax", 3, None):
        members["manifest.dill"] = pickle.dumps({**manifest, "backend": wrong})
        with pytest.raises(PtychoError, match=r"manifest\.dill: backend"):
            inspect_bundle(put(tmp_path / "b.zip", members))


# ---- models


def test_no_models_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="models"):
        save_torch_bundle({}, tmp_path / "x", config())
    assert not list(tmp_path.iterdir())


def test_other_names_warn_and_are_written(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="missing autoencoder"):
        save_torch_bundle({"diffraction_to_obj": {"_sentinel": 1}}, tmp_path / "x", config())
    assert inspect_bundle(tmp_path / "x")["models"] == ["diffraction_to_obj"]


@pytest.mark.parametrize("sentinel", [*SENTINELS.values(), {"_sentinel": "trained"}, {"_sentinel": None}])
def test_sentinels_stand_for_models(tmp_path: Path, sentinel: dict[str, Any]) -> None:
    save_torch_bundle(dict.fromkeys(NAMES, sentinel), tmp_path / "x", config(), 2.5)
    with read_bundle(tmp_path / "x") as bundle:
        assert [bundle.weights(name).sentinel for name in NAMES] == [sentinel, sentinel]
    assert verify_bundle(tmp_path / "x").exit_status == 0


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=6,
)
_odd = st.sampled_from([object(), print, type, np.zeros(3), np.float32(2), {1, 2}, range(3), 1j])
_sentinels = st.builds(
    lambda value, more: {"_sentinel": value, **more},
    _plain | _odd,
    st.dictionaries(st.text(string.ascii_letters, max_size=8), _plain | _odd, max_size=3),
)


@pytest.mark.filterwarnings("ignore:unusual set of models")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from(NAMES) | st.text(max_size=5) | st.integers(0, 3),
        _sentinels | _plain | _odd,
        max_size=3,
    )
    | _plain
)
def test_whatever_stands_for_models_is_written_whole_or_refused(tmp_path: Path, models: Any) -> None:
    try:
        save_torch_bundle(models, tmp_path / "x", config())
    except PtychoError:
        assert not list(tmp_path.iterdir())
        return
    assert inspect_bundle(tmp_path / "x")["models"] == sorted(models)
    (tmp_path / "x.zip").unlink()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from(sorted(dataclass_to_legacy_dict(config()))) | st.text(max_size=5) | st.integers(0, 3),
        _plain | _odd,
        max_size=3,
    )
)
def test_whatever_stands_for_a_configuration_is_written_whole_or_refused(
    tmp_path: Path, changes: dict[Any, Any]
) -> None:
    try:
        save_torch_bundle(SENTINELS, tmp_path / "x", {**dataclass_to_legacy_dict(config()), **changes})
    except PtychoError:
        assert not list(tmp_path.iterdir())
        return
    assert set(changes) <= params_of(tmp_path / "x.zip").keys()
    (tmp_path / "x.zip").unlink()


# ---- intensity scale


def recorded(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(contents(path)["bundle.json"])["intensity_scale"]
    assert params_of(path)["intensity_scale"] == found["value"]
    return found


def test_scale_comes_from_argument_then_config_then_params_cfg_then_one(tmp_path: Path) -> None:
    path, own = tmp_path / "x.zip", {**dataclass_to_legacy_dict(config()), "intensity_scale": 7.0}
    save_torch_bundle(SENTINELS, path, config())
    assert recorded(path) == {"value": 1.0, "source": "default"}
    save_torch_bundle(SENTINELS, path, own)
    assert recorded(path) == {"value": 7.0, "source": "config"}
    ptycho.params.cfg["intensity_scale"] = 5.0
    save_torch_bundle(SENTINELS, path, config())
    assert recorded(path) == {"value": 5.0, "source": "global"}
    save_torch_bundle(SENTINELS, path, own)
    assert recorded(path) == {"value": 7.0, "source": "config"}
    save_torch_bundle(SENTINELS, path, own, intensity_scale=2.5)
    assert recorded(path) == {"value": 2.5, "source": "argument"}


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), "many", [], 1e300, 1e-300])
def test_a_scale_that_is_none_is_refused(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(ValueError, match="intensity_scale"):
        save_torch_bundle(SENTINELS, tmp_path / "x", config(), bad)
    assert not list(tmp_path.iterdir())


# ---- numbers as older scripts write them


@pytest.mark.parametrize("form", [float, np.float32, np.int64])
def test_whole_floats_are_integers(tmp_path: Path, form: Any) -> None:
    given_config = config(batch_size=form(16), neighbor_count=form(4))
    given_config.model.n_filters_scale, given_config.model.gridsize = form(1), form(2)
    save_torch_bundle(SENTINELS, tmp_path / "x", given_config)
    params = params_of(tmp_path / "x.zip")
    for key, value in {"n_filters_scale": 1, "gridsize": 2, "batch_size": 16, "neighbor_count": 4}.items():
        assert (type(params[key]), params[key]) == (int, value)


@pytest.mark.parametrize("key", ["gridsize", "n_filters_scale", "batch_size", "n_groups"])
def test_fractions_are_no_integers(tmp_path: Path, key: str) -> None:
    flat = {**dataclass_to_legacy_dict(config()), key: 1.5}
    with pytest.raises(ValueError, match=rf"{key}: expected an integer, found 1\.5"):
        save_torch_bundle(SENTINELS, tmp_path / "x", flat)
    assert not list(tmp_path.iterdir())


def test_whole_floats_of_another_writer_are_read(tmp_path: Path) -> None:
    save_torch_bundle(SENTINELS, tmp_path / "x", config())
    members = contents(tmp_path / "x.zip")
    del members["bundle.json"]
    params = {**params_of(tmp_path / "x.zip"), "n_filters_scale": 1.0, "gridsize": 2.0, "nepochs": 5.0}
    members |= {f"{name}/params.dill": pickle.dumps(params) for name in NAMES}
    read = inspect_bundle(put(tmp_path / "y.zip", members))["params"]
    assert [read[key] for key in ("n_filters_scale", "gridsize", "nepochs")] == [1, 2, 5]
    assert all(type(read[key]) is int for key in ("n_filters_scale", "gridsize", "nepochs"))


# ---- what cannot be read


def test_missing_fields_are_listed(tmp_path: Path) -> None:
    save_torch_bundle(SENTINELS, tmp_path / "x", config())
    members = contents(tmp_path / "x.zip")
    del members["bundle.json"]
    members |= {f"{name}/params.dill": pickle.dumps({"gridsize": 2}) for name in NAMES}
    with pytest.raises(
        ValueError, match=r"missing required fields: N; cannot reconstruct model architecture"
    ):
        inspect_bundle(put(tmp_path / "y.zip", members))


def test_paths_of_any_system_become_text(tmp_path: Path) -> None:
    flat = {**dataclass_to_legacy_dict(config()), "note": PurePosixPath("a/b")}
    save_torch_bundle(SENTINELS, tmp_path / "x", flat)
    assert params_of(tmp_path / "x.zip")["note"] == "a/b"
