"""Loading: what comes back is what was saved, whatever the options; saving refuses what could not come back."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_models import (
    SMALL,
    bare,
    members,
    outputs,
    put,
    sample,
    saved,
    small_pair,
    with_state,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ptycho_torch.compat import parameters
from ptycho_torch.errors import BundleError
from ptycho_torch.model_manager import load_torch_bundle, save_torch_bundle


@pytest.fixture(autouse=True)
def clean_cfg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "cfg", {})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("bundle"))


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.fixed_dictionaries(
        {
            "N": st.sampled_from([16, 32, 48]),
            "gridsize": st.integers(1, 3),
            "unrolled_width": st.sampled_from([4, 8]),
            "unrolled_levels": st.integers(0, 2),
            "unrolled_iterations": st.integers(1, 3),
            "probe_mask": st.booleans(),
            "modes": st.integers(1, 2),
            "scale": st.floats(1e-3, 1e4),
            "seed": st.integers(0, 99),
        }
    )
)
def test_outputs_after_loading_are_bit_identical(tmp_path: Path, options: dict[str, Any]) -> None:
    config, models = small_pair(**options)
    save_torch_bundle(models, tmp_path / "x", config)
    for name, module in models.items():
        loaded, params = load_torch_bundle(tmp_path / "x", name)
        assert type(loaded) is type(module)
        assert not loaded.training
        for a, b in zip(outputs(loaded), outputs(module.eval()), strict=True):
            assert torch.equal(a, b)
        assert params["N"] == options["N"]
        assert params["probe"].dtype == np.complex64


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.fixed_dictionaries(
        {
            "N": st.sampled_from([64, 64, 128, 256]),
            "gridsize": st.integers(1, 2),
            "amp_activation": st.sampled_from(["sigmoid", "swish", "softplus", "relu"]),
            "object_big": st.booleans(),
            "probe_big": st.booleans(),
            "pad_object": st.booleans(),
            "probe_mask": st.booleans(),
            "gaussian_smoothing_sigma": st.sampled_from([0.0, 0.7]),
            "model_type": st.sampled_from(["pinn", "supervised"]),
            "scale": st.floats(1e-3, 1e4),
        }
    )
)
def test_the_cnn_after_loading_is_bit_identical(tmp_path: Path, options: dict[str, Any]) -> None:
    config, models = small_pair(architecture="cnn", **options)
    save_torch_bundle(models, tmp_path / "x", config, self_test=False)
    for name, module in models.items():
        loaded, params = load_torch_bundle(tmp_path / "x", name)
        for a, b in zip(outputs(loaded), outputs(module.eval()), strict=True):
            assert torch.equal(a, b)
        assert params["amp_activation"] == options["amp_activation"]


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("gridsize", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_size_and_type_of_the_default_generator(
    tmp_path: Path, size: int, gridsize: int, dtype: torch.dtype
) -> None:
    config, models = small_pair(N=size, gridsize=gridsize)
    save_torch_bundle(models, tmp_path / "x", config, self_test=False)
    loaded, _ = load_torch_bundle(tmp_path / "x", dtype=dtype)
    again, _ = load_torch_bundle(tmp_path / "x", dtype=dtype)
    inputs = [v.to(dtype) for v in sample(models["diffraction_to_obj"])]
    with torch.no_grad():
        assert torch.equal(loaded(*inputs), again(*inputs))
    if dtype == torch.float32:
        assert torch.equal(outputs(loaded)[0], outputs(models["diffraction_to_obj"].eval())[0])


def test_every_form_of_base_path(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as z:
        z.extractall(tmp_path / "unpacked")
    expected = outputs(load_torch_bundle(bundle)[0])
    for form in (str(bundle), str(bundle)[:-4], bundle.with_suffix(""), bundle.parent, tmp_path / "unpacked"):
        assert torch.equal(outputs(load_torch_bundle(form)[0])[0], expected[0])


def test_plain_readers_need_nothing_of_this_package(bundle: Path) -> None:
    content = members(bundle)
    code = (
        "import sys, io, zipfile, dill, pickle, torch\n"
        "z = zipfile.ZipFile(sys.argv[1])\n"
        "models = ['autoencoder', 'diffraction_to_obj']\n"
        "assert dill.loads(z.read('manifest.dill')) == {'models': models, 'version': '2.0-pytorch'}\n"
        "p = dill.loads(z.read('autoencoder/params.dill'))\n"
        "assert p['object.big'] is True and p['probe'].dtype == 'complex64' and p['_version'] == '2.0-pytorch'\n"
        "s = torch.load(io.BytesIO(z.read('autoencoder/model.pth')), weights_only=True)\n"
        "assert all(t.is_contiguous() for t in s.values())\n"
        "assert 'ptycho_torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(bundle)], check=True)
    assert list(content) == [
        "manifest.dill",
        "autoencoder/model.pth",
        "autoencoder/params.dill",
        "diffraction_to_obj/model.pth",
        "diffraction_to_obj/params.dill",
        "bundle.json",
    ]
    for key in (
        "N",
        "gridsize",
        "model_type",
        "nphotons",
        "n_groups",
        "neighbor_count",
        "batch_size",
        "nepochs",
        "architecture",
    ):
        assert key in pickle.loads(content["autoencoder/params.dill"])


def test_weights_are_stored_and_aligned(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as z:
        assert z.getinfo("autoencoder/model.pth").compress_type == zipfile.ZIP_STORED
        assert z.getinfo("autoencoder/params.dill").compress_type == zipfile.ZIP_DEFLATED


def test_same_input_same_bytes_in_every_process(bundle: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from bundle_models import saved; saved(Path(sys.argv[1]))"
    env = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=env)
    assert (tmp_path / "wts.h5.zip").read_bytes() == bundle.read_bytes()


# ---- intensity scale and the global dictionary


def scale_of(tmp_path: Path, module_scale: float | None, argument: float | None) -> dict[str, Any]:
    models: dict[str, Any] = {n: {"_sentinel": n} for n in ("autoencoder", "diffraction_to_obj")}
    if module_scale is not None:
        config, models = small_pair(scale=module_scale)
    else:
        config, _ = small_pair()
    save_torch_bundle(models, tmp_path / "s", config, argument)
    side: dict[str, Any] = json.loads(members(tmp_path / "s.zip")["bundle.json"])["intensity_scale"]
    assert (
        pickle.loads(members(tmp_path / "s.zip")["autoencoder/params.dill"])["intensity_scale"]
        == side["value"]
    )
    return side


def test_the_order_in_which_the_scale_is_looked_for(tmp_path: Path) -> None:
    assert scale_of(tmp_path, None, None) == {"value": 1.0, "source": "default"}
    parameters.cfg["intensity_scale"] = 7.0
    assert scale_of(tmp_path, None, None) == {"value": 7.0, "source": "global"}
    found = scale_of(tmp_path, 3.0, None)
    assert found["source"] == "model"
    assert found["value"] == pytest.approx(3.0, rel=1e-6)
    assert scale_of(tmp_path, 3.0, 5.0) == {"value": 5.0, "source": "argument"}


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), "x"])
def test_a_bad_scale_is_refused(tmp_path: Path, bad: Any) -> None:
    config, models = small_pair()
    with pytest.raises(BundleError, match="intensity_scale"):
        save_torch_bundle(models, tmp_path / "s", config, bad)
    assert list(tmp_path.iterdir()) == []


def test_global_dictionary_is_updated_after_success_only(bundle: Path, tmp_path: Path) -> None:
    parameters.cfg["mine"] = 1
    broken = put(tmp_path / "x.zip", with_state(bare(bundle), lambda s: s.popitem() and None))
    with pytest.raises(BundleError):
        load_torch_bundle(broken)
    assert parameters.cfg == {"mine": 1}
    _, params = load_torch_bundle(bundle)
    assert parameters.cfg == {"mine": 1, **params}


def test_loading_does_not_disturb_random_numbers(bundle: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_torch_bundle(bundle)
    assert torch.equal(torch.get_rng_state(), before)


def test_device_and_dtype(bundle: Path) -> None:
    module, _ = load_torch_bundle(bundle, device="cpu", dtype=torch.float64)
    assert {p.dtype for p in module.parameters()} == {torch.float64}
    with pytest.raises(ValueError, match="dtype"):
        load_torch_bundle(bundle, dtype=torch.int32)


# ---- saving


def test_unusual_sets_of_models_warn(tmp_path: Path) -> None:
    config, models = small_pair()
    with pytest.warns(UserWarning, match="missing autoencoder"):
        save_torch_bundle({"diffraction_to_obj": models["diffraction_to_obj"]}, tmp_path / "a", config)
    with pytest.warns(UserWarning, match="extra third"):
        save_torch_bundle({**models, "third": models["autoencoder"]}, tmp_path / "b", config)
    assert load_torch_bundle(tmp_path / "b", "third")[1]["N"] == SMALL["N"]
    with pytest.raises(BundleError, match="there is: diffraction_to_obj"):
        load_torch_bundle(tmp_path / "a", "autoencoder")


def test_a_model_of_another_kind_is_written_with_a_warning(tmp_path: Path) -> None:
    config, _ = small_pair()
    other = {"autoencoder": nn.Linear(2, 3), "diffraction_to_obj": nn.Linear(2, 3)}
    with pytest.warns(UserWarning, match="will refuse"):
        save_torch_bundle(other, tmp_path / "a", config)
    with pytest.raises(BundleError, match="missing core"):
        load_torch_bundle(tmp_path / "a")


@pytest.mark.parametrize("models", [{}, {"a": 3}, {"a": nn.Linear}, [], {1: nn.Linear(1, 1)}])
def test_what_is_no_set_of_models_is_refused(tmp_path: Path, models: Any) -> None:
    config, _ = small_pair()
    with pytest.raises(ValueError, match="models"):
        save_torch_bundle(models, tmp_path / "a", config)
    assert list(tmp_path.iterdir()) == []


def test_our_own_model_that_the_configuration_does_not_describe_is_refused(tmp_path: Path) -> None:
    config, models = small_pair()
    config.model.unrolled_width = 16
    with pytest.raises(BundleError, match="unrolled_width is 16 in params, but the weights fit 8"):
        save_torch_bundle(models, tmp_path / "a", config)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_saved_over_good_ones(tmp_path: Path) -> None:
    path = saved(tmp_path)
    good = path.read_bytes()
    config, models = small_pair()
    with torch.no_grad():
        next(p for p in models["autoencoder"].parameters() if p.ndim == 4 and p.requires_grad)[0, 0, 0, 0] = (
            float("nan")
        )
    with pytest.raises(BundleError, match=r"core\..*weight: holds values that are not finite"):
        save_torch_bundle(models, tmp_path / "wts.h5", config)
    assert path.read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == ["wts.h5.zip"]
