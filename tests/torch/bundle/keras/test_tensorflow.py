"""Archives of the TensorFlow program: same input, same output, without that program; its traps are not inherited."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from keras_archives import Program, keras_file, weights_file, write_archive
from ptycho_torch.bundle.keras.tensorflow import convert
from ptycho_torch.bundle.verify import verify_bundle
from ptycho_torch.compat import parameters
from ptycho_torch.compat.layout import from_channels_last, to_channels_last
from ptycho_torch.errors import BundleError, OutputError
from ptycho_torch.model_manager import load_torch_bundle, save_torch_bundle
from ptycho_torch.reconstruction import reconstruct
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan

REAL = ("a_gs1_N64", "b_gs2_N64", "c_gs2_N64_small_swish")


@pytest.fixture(autouse=True)
def clean_cfg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "cfg", {})


def deviation(found: torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference over the output's largest magnitude; ``expected`` channels last."""
    found = to_channels_last(found)
    assert found.shape == expected.shape
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


@torch.inference_mode()
def run(
    path: Path,
    frames: np.ndarray,
    positions: np.ndarray,
    model: str = "diffraction_to_obj",
    dtype: torch.dtype = torch.float32,
) -> Any:
    module, _ = load_torch_bundle(path, model, dtype=dtype)
    return module(*(v.to(dtype) for v in from_channels_last(frames, positions)))


# ---------------------------------------------------------------- the real ones


@pytest.mark.parametrize("name", REAL)
def test_real_archives_give_their_outputs(shared: Path, name: str) -> None:
    folder = shared / "data" / "tf_bundles" / name
    with np.load(folder / "reference.npz") as reference:
        inputs = reference["X_scaled"], reference["positions"]
        assert deviation(run(folder, *inputs), reference["trimmed_obj"]) < 1e-5
        outputs = run(folder / "wts.h5", *inputs, "autoencoder")
        for found, key in zip(
            outputs, ("ae_trimmed_obj", "ae_pred_amp_scaled", "ae_pred_intensity"), strict=True
        ):
            assert deviation(found, reference[key]) < 1e-5, key


@pytest.mark.parametrize("name", REAL)
def test_real_archives_agree_layer_by_layer(shared: Path, name: str) -> None:
    folder = shared / "data" / "tf_bundles" / name
    module, _ = load_torch_bundle(folder)
    generator: Any = module.core.generator
    with np.load(folder / "reference.npz") as reference, torch.inference_mode():
        x, offsets = from_channels_last(reference["mid_intensity_scaler"], reference["positions"])
        proposal = generator.propose(x, -offsets, module.core.probe)
        assert deviation(proposal.object, reference["trimmed_obj"]) < 1e-5
        flat = proposal.patches.reshape(-1, 1, *proposal.patches.shape[-2:])
        assert deviation(flat, reference["mid_padded_objs_with_offsets"]) < 1e-5
        canvas = generator.canvas(x, offsets)
        assert deviation(canvas, reference["mid_padded_obj_2"]) < 1e-5


# ---------------------------------------------------------------- every option, against the float64 twin

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "group": {"gridsize": 2},
    "three": {"gridsize": 3, "scale": 1},
    "wide": {"scale": 2},
    "swish, one object": {"gridsize": 2, "object_big": False, "amp": "swish"},
    "no border": {"probe_big": False},
    "no border, one object": {"probe_big": False, "object_big": False, "gridsize": 2},
    "softplus": {"amp": "softplus"},
    "relu": {"amp": "relu"},
    "no padding": {"pad_object": False},
    "no padding, group": {"pad_object": False, "gridsize": 2, "object_big": False},
    "mask": {"probe_mask": True},
    "smoothing": {"sigma": 0.7},
    "names start elsewhere": {"first": 46, "gridsize": 2},
    "other canvas": {"gridsize": 2, "offset": 6, "jitter": 4},
    "N 128": {"N": 128},
    "supervised": {"extra": {"model_type": "supervised"}},
    "trained probe": {"extra": {"probe.trainable": True, "intensity_scale.trainable": False}},
    "N 256": {"N": 256},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_against_an_independent_computation(tmp_path: Path, name: str) -> None:
    program = Program(**OPTIONS[name])
    path = write_archive(tmp_path / "wts.h5.zip", program)
    members, rng = program.gridsize**2, np.random.default_rng(1)
    count = 2
    frames = rng.random((count, program.N, program.N, members)).astype(np.float32) * program.intensity_scale
    positions = rng.uniform(-3, 3, (count, 1, 2, members)).astype(np.float32)
    expected = [program.group(f, p) for f, p in zip(frames, positions, strict=True)]
    objects = np.stack([e[0] for e in expected])
    amplitudes = np.stack([e[1] for e in expected])
    obj, amplitude, intensity = run(path, frames, positions, "autoencoder", torch.float64)
    for found in (obj, run(path, frames, positions, dtype=torch.float64)):
        assert deviation(found, objects) < 2e-6  # the scale is stored in single precision
    assert deviation(amplitude, amplitudes) < 1e-6
    assert deviation(intensity, amplitudes**2) < 1e-6
    assert deviation(run(path, frames, positions), objects) < 5e-5  # borders are divided by 0.001


def test_outside_of_tensorflow_and_keras_nothing_is_needed(tmp_path: Path) -> None:
    import sys

    path = write_archive(tmp_path / "wts.h5.zip", Program())
    load_torch_bundle(path)
    assert not {"tensorflow", "keras"} & set(sys.modules)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d["config"]["layers"][2].update(class_name="Lambda"), "Lambda"),
        (lambda d: d["config"]["layers"][2].update(class_name="Dense"), "Dense"),
        (lambda d: d["config"]["layers"][2]["config"].update(kernel_size=[5, 5]), "kernel_size"),
        (lambda d: d["config"]["layers"][2]["config"].update(activation="gelu"), "gelu"),
        (lambda d: d["config"]["output_layers"].pop(), ""),
        (lambda d: d["config"]["layers"].pop(3), ""),
        (lambda d: d.update(class_name="Sequential"), "Sequential"),
    ],
)
def test_unknown_networks_are_refused_by_name(tmp_path: Path, change: Any, named: str) -> None:
    program = Program()
    description = json.loads(json.dumps(program.description("autoencoder")))
    change(description)
    model = keras_file(description, weights_file(program))
    path = write_archive(tmp_path / "wts.h5.zip", program)
    _replace(path, "autoencoder/model.keras", model)
    with pytest.raises(BundleError, match=r"autoencoder/model\.keras") as caught:
        load_torch_bundle(path, "autoencoder")
    assert named in str(caught.value)
    assert len(str(caught.value)) < 600


def _replace(path: Path, member: str, data: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist() if name in _OWN or name == member}
    content[member] = data
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(name, value)


_OWN = {
    "manifest.dill",
    *(
        f"{m}/{t}"
        for m in ("autoencoder", "diffraction_to_obj")
        for t in ("model.keras", "model.h5", "params.dill", "custom_objects.dill")
    ),
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("N", 128),
        ("gridsize", 2),
        ("n_filters_scale", 2),
        ("object.big", False),
        ("pad_object", False),
        ("amp_activation", "swish"),
    ],
)
def test_params_that_contradict_the_network_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    program = Program(extra={key: value})
    path = write_archive(tmp_path / "wts.h5.zip", program)
    with pytest.raises(BundleError, match=r"params|probe"):
        load_torch_bundle(path)


@pytest.mark.parametrize("key", ["probe", "intensity_scale", "gaussian_smoothing_sigma"])
def test_what_nobody_knows_is_not_guessed(tmp_path: Path, key: str) -> None:
    program = Program()
    params = {k: v for k, v in program.params().items() if k != key}
    path = write_archive(tmp_path / "wts.h5.zip", program)
    _replace(path, "diffraction_to_obj/params.dill", pickle.dumps(params, 4))
    with pytest.raises(BundleError, match=key):
        load_torch_bundle(path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    program = Program()
    kernel, bias = program.kernels["conv2d_3"]
    for change, text in (
        ({"conv2d_3": (kernel[:, :, :-1], bias)}, "conv2d_3"),
        ({"conv2d_3": (np.full_like(kernel, np.nan), bias)}, "finite"),
        ({"conv2d_99": (kernel, bias)}, "conv2d_99"),
    ):
        other = Program()
        other.kernels |= change
        with pytest.raises(BundleError, match=text):
            load_torch_bundle(write_archive(tmp_path / "wts.h5.zip", other))


def test_an_archive_of_the_older_pytorch_backend_says_what_it_is(tmp_path: Path) -> None:
    from bundle_models import bare, put, saved, with_state

    path = saved(tmp_path)
    foreign = {f"model.autoencoder.encoder.blocks.{i}.conv1.weight": torch.zeros(3) for i in range(300)}
    content = bare(path)
    for model in ("autoencoder", "diffraction_to_obj"):
        content = with_state(content, lambda _: foreign, model)
    put(path, content)
    with pytest.raises(BundleError) as caught:
        load_torch_bundle(path)
    text = str(caught.value)
    assert len(text) < 1200
    assert "300 tensors under 'model.', as the older PyTorch program writes them" in text


# ---------------------------------------------------------------- traps of that program


def test_a_second_model_in_one_process_keeps_its_own_scale(tmp_path: Path) -> None:
    first = write_archive(tmp_path / "a.zip", Program(intensity_scale=494.1))
    second = write_archive(tmp_path / "b.zip", Program(intensity_scale=988.2))
    x, offsets = torch.rand(1, 1, 64, 64), torch.zeros(1, 1, 1, 2)
    alone = load_torch_bundle(second)[0](988.2 * x, offsets)
    other, _ = load_torch_bundle(first)
    again, params = load_torch_bundle(second)
    torch.testing.assert_close(again(988.2 * x, offsets), alone, rtol=0, atol=0)
    torch.testing.assert_close(other(494.1 * x, offsets), alone, rtol=1e-5, atol=1e-6)
    assert params["intensity_scale"] == pytest.approx(988.2)


@torch.inference_mode()
def test_a_large_batch_gives_as_many_objects_as_groups(tmp_path: Path) -> None:
    module, _ = load_torch_bundle(write_archive(tmp_path / "a.zip", Program(gridsize=2)))
    x, offsets = torch.rand(20, 4, 64, 64) * 10, torch.randn(20, 4, 1, 2)
    together = module(x, offsets)
    assert together.shape == (20, 1, 64, 64)
    alone = torch.cat([module(x[i : i + 1], offsets[i : i + 1]) for i in range(20)])
    assert (together - alone).abs().max() < 1e-5 * alone.abs().max()


@torch.inference_mode()
def test_offsets_are_relative_to_their_own_group(tmp_path: Path) -> None:
    """In that program a far group in the batch moves all others; here groups do not know of each other."""
    module, _ = load_torch_bundle(write_archive(tmp_path / "a.zip", Program(gridsize=2)))
    x, offsets = torch.rand(2, 4, 64, 64) * 10, torch.randn(2, 4, 1, 2)
    far = offsets.clone()
    far[1] += 40.0
    torch.testing.assert_close(module(x, offsets)[0], module(x, far)[0], rtol=0, atol=0)


@torch.inference_mode()
def test_values_outside_the_centre_are_not_trusted_when_stitching(tmp_path: Path) -> None:
    """A group's canvas is divided by the coverage of the centre squares, 0.001 outside them."""
    module, _ = load_torch_bundle(write_archive(tmp_path / "a.zip", Program(gridsize=2, pad_object=False)))
    x = torch.rand(1, 4, 64, 64) * 10
    obj = module(x, torch.zeros(1, 4, 1, 2))[0, 0].abs()
    assert obj[0, 0] > 50  # the trap is there in the model's numbers, which are that program's
    weight = module.core.stitching_weight()
    assert weight[:8].max() == 0
    assert weight[28:36, 28:36].min() > 0


def _scan(size: int = 64) -> Any:
    obj = make_object("grf", size + 24, 0)
    positions = make_positions("grid", obj.shape, size, step=6.0, seed=0)
    return simulate_scan(obj, make_probe("zoneplate", size), positions, photons=1e6)


def test_reconstruct_takes_such_a_model_and_stays_bounded(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zip", Program(gridsize=2))
    result = reconstruct(path, _scan())
    assert np.isfinite(result.object).all()
    assert np.abs(result.object).max() < 20  # nothing divided by 0.001 has reached the canvas
    assert result.measured().any()


# ---------------------------------------------------------------- converting


@pytest.mark.parametrize("gridsize", [1, 2])
def test_converted_models_give_the_same_numbers(tmp_path: Path, gridsize: int) -> None:
    program = Program(gridsize=gridsize)
    old = write_archive(tmp_path / "old.zip", program)
    report = convert(old, tmp_path / "new" / "wts.h5")
    x, offsets = torch.rand(2, gridsize**2, 64, 64) * 10, torch.randn(2, gridsize**2, 1, 2)
    for model in ("diffraction_to_obj", "autoencoder"):
        before, after = (load_torch_bundle(p, model)[0](x, offsets) for p in (old, report.target))
        for a, b in zip(*((v if isinstance(v, tuple) else (v,)) for v in (before, after)), strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=0)
    with zipfile.ZipFile(report.target) as archive:
        side = json.loads(archive.read("bundle.json"))
    origin = side["provenance"]["origin"]
    assert origin["archive"] == "old.zip"
    assert len(origin["sha256"]) == 64
    assert origin["keras_version"] == "3.15.1"
    assert any("optimiser" in text for text in report.not_carried)
    assert any("custom_objects" in text for text in report.not_carried)
    checks = verify_bundle(report.target)
    assert [c.status for c in checks.checks] == ["passed", "passed"]


def test_converting_refuses_what_it_should(tmp_path: Path) -> None:
    old = write_archive(tmp_path / "old.zip", Program())
    with pytest.raises(OutputError, match="name another output"):
        convert(old, old)
    convert(old, tmp_path / "new.zip")
    with pytest.raises(BundleError, match="already"):
        convert(tmp_path / "new.zip", tmp_path / "newer.zip")
    different = Program(seed=7)
    _replace(
        old,
        "autoencoder/model.keras",
        keras_file(different.description("autoencoder"), weights_file(different)),
    )
    with pytest.raises(BundleError, match="other weights"):
        convert(old, tmp_path / "two.zip")
    assert not (tmp_path / "two.zip").exists()


def test_a_converted_model_learns_on(tmp_path: Path) -> None:
    from ptycho_torch.model import Autoencoder

    convert(write_archive(tmp_path / "old.zip", Program()), tmp_path / "new.zip")
    module, _ = load_torch_bundle(tmp_path / "new.zip", "autoencoder")
    assert isinstance(module, Autoencoder)
    scan = _scan()
    x = torch.from_numpy(scan.frames[:4])[:, None]
    x = x * (32 / x.square().sum((-2, -1)).mean().sqrt()) * module.intensity_scale
    offsets = torch.zeros(4, 1, 1, 2)
    module.train()
    optimiser = torch.optim.Adam(module.core.generator.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        loss = (module(x, offsets)[1] - x).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]


def test_nan_weights_are_never_saved(tmp_path: Path) -> None:
    from bundle_models import small_pair

    config, models = small_pair()
    with torch.no_grad():
        next(models["autoencoder"].parameters()).fill_(float("nan"))
    with pytest.raises(BundleError, match="finite"):
        save_torch_bundle(models, tmp_path / "wts.h5", config)
    assert not list(tmp_path.iterdir())
