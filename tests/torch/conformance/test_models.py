"""Rows of the bundle's contract about models: what was saved comes back, with one scale, or is refused."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import ptycho.params
from ptycho_torch.bundle import export_safetensors, verify_bundle
from ptycho_torch.config import ModelConfig, TrainingConfig
from ptycho_torch.errors import BundleError, BundleNotFoundError, PtychoError
from ptycho_torch.model_manager import (
    create_torch_model_with_gridsize,
    load_torch_bundle,
    save_torch_bundle,
)

NAMES = ("autoencoder", "diffraction_to_obj")
ARCHITECTURES = ["unrolled", "cnn"]


@pytest.fixture(autouse=True)
def own_cfg() -> Iterator[None]:
    before = dict(ptycho.params.cfg)
    ptycho.params.cfg.clear()
    yield
    ptycho.params.cfg.clear()
    ptycho.params.cfg.update(before)


def pair(
    scale: float = 3.0, architecture: str = "unrolled", gridsize: int = 2
) -> tuple[TrainingConfig, dict[str, nn.Module]]:
    model = ModelConfig(
        N=64, gridsize=gridsize, architecture=architecture, unrolled_width=4, unrolled_levels=1,
        unrolled_iterations=1,
    )  # fmt: skip
    config = TrainingConfig(model=model)
    flat = {"architecture": architecture, "unrolled_width": 4, "unrolled_levels": 1, "unrolled_iterations": 1}
    torch.manual_seed(0)
    models = create_torch_model_with_gridsize(gridsize, 64, {**flat, "intensity_scale": scale})
    return config, dict(zip(NAMES, models, strict=True))


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def older(path: Path, target: Path, **params: Any) -> Path:
    """The same bundle as the older writer leaves it: no ``bundle.json``, no record, its own params."""
    content = members(path)
    del content["bundle.json"]
    for name in NAMES:
        flat = {**pickle.loads(content[f"{name}/params.dill"]), **params}
        del flat["_model_config"]
        content[f"{name}/params.dill"] = pickle.dumps(flat)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return target


def frames(model: Any, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised amplitudes (2, C, N, N) and offsets of groups about their mean."""
    rng = torch.Generator().manual_seed(seed)
    count = model.config.gridsize**2
    offsets = torch.randn(2, count, 1, 2, generator=rng)
    return torch.rand(2, count, 64, 64, generator=rng), offsets - offsets.mean(1, keepdim=True)


def loaded(path: Path, *notes: str, model: str = "diffraction_to_obj") -> tuple[Any, dict[str, Any]]:
    """What a bundle gives; its warnings must be those that match ``notes``, one each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = load_torch_bundle(path, model)
    texts = [str(w.message) for w in caught]
    assert len(texts) == len(notes), texts
    assert all(note in text for note, text in zip(notes, texts, strict=True)), texts
    return found


# ---- the intensity scale is one


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NAMES)
def test_an_explicit_scale_reaches_params_and_model(tmp_path: Path, architecture: str, name: str) -> None:
    config, models = pair(3.0, architecture)
    save_torch_bundle(models, tmp_path / "x", config, intensity_scale=123.0)
    model, params = loaded(tmp_path / "x", model=name)
    assert params["intensity_scale"] == 123.0 == ptycho.params.get("intensity_scale")
    assert model.intensity_scale == pytest.approx(123.0, rel=1e-6)
    # A script that scales its input by the parameter gets what the model gave at its own scale.
    x, offsets = frames(model)
    with torch.no_grad():
        here, there = model(x * 123.0, offsets), models[name](x * 3.0, offsets)
        if name == "autoencoder":
            assert torch.allclose(here[1] / 123.0, there[1] / 3.0, rtol=1e-4, atol=1e-5)
            here, there = here[0], there[0]
    assert torch.allclose(here, there, rtol=1e-4, atol=1e-5)
    assert [c.status for c in verify_bundle(tmp_path / "x").checks] == ["passed", "passed"]
    assert models[name].intensity_scale == pytest.approx(3.0)  # saving changes nothing


def test_both_models_hold_the_explicit_scale_in_the_same_bytes(tmp_path: Path) -> None:
    config, models = pair()
    save_torch_bundle(models, tmp_path / "x", config, 123.0)
    content = members(tmp_path / "x.zip")
    assert content["autoencoder/model.pth"] == content["diffraction_to_obj/model.pth"]


def test_a_scale_like_the_models_own_leaves_its_weights_alone(tmp_path: Path) -> None:
    config, models = pair()
    own = models["autoencoder"].intensity_scale
    save_torch_bundle(models, tmp_path / "a", config)
    save_torch_bundle(models, tmp_path / "b", config, own)
    name = "autoencoder/model.pth"
    assert members(tmp_path / "a.zip")[name] == members(tmp_path / "b.zip")[name]


def test_the_trained_scale_goes_before_config_and_params_cfg(tmp_path: Path) -> None:
    config, models = pair(3.0)
    ptycho.params.cfg["intensity_scale"] = 5.0
    save_torch_bundle(models, tmp_path / "x", config)
    assert loaded(tmp_path / "x")[1]["intensity_scale"] == pytest.approx(3.0)
    flat = {k: v for k, v in loaded(tmp_path / "x")[1].items() if k != "probe"}
    with pytest.warns(UserWarning, match=r"intensity_scale: 7 in the configuration.* trained with 3"):
        save_torch_bundle(models, tmp_path / "x", {**flat, "intensity_scale": 7.0})
    assert loaded(tmp_path / "x")[1]["intensity_scale"] == pytest.approx(3.0)


def test_the_older_writers_default_opens_with_the_models_value(tmp_path: Path) -> None:
    config, models = pair(3.0, "cnn")
    save_torch_bundle(models, tmp_path / "x", config)
    path = older(tmp_path / "x.zip", tmp_path / "older.zip", intensity_scale=1.0)
    model, params = loaded(path, "1 in params, 3 in the weights; 3 is taken")
    assert params["intensity_scale"] == pytest.approx(3.0) == model.intensity_scale
    assert ptycho.params.get("intensity_scale") == params["intensity_scale"]
    report = verify_bundle(path)
    assert report.exit_status == 0
    assert "1 in params, 3 in the weights" in report.checks[0].text
    loaded(older(tmp_path / "x.zip", tmp_path / "same.zip"))  # no difference, no word


def disagreeing(tmp_path: Path, source: str) -> Path:
    """A bundle of this package's earlier versions: params say 123, weights 3, ``bundle.json`` why."""
    config, models = pair(3.0)
    save_torch_bundle(models, tmp_path / "three", config)
    save_torch_bundle(models, tmp_path / "x", config, 123.0)
    content, three = members(tmp_path / "x.zip"), members(tmp_path / "three.zip")
    side, other = json.loads(content["bundle.json"]), json.loads(three["bundle.json"])
    for name in NAMES:
        member = f"{name}/model.pth"
        content[member], side["members"][member] = three[member], other["members"][member]
    side["intensity_scale"]["source"] = source
    side["self_test"] = other["self_test"]
    content["bundle.json"] = json.dumps(side).encode()
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return tmp_path / "y.zip"


@pytest.mark.parametrize(("source", "scale"), [("argument", 123.0), ("global", 3.0), ("model", 3.0)])
def test_params_and_model_that_differ_are_settled_with_one_word(
    tmp_path: Path, source: str, scale: float
) -> None:
    path = disagreeing(tmp_path, source)
    model, params = loaded(path, f"123 in params, 3 in the weights; {scale:.6g} is taken")
    assert params["intensity_scale"] == pytest.approx(scale) == model.intensity_scale
    report = verify_bundle(path)
    assert report.checks[0].status == "failed"
    assert "123 in params, 3 in the weights" in report.checks[0].text
    target = export_safetensors(path, tmp_path / "out.safetensors")
    assert f'"intensity_scale": {params["intensity_scale"]}'.encode() in target.read_bytes().replace(
        b"\\", b""
    )


def test_a_scale_that_overflows_in_the_weights_is_refused(tmp_path: Path) -> None:
    config, models = pair()
    with torch.no_grad():
        models["autoencoder"].core.log_scale.fill_(1000.0)
    with pytest.raises(BundleError, match=r"intensity_scale \(model\)"):
        save_torch_bundle(models, tmp_path / "x", config)
    torch.save(models["autoencoder"].state_dict(), tmp_path / "w.pth")
    config, models = pair()
    save_torch_bundle(models, tmp_path / "x", config)
    content = members(tmp_path / "x.zip")
    del content["bundle.json"]
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, (tmp_path / "w.pth").read_bytes() if name.endswith(".pth") else data)
    with pytest.raises(BundleError, match="no finite intensity scale"):
        load_torch_bundle(tmp_path / "y.zip")


# ---- N and gridsize


def test_a_gridsize_that_nothing_confirms_is_said(tmp_path: Path) -> None:
    config, models = pair(gridsize=1)
    save_torch_bundle(models, tmp_path / "x", config)
    path = older(tmp_path / "x.zip", tmp_path / "older.zip", gridsize=2)
    model, params = loaded(path, "gridsize 2 is taken from params alone")
    assert model.config.gridsize == 2 == params["gridsize"]
    model, _ = loaded(older(tmp_path / "x.zip", tmp_path / "y.zip"), "gridsize 1 is taken from params alone")
    assert model.config.gridsize == 1


def test_a_gridsize_that_the_weights_confirm_needs_no_word(tmp_path: Path) -> None:
    config, models = pair(architecture="cnn")
    save_torch_bundle(models, tmp_path / "x", config)
    assert loaded(older(tmp_path / "x.zip", tmp_path / "y.zip"))[0].config.gridsize == 2
    with pytest.raises(BundleError, match="gridsize is 1 in params, but the weights fit 2"):
        load_torch_bundle(older(tmp_path / "x.zip", tmp_path / "z.zip", gridsize=1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_whole_floats_make_the_same_model(tmp_path: Path, architecture: str) -> None:
    config, models = pair(architecture=architecture)
    config.model.gridsize, config.model.n_filters_scale = 2.0, 1.0  # type: ignore[assignment]
    save_torch_bundle(models, tmp_path / "x", config)
    model, params = loaded(tmp_path / "x")
    assert (params["gridsize"], type(params["gridsize"])) == (2, int)
    assert type(model.config.n_filters_scale) is int


# ---- building a model


def test_a_model_is_built_by_either_name_of_the_params() -> None:
    flat = {"gridsize": 1, "N": 64, "model_type": "pinn", "architecture": "cnn"}
    for models in (
        create_torch_model_with_gridsize(2, 64, flat),
        create_torch_model_with_gridsize(gridsize=2, N=64, params=flat),
        create_torch_model_with_gridsize(gridsize=2.0, N=64, params_dict=flat),  # type: ignore[arg-type]
    ):
        assert [m.config.gridsize for m in models] == [2, 2]
        assert [m.core.generator.encoder.convs[0].in_channels for m in models] == [4, 4]
    with pytest.raises(ValueError, match="two names"):
        create_torch_model_with_gridsize(2, 64, flat, params_dict=flat)
    with pytest.raises(TypeError, match="'N'"):
        create_torch_model_with_gridsize(gridsize=2)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="N: "):
        create_torch_model_with_gridsize(2, None)  # type: ignore[arg-type]


# ---- loading


def test_params_cfg_is_set_after_success_and_only_then(tmp_path: Path) -> None:
    config, models = pair()
    save_torch_bundle(models, tmp_path / "x", config)
    ptycho.params.cfg["mine"] = 1
    for call, text in (
        (lambda: load_torch_bundle(tmp_path / "none"), "does not exist"),
        (lambda: load_torch_bundle(tmp_path / "x", "other"), "no model"),
        (lambda: load_torch_bundle(tmp_path / "x", dtype=torch.int8), "dtype"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
        assert ptycho.params.cfg == {"mine": 1}
    _, params = loaded(tmp_path / "x")
    assert ptycho.params.cfg.keys() == {"mine", *params}


def test_a_missing_archive_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_torch_bundle(tmp_path / "wts.h5")
    with pytest.raises(BundleNotFoundError, match="does not exist"):
        load_torch_bundle(tmp_path)


def test_an_unknown_model_lists_what_there_is(tmp_path: Path) -> None:
    config, models = pair()
    save_torch_bundle(models, tmp_path / "x", config)
    with pytest.raises(ValueError, match="there is: autoencoder, diffraction_to_obj"):
        load_torch_bundle(tmp_path / "x", "generator")


def test_weights_that_do_not_fit_are_refused_and_never_fresh(tmp_path: Path) -> None:
    config, _ = pair()
    with pytest.warns(UserWarning, match="will refuse"):
        save_torch_bundle({n: nn.Conv2d(1, 16, 3) for n in NAMES}, tmp_path / "x", config)
    with pytest.raises(BundleError, match="do not fit"):
        load_torch_bundle(tmp_path / "x")


# ---- whatever is handed over as a model


class ExtraState(nn.Linear):
    """Keeps something of its own in the state dict."""

    def __init__(self, extra: Any) -> None:
        super().__init__(2, 2)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


class Raising(nn.Linear):
    """Whose attribute ``broken`` raises ``error``."""

    def __init__(self, broken: str, error: type[Exception]) -> None:
        super().__init__(2, 2)
        self.broken, self.error = broken, error

    def __getattribute__(self, name: str) -> Any:
        if name in ("broken", "error", "__class__", "__dict__"):
            return super().__getattribute__(name)
        if name == super().__getattribute__("__dict__").get("broken"):
            raise super().__getattribute__("__dict__")["error"]("of its own")
        return super().__getattribute__(name)


class Unfinished(nn.Module):
    def __init__(self) -> None:
        pass  # without the base class's


def _with(**attributes: Any) -> nn.Module:
    module = nn.Linear(2, 2)
    for name, value in attributes.items():
        object.__setattr__(module, name, value)
    return module


def test_a_state_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    config, _ = pair()
    models = {name: nn.Sequential(ExtraState({"a": 1})) for name in NAMES}
    with pytest.raises(BundleError, match=r"model\.pth: 0\._extra_state: dict cannot be kept in a bundle"):
        save_torch_bundle(models, tmp_path / "x", config)


_modules = st.sampled_from(
    [
        nn.Linear(2, 3), nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), nn.Identity(), nn.LazyLinear(3),
        nn.Linear(2, 2, device="meta"), nn.Linear(2, 2, dtype=torch.bfloat16), nn.ParameterDict(), Unfinished(),
        nn.Linear(2, 2, dtype=torch.complex64), nn.Embedding(3, 2, sparse=True), torch.jit.script(nn.Linear(2, 2)),
        nn.ModuleDict({"core": nn.Linear(1, 1)}), nn.Linear(2, 2), nn.Linear,
    ]
)  # fmt: skip
_extra = st.builds(
    lambda value, nested: nn.Sequential(ExtraState(value)) if nested else ExtraState(value),
    st.sampled_from(
        [None, 3, "text", {"a": 1}, b"bytes", torch.zeros(2), torch.eye(2).to_sparse(), object()]
    ),
    st.booleans(),
)
_raising = st.builds(
    Raising,
    st.sampled_from(["state_dict", "intensity_scale", "bundle_params"]),
    st.sampled_from([AttributeError, ValueError, RuntimeError, KeyError, NotImplementedError]),
)
_odd = st.builds(
    lambda name, value: _with(**{name: value}),
    st.sampled_from(["intensity_scale", "bundle_params", "state_dict"]),
    st.sampled_from(
        [None, 2.0, -1, "x", dict, list, [], torch.tensor(2.0), torch.zeros(3), lambda: {"N": 3}]
    ),
)
_others = st.sampled_from(
    [None, 3, "model", torch.zeros(2), {"weight": torch.zeros(2)}, {"_sentinel": torch.zeros(2)}, np.zeros(2),
     {"_sentinel": nn.Linear(1, 1)}, {"_sentinel": "torch_unavailable", "name": "autoencoder"}, object()]
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from([*NAMES, "other", "../up", "", "a/b", 3]),
        _modules | _extra | _raising | _odd | _others,
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([None, 2.0]),
)
def test_only_the_packages_own_errors_leave_save_and_load(
    tmp_path: Path, models: Any, scale: float | None
) -> None:
    config = TrainingConfig(model=ModelConfig(unrolled_width=4, unrolled_levels=0, unrolled_iterations=1))
    try:
        save_torch_bundle(models, tmp_path / "x", config, scale)
    except PtychoError:
        assert not list(tmp_path.iterdir())
        return
    for name in models:
        with pytest.raises(PtychoError):
            load_torch_bundle(tmp_path / "x", name)
    assert ptycho.params.cfg == {}
    (tmp_path / "x.zip").unlink()
