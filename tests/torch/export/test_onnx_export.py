"""Exported files: the same numbers in onnxruntime, where torch cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ptycho_torch.bundle.save import save_torch_bundle
from ptycho_torch.config import ModelConfig, TrainingConfig
from ptycho_torch.errors import ConfigError, DependencyError, OutputError, TrainingError
from ptycho_torch.export import ExportOptions, export_onnx, export_program, onnxfile
from ptycho_torch.export.lowering import RULES
from ptycho_torch.generators.region_frames import RegionFrames
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.model import build_pair, default_probe

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SIZE = 16
SMALL = ExportOptions(region=48, subsets=2, iterations=1)


def bundle_of(folder: Path, name: str, seed: int = 0, **fields: Any) -> Path:
    """A bundle with random weights, whose networks are not silent."""
    torch.manual_seed(seed)
    config = ModelConfig(
        **{"N": SIZE, "unrolled_width": 8, "unrolled_levels": 1, "unrolled_iterations": 1, **fields}
    )
    pair = build_pair(config, default_probe(config.N), 3.0)
    for module in pair[0].core.modules():
        if isinstance(module, torch.nn.Conv2d) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.02)
    for model in pair:
        model.eval().requires_grad_(False)
    models = {"autoencoder": pair[0], "diffraction_to_obj": pair[1]}
    save_torch_bundle(models, folder / name, TrainingConfig(model=config))
    return folder / f"{name}.zip"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Any]:
    """The file, its metadata, and the program that was captured, which takes most of the time."""
    folder = tmp_path_factory.mktemp("scan")
    bundle = bundle_of(folder, "wts.h5", unrolled_form="region")
    captured: list[Any] = []
    capture = onnxfile._captured
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxfile, "_captured", lambda form: captured.append(capture(form)) or captured[0])
        about = export_onnx(folder / "solver.onnx", bundle, SMALL, frames=40)
    return folder / "solver.onnx", about, captured[0]


def test_the_certificate_is_in_the_file(exported: tuple[Path, dict[str, Any], Any]) -> None:
    import onnx

    path, about, _ = exported
    kept = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(kept["ptychopinn"]) == about
    certificate = about["certificate"]
    assert certificate["frames"] == 40
    assert certificate["torch_importable"] is False
    assert 0 <= max(certificate["largest_difference"].values()) <= 1e-5


_ELSEWHERE = """
import sys
sys.modules["torch"] = None
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
given = dict(np.load(sys.argv[2]))
for name, value in zip([o.name for o in session.get_outputs()], session.run(None, given)):
    np.save(f"{sys.argv[3]}/{name}.npy", value)
"""


def run_elsewhere(path: Path, folder: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What the file gives in a process in which ``import torch`` fails."""
    np.savez(folder / "inputs.npz", **inputs)  # type: ignore[arg-type]
    line = [sys.executable, "-I", "-c", _ELSEWHERE, str(path), str(folder / "inputs.npz"), str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return {found.stem: np.load(found) for found in folder.glob("*.npy")}


def test_without_torch_any_number_of_frames_gives_the_solvers_own_object(
    exported: tuple[Path, dict[str, Any], Any], tmp_path: Path
) -> None:
    """Against the solver's public call, with frames that the export has not seen."""
    from ptycho_torch.bundle.shipped import load_solver

    path, _, _ = exported
    source = np.random.default_rng(3)
    frames = source.uniform(0, 2, (11, SIZE, SIZE)).astype(np.float32)
    positions = source.uniform(SIZE // 2 + 1, 48 - SIZE // 2 - 2, (11, 2)).astype(np.float32)
    probe = source.normal(size=(1, SIZE, SIZE, 2)).astype(np.float32)
    good = source.uniform(size=(SIZE, SIZE)) > 0.05
    found = run_elsewhere(
        path,
        tmp_path,
        frames=frames,
        positions=positions,
        probe=probe,
        good_pixels=good,
        noise=np.float32(0.2),
    )
    whole = np.floor(positions + 0.5)
    given = RegionFrames(
        torch.from_numpy(frames),
        torch.from_numpy(whole[:, ::-1].astype(np.int64) - SIZE // 2),
        torch.from_numpy(positions - whole),
        torch.view_as_complex(torch.from_numpy(probe))[None],
        (48, 48),
        torch.zeros(11, dtype=torch.int64),
        torch.from_numpy(good),
        torch.tensor([0.2]),
        (torch.arange(0, 11, 2), torch.arange(1, 11, 2)),
    )
    solver: RegionSolver = load_solver(path.with_name("wts.h5.zip"))
    with torch.inference_mode():
        wanted = solver(given, iterations=1)
    obj = wanted.objects[-1][0].numpy()
    assert (
        np.abs(found["object"][..., 0] + 1j * found["object"][..., 1] - obj).max() < 2e-5 * np.abs(obj).max()
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"unrolled_form": "group", "gridsize": 2},
        {"architecture": "cnn", "gridsize": 1, "N": 64, "n_filters_scale": 1},
        {"architecture": "cnn", "gridsize": 2, "N": 64, "n_filters_scale": 1},
    ],
    ids=str,
)
def test_groups(fields: dict[str, Any], tmp_path: Path) -> None:
    """Models of groups, with the probe of the bundle where none is given, and any number of groups."""
    from ptycho_torch.bundle.load import load_torch_bundle

    bundle = bundle_of(tmp_path, "wts.h5", **fields)
    about = export_onnx(tmp_path / "groups.onnx", bundle, frames=24)
    assert about["form"] == "groups"
    members = fields["gridsize"] ** 2
    source = np.random.default_rng(1)
    size = fields.get("N", SIZE)
    frames = source.uniform(0, 9, (5, members, size, size)).astype(np.float32)
    offsets = source.uniform(-2, 2, (5, members, 1, 2)).astype(np.float32) * (members > 1)
    offsets -= offsets.mean(1, keepdims=True)
    found = run_elsewhere(tmp_path / "groups.onnx", tmp_path, frames=frames, offsets=offsets)["object"]
    model, _ = load_torch_bundle(bundle)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(frames), torch.from_numpy(offsets)).numpy()
    assert np.abs(found[..., 0] + 1j * found[..., 1] - wanted).max() < 2e-5 * np.abs(wanted).max()


def test_what_differs_is_not_written(
    exported: tuple[Path, dict[str, Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxfile, "_captured", lambda form: exported[2])
    monkeypatch.setattr(onnxfile, "TOLERANCE", 0.0)
    replayed = onnxfile._replayed
    monkeypatch.setattr(
        onnxfile,
        "_replayed",
        lambda *a: {k: v if v.dtype.kind == "U" else v * 1.001 for k, v in replayed(*a).items()},
    )
    with pytest.raises(TrainingError, match="nothing was written"):
        export_onnx(tmp_path / "new.onnx", exported[0].with_name("wts.h5.zip"), SMALL, frames=8)
    assert not (tmp_path / "new.onnx").exists()


def test_where_rounding_decides_the_certificate_says_so(
    exported: tuple[Path, dict[str, Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tolerance at all, so that what counts is whether the file is as exact as torch."""
    monkeypatch.setattr(onnxfile, "_captured", lambda form: exported[2])
    monkeypatch.setattr(onnxfile, "TOLERANCE", 0.0)
    about = export_onnx(tmp_path / "new.onnx", exported[0].with_name("wts.h5.zip"), SMALL, frames=8)
    certificate = about["certificate"]
    assert certificate["within_tolerance"] is False
    assert 0 < certificate["rounding"]["onnx"] < 1e-4
    assert exported[1]["certificate"]["within_tolerance"] is True
    assert exported[1]["certificate"]["rounding"] is None


def test_an_operator_without_a_rule_is_named(
    exported: tuple[Path, dict[str, Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxfile, "_captured", lambda form: exported[2])
    monkeypatch.delitem(RULES, "aten.gelu.default")
    with pytest.raises(ConfigError, match=r"aten\.gelu\.default"):
        export_onnx(tmp_path / "x.onnx", exported[0].with_name("wts.h5.zip"), SMALL)


def test_the_bundle_is_never_written_over(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, "wts.h5", unrolled_form="region")
    with pytest.raises((OutputError, ConfigError)):
        export_onnx(bundle, bundle, SMALL)


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DependencyError, match=r"ptychopinn\[onnx\]"):
        export_onnx(tmp_path / "x.onnx")


def test_a_program_of_torch_gives_the_same(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, "wts.h5", unrolled_form="group", gridsize=1)
    about = export_program(tmp_path / "groups.pt2", bundle)
    extra = {"ptychopinn.json": ""}
    program = torch.export.load(tmp_path / "groups.pt2", extra_files=extra)
    assert json.loads(extra["ptychopinn.json"]) == about
    from ptycho_torch.bundle.load import load_torch_bundle

    model, _ = load_torch_bundle(bundle)
    frames, offsets = torch.rand(3, 1, SIZE, SIZE), torch.zeros(3, 1, 1, 2)
    probe = torch.view_as_real(model.core.probe.detach())
    with torch.no_grad():
        torch.testing.assert_close(
            torch.view_as_complex(program.module()(frames, offsets, probe)), model(frames, offsets)
        )
