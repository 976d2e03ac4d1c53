"""What does not fit is refused and explained: weights, params, manifests, sidecars, and code in the file."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dill
import numpy as np
import pytest
import torch
from bundle_models import (
    bare,
    members,
    put,
    saved,
    with_params,
    with_state,
)
from torch import nn

from peak import peak
from ptycho_torch.compat import parameters
from ptycho_torch.errors import BundleError, BundleNotFoundError
from ptycho_torch.model_manager import load_torch_bundle


@pytest.fixture(autouse=True)
def clean_cfg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "cfg", {})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("bundle"))


# ---- weights that do not fit


def rename(state: OrderedDict[str, Any]) -> None:
    key = next(k for k in state if k.endswith("weight"))
    state[key + "_x"] = state.pop(key)


def reshape(state: OrderedDict[str, Any]) -> None:
    key = next(k for k in state if k.endswith("weight"))
    state[key] = torch.zeros((1, *state[key].shape))


def poke(value: float) -> Callable[[OrderedDict[str, Any]], None]:
    def change(state: OrderedDict[str, Any]) -> None:
        state["core.log_scale"] = torch.tensor(value)

    return change


STATES: dict[str, tuple[Callable[..., Any], str]] = {
    "missing": (lambda s: s.pop("core.log_scale") and None, r"missing core\.log_scale"),
    "extra": (lambda s: s.update(x=torch.zeros(3)), "unexpected x"),
    "renamed": (rename, r"missing core\..*unexpected core\."),
    "shape": (reshape, r"expected \(\d+, .*found \(1, "),
    "float64": (
        lambda s: OrderedDict((k, v.double()) for k, v in s.items()),
        "expected .*float32, found .*float64",
    ),
    "complex": (lambda s: s.update({"core.log_scale": torch.tensor(1j)}), "complex64"),
    "nan": (poke(float("nan")), "not finite"),
    "inf": (poke(float("-inf")), "not finite"),
    "empty": (lambda s: OrderedDict(), "without a single tensor"),
    "tensor": (lambda s: torch.zeros(3), "expected a state dict"),
    "nested": (lambda s: {"state_dict": s, "epoch": 3}, "training checkpoint"),
    "list": (lambda s: s.update(x=[1.0]), "expected a tensor, found list"),
    "number as key": (lambda s: s.update({7: torch.zeros(1)}), "not text"),
    "expanded": (
        lambda s: s.update({"core.log_scale": torch.zeros(1).expand(5)}),
        "lies outside|share memory",
    ),
    "old program": (
        lambda s: OrderedDict((k.replace("core.", "model."), v) for k, v in s.items()),
        "older PyTorch program",
    ),
    "sentinel": (lambda s: {"_sentinel": "autoencoder"}, "placeholder.*diffraction_to_obj: "),
    "sparse": (lambda s: s.update(x=torch.eye(3).to_sparse()), "which is not data"),
}


@pytest.mark.parametrize("model", ["autoencoder", "diffraction_to_obj"])
@pytest.mark.parametrize("name", STATES)
def test_state_dicts_that_do_not_fit(bundle: Path, tmp_path: Path, name: str, model: str) -> None:
    change, text = STATES[name]
    if name == "sentinel" and model == "diffraction_to_obj":
        text = "placeholder"
    broken = put(tmp_path / "x.zip", with_state(bare(bundle), change, model))
    with pytest.raises(BundleError, match=text) as caught:
        load_torch_bundle(broken)
    assert str(caught.value).startswith(f"{broken}: {model}/model.pth: ")
    assert len(str(caught.value)) < 2000


def forms(state: OrderedDict[str, Any]) -> dict[str, Any]:
    flat = torch.cat([v.reshape(-1) for v in state.values()])
    views, at = OrderedDict(), 0
    for key, value in state.items():
        views[key] = flat[at : at + value.numel()].view(value.shape)
        at += value.numel()
    return {
        "dict": dict(state),
        "parameters": OrderedDict((k, nn.Parameter(v)) for k, v in state.items()),
        "one storage": views,
        "channels last": OrderedDict(
            (k, v.to(memory_format=torch.channels_last) if v.ndim == 4 else v) for k, v in state.items()
        ),
        "zeros": OrderedDict((k, torch.zeros_like(v)) for k, v in state.items()),
    }


@pytest.mark.parametrize("form", ["dict", "parameters", "one storage", "channels last", "zeros"])
def test_other_writers_state_dicts_are_read(bundle: Path, tmp_path: Path, form: str) -> None:
    content = with_state(bare(bundle), lambda s: forms(s)[form], "diffraction_to_obj")
    loaded, _ = load_torch_bundle(put(tmp_path / "x.zip", content))
    expected = torch.load(io.BytesIO(content["diffraction_to_obj/model.pth"]), weights_only=True)
    assert all(torch.equal(v, expected[k]) for k, v in loaded.state_dict().items())


PARAMS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "gridsize": (lambda p: p.update(gridsize=3), "gridsize: 3, but the model was saved with 2"),
    "N": (lambda p: p.update(N=64), "probe: expected shape"),
    "no N": (lambda p: p.pop("N") and None, "missing required fields: N;"),
    "no gridsize": (
        lambda p: p.pop("gridsize") and None,
        "missing required fields: gridsize; cannot reconstruct",
    ),
    **{
        f"N {v!r}": (lambda p, v=v: p.update(N=v), "N: ")
        for v in ("64", None, 64.5, -64, 0, 10**9, [64], True, float("nan"))
    },
    "N array": (lambda p: p.update(N=np.zeros((2, 2))), "N: "),
    "gridsize 1.5": (lambda p: p.update(gridsize=1.5), "gridsize: expected an integer, found 1.5"),
    "epochs 1.5": (lambda p: p.update(nepochs=1.5), "nepochs: expected an integer, found 1.5"),
    "gridsize huge": (lambda p: p.update(gridsize=10**6), "gridsize: "),
    **{
        f"scale {v!r}": (lambda p, v=v: p.update(intensity_scale=v), "intensity_scale: ")
        for v in (float("nan"), "1", -1.0, 0.0, float("inf"), True)
    },
    "scale array": (lambda p: p.update(intensity_scale=np.zeros(3)), "intensity_scale: "),
    "width": (lambda p: p.update(unrolled_width=16), "saved with 8"),
    "activation": (lambda p: p.update(amp_activation="exec"), "amp_activation"),
    "architecture": (lambda p: p.update(architecture="os.system"), "architecture"),
    "probe of text": (lambda p: p.update(probe="x"), "probe: "),
    "probe nan": (lambda p: p.update(probe=p["probe"] * np.nan), "probe: "),
    "list": (lambda p: [1, 2], "expected a dictionary"),
    "nothing": (lambda p: {}, "missing required fields: N, gridsize;"),
    "empty list": (lambda p: [], "expected a dictionary"),
}


@pytest.mark.parametrize("name", PARAMS)
def test_params_that_no_model_may_be_built_from(bundle: Path, tmp_path: Path, name: str) -> None:
    change, text = PARAMS[name]
    broken = put(tmp_path / "x.zip", with_params(bare(bundle), change))
    with pytest.raises(BundleError, match=text) as caught:
        load_torch_bundle(broken)
    assert "/params.dill: " in str(caught.value)


def test_an_enormous_model_is_refused_before_it_is_built(bundle: Path, tmp_path: Path) -> None:
    def change(params: dict[str, Any]) -> None:
        params.pop("_model_config")
        params.update(unrolled_width=1024, unrolled_levels=3, unrolled_iterations=64)

    broken = put(tmp_path / "x.zip", with_params(bare(bundle), change))
    with pytest.raises(BundleError, match="do not fit"):
        load_torch_bundle(broken)


def test_the_field_that_differs_is_named(bundle: Path, tmp_path: Path) -> None:
    def change(params: dict[str, Any]) -> None:
        params.pop("_model_config")
        params["unrolled_iterations"] = 4

    broken = put(tmp_path / "x.zip", with_params(bare(bundle), change))
    with pytest.raises(BundleError, match="unrolled_iterations is 4 in params, but the weights fit 2"):
        load_torch_bundle(broken)


def test_models_that_disagree(bundle: Path, tmp_path: Path) -> None:
    def change(params: dict[str, Any]) -> None:
        params.pop("_model_config")
        params["gridsize"] = 3

    broken = put(tmp_path / "x.zip", with_params(bare(bundle), change, "diffraction_to_obj"))
    with pytest.raises(BundleError, match="differs from autoencoder's in gridsize"):
        load_torch_bundle(broken)


MANIFESTS: dict[str, Any] = {
    "lists missing": {"models": ["autoencoder", "diffraction_to_obj", "ghost"], "version": "2.0-pytorch"},
    "omits": {"models": ["autoencoder"], "version": "2.0-pytorch"},
    "no models": {"version": "2.0-pytorch"},
    "text": {"models": "autoencoder", "version": "2.0-pytorch"},
    "twice": {"models": ["autoencoder", "autoencoder"], "version": "2.0-pytorch"},
    "traversal": {"models": ["../autoencoder", "diffraction_to_obj"], "version": "2.0-pytorch"},
    "escape": {"models": ["a\n\x1b[31mb"], "version": "2.0-pytorch"},
    "list": ["autoencoder"],
    "unknown version": {"models": ["autoencoder", "diffraction_to_obj"], "version": "99"},
    "odd version": {"models": ["autoencoder", "diffraction_to_obj"], "version": ["x"]},
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_that_do_not_fit(bundle: Path, tmp_path: Path, name: str) -> None:
    broken = put(tmp_path / "x.zip", {**bare(bundle), "manifest.dill": dill.dumps(MANIFESTS[name])})
    with pytest.raises(BundleError) as caught:
        load_torch_bundle(broken)
    assert str(caught.value).isprintable()


def test_unknown_model_name_lists_what_there_is(bundle: Path) -> None:
    with pytest.raises(BundleError, match="there is: autoencoder, diffraction_to_obj"):
        load_torch_bundle(bundle, "generator\x1b")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_torch_bundle(tmp_path / "wts.h5")
    with pytest.raises(BundleNotFoundError):
        load_torch_bundle(tmp_path)


# ---- bundle.json


def side(content: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    return {**content, "bundle.json": json.dumps({**json.loads(content["bundle.json"]), **changes}).encode()}


def test_a_sidecar_that_disagrees(bundle: Path, tmp_path: Path) -> None:
    content = members(bundle)
    cases = {
        "weights": with_state(content, lambda s: s.update({"core.log_scale": torch.tensor(0.1)})),
        "params": with_params(content, lambda p: p.update(note="x")),
        "newer": side(content, format_version=2),
        "version text": side(content, format_version="1"),
        "backend": side(content, backend="tensorflow"),
        "format": side(content, format="other"),
        "members": side(content, members={}),
        "ghost": side(
            content,
            members={**json.loads(content["bundle.json"])["members"], "ghost": {"sha256": "0", "size": 1}},
        ),
        "not json": {**content, "bundle.json": b"{"},
        "nan": {**content, "bundle.json": b'{"a": NaN}'},
        "deep": {**content, "bundle.json": b"[" * 200_000},
        "long number": {**content, "bundle.json": b"9" * 100_000},
        "twice": {**content, "bundle.json": b'{"format": 1, "format": 2}'},
    }
    for name, case in cases.items():
        with pytest.raises(BundleError, match=r"bundle\.json"):
            load_torch_bundle(put(tmp_path / f"{name}.zip", case))


# ---- code in the file


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize(
    "member", ["manifest.dill", "autoencoder/params.dill", "diffraction_to_obj/params.dill", "pth", "raw pth"]
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_member_never_runs(bundle: Path, tmp_path: Path, member: str, protocol: int) -> None:
    mark = tmp_path / "ran"
    content = bare(bundle)
    if member == "pth":
        content = with_state(content, lambda s: s.update(x=Payload(mark)))
    elif member == "raw pth":
        content["autoencoder/model.pth"] = pickle.dumps(Payload(mark), protocol=protocol)
    else:
        value = {**dill.loads(content[member]), "x": Payload(mark)}
        content[member] = pickle.dumps(value, protocol=protocol)
    with pytest.raises(BundleError, match=r"not data|not a torch zip"):
        load_torch_bundle(put(tmp_path / "x.zip", content))
    assert not mark.exists()


def test_entries_that_nobody_asked_for_are_left_alone(bundle: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    extra = {
        "autoencoder/custom_objects.dill": pickle.dumps(Payload(mark)),
        "sitecustomize.py": b"raise SystemExit",
    }
    load_torch_bundle(put(tmp_path / "x.zip", {**bare(bundle), **extra}))
    assert not mark.exists()


@pytest.mark.parametrize(
    "params",
    [
        {"N": 4096},
        {"N": 4096, "gridsize": 16, "probe_modes": 64},
        {"N": 2048, "architecture": "cnn", "n_filters_scale": 64},
        {"unrolled_width": 1024, "unrolled_levels": 5, "unrolled_iterations": 64},
    ],
    ids=str,
)
def test_params_that_ask_for_an_enormous_model(tmp_path: Path, params: dict[str, Any]) -> None:
    def change(found: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in found.items() if k not in ("probe", "_model_config")} | params

    sound = saved(tmp_path)
    path = put(tmp_path / "x.zip", with_params(bare(sound), change))
    setup = "from ptycho_torch.model_manager import load_torch_bundle; load_torch_bundle(args[1])"
    found = peak(setup, "load_torch_bundle(args[0])", path, sound)
    assert found.error == "BundleError"
    assert found.within(path.stat().st_size), f"{found.grown >> 20} MiB: {found.text}"
