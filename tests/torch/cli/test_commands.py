"""The commands as a user calls them: outputs, JSON, statuses, bad input."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import small_scan
from typer.testing import CliRunner

from ptycho_torch.cli.app import app
from ptycho_torch.config import read_yaml
from ptycho_torch.result import load_reconstruction
from ptycho_torch.scan import open_scan, write_scan

QUICK = [
    "--probe", "fixed", "--max-minutes", "none", "--nepochs", "2", "--n-groups", "8", "--unrolled-width", "8",
    "--unrolled-iterations", "1", "--unrolled-levels", "1", "--accelerator", "cpu",
]  # fmt: skip


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def process(*arguments: Any, **kw: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ptycho_torch.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, **kw)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan, a run on it, and a reconstruction."""
    folder = tmp_path_factory.mktemp("commands")
    write_scan(small_scan(), folder / "scan.npz")
    done = call("train", folder / "scan.npz", "-o", folder / "run", *QUICK, "--quiet")
    assert done.exit_code == 0, done.output
    done = call(
        "reconstruct", folder / "scan.npz", "--model", folder / "run", "-o", folder / "image", "--quiet"
    )
    assert done.exit_code == 0, done.output
    return folder


# ---------------------------------------------------------------- simulate


@pytest.mark.parametrize(
    ("obj", "probe", "scan"),
    [("lines", "disk", "grid"), ("siemens", "gaussian", "random"), ("grf", "zoneplate", "spiral")],
)
def test_simulating_every_kind(tmp_path: Path, obj: str, probe: str, scan: str) -> None:
    arguments = ["--object", obj, "--probe", probe, "--scan", scan, "--size", 80, "--N", 32, "--count", 20]
    more = ["--photons", 1e4, "--jitter", 0.5, "--seed", 7, "--json"]
    shown = [call("simulate", *arguments, *more, "-o", tmp_path / f"{i}.npz") for i in range(2)]
    assert [s.exit_code for s in shown] == [0, 0], shown[0].output
    about = json.loads(shown[0].stdout)
    assert (about["frames"], about["N"]) == (20, 32)
    a, b = (open_scan(tmp_path / f"{i}.npz") for i in range(2))
    np.testing.assert_array_equal(a.frames, b.frames)
    assert np.mean(np.sum(a.frames**2, axis=(1, 2))) == pytest.approx(1e4, rel=0.05)
    assert (tmp_path / "0.png").exists()


def test_simulating_from_files(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.random.default_rng(0).random((64, 64)) + 1j)
    write_scan(small_scan(), tmp_path / "probe.npz")
    done = call(
        "simulate", "--object", tmp_path / "object.npy", "--probe", tmp_path / "probe.npz", "--measurement", "counts",
        "-o", tmp_path / "made.npz", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    made = open_scan(tmp_path / "made.npz")
    assert made.counts_known
    assert made.source is not None
    assert made.source.measurement == "counts"


# ---------------------------------------------------------------- train


def test_json_is_one_object_and_quiet_is_silent(folder: Path, tmp_path: Path) -> None:
    done = process("train", folder / "scan.npz", "-o", tmp_path / "a", *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["epochs"] == 2
    assert Path(result["files"]["bundle"]).exists()
    assert done.stderr == ""
    done = process(
        "reconstruct", folder / "scan.npz", "--model", tmp_path / "a", "-o", tmp_path / "b", "--quiet"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_people_see_what_was_read_done_and_written(folder: Path, tmp_path: Path) -> None:
    done = process("train", folder / "scan.npz", "-o", tmp_path, *QUICK)
    assert "amplitude" in done.stderr
    assert "wts.h5.zip" in done.stdout
    assert "Trained" in done.stdout
    assert "lightning" not in (done.stderr + done.stdout).lower()


def test_flags_win_over_the_file_and_the_file_over_defaults(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "seed: 5\nbatch_size: 3\nmodel:\n  unrolled_width: 12\nexecution:\n  threads: 1\n"
    )
    done = call(
        "train", folder / "scan.npz", "-o", tmp_path / "run", *QUICK, "--config", tmp_path / "c.yaml", "--seed", 9,
        "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    used = read_yaml(tmp_path / "run" / "config.yaml")
    assert (used["seed"], used["batch_size"], used["execution"]["threads"]) == (9, 3, 1)
    assert used["model"]["unrolled_width"] == 8  # QUICK's flag wins over the file
    assert used["model"]["N"] == 32


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("learning_rat: 1\n", ("learning_rat", "'learning_rate'")),
        ("model:\n  gridsiz: 1\n", ("model.gridsiz", "'model.gridsize'")),
        ("execution:\n  thread: 1\n", ("thread", "'threads'")),
        ("seed: [1\n", ("YAML",)),
        ("batch_size: many\n", ("batch_size", "an integer", "many")),
    ],
)
def test_wrong_files_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, text: str, parts: tuple[str, ...]
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    done = call("train", folder / "scan.npz", "-o", tmp_path / "run", "--config", tmp_path / "c.yaml")
    assert done.exit_code == 2
    assert all(part in done.stderr for part in ("c.yaml", *parts)), done.stderr
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- reconstruct, evaluate


def test_the_reconstruction_file_is_what_it_says(folder: Path) -> None:
    with np.load(folder / "image" / "reconstruction.npz") as file:
        assert file["object"].dtype == np.complex64
        assert file["object"].ndim == 2
        assert (file["weight"].shape, file["weight"].dtype) == (file["object"].shape, np.float32)
        assert file["origin_xy"].shape == (2,)
        assert file["positions"].shape == (small_scan().n_frames, 2)
        assert file["probe"].shape == (1, 32, 32)
        # A frame's pixel [N/2, N/2] lies at its position: the frames' windows span the canvas.
        low = file["positions"].min(0) - 16
        assert np.abs(file["origin_xy"] - low).max() < 3
    for name in ("reconstruction.png", "metrics.json", "report.html"):
        assert (folder / "image" / name).stat().st_size > 200


def test_scores_and_the_alignment_are_reported(folder: Path, tmp_path: Path) -> None:
    done = call(
        "evaluate", folder / "image" / "reconstruction.npz", folder / "scan.npz", "--register", "--json", "-o", tmp_path
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    scores = json.loads(done.stdout)
    for part in ("amplitude", "phase"):
        assert {"ssim", "ms_ssim", "psnr", "correlation", "nrmse", "frc_half_bit", "frc_1_7"} <= set(
            scores[part]
        )
    assert {"ramp_xy", "shift_xy", "phase", "amplitude_scale"} <= set(scores["alignment"])
    assert scores["alignment"]["kept"] == []
    for name in ("comparison.png", "frc.png", "report.html", "metrics.json"):
        assert (tmp_path / name).stat().st_size > 200
        assert scores["files"][{"comparison.png": "figure"}.get(name, name.split(".")[0])] == str(
            tmp_path / name
        )
    perfect = call(
        "evaluate", folder / "image" / "reconstruction.npz", folder / "image" / "reconstruction.npz", "--json"
    )
    assert json.loads(perfect.stdout)["complex_correlation"] == pytest.approx(1.0)
    table = call(
        "evaluate", folder / "image" / "reconstruction.npz", folder / "scan.npz", "--keep", "phase, scale"
    )
    for words in ("complex correlation", "kept: scale", "applied: shift (px)"):
        assert words in table.stdout
    same = call("evaluate", *[folder / "image" / "reconstruction.npz"] * 2)
    assert "not crossed" in same.stdout
    assert "applied: phase (rad)" not in table.stdout
    wrong = call("evaluate", folder / "image" / "reconstruction.npz", folder / "scan.npz", "--keep", "tilt")
    assert wrong.exit_code == 2
    assert "keep: expected some of ramp, phase, scale, shift" in wrong.stderr


# ---------------------------------------------------------------- bundles


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


# ---------------------------------------------------------------- bad input


def _scan_arrays() -> dict[str, np.ndarray]:
    scan = small_scan()
    return {
        "diff3d": scan.frames, "xcoords": scan.positions[:, 0], "ycoords": scan.positions[:, 1],
        "probeGuess": scan.probe[0],
    }  # fmt: skip


def _set(key: str, index: Any, value: float) -> Any:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[key] = np.array(arrays[key])
        arrays[key][index] = value

    return change


BAD: dict[str, tuple[Any, tuple[str, ...]]] = {
    "missing frames": (lambda a: a.pop("diff3d"), ("diff3d",)),
    "missing x": (lambda a: a.pop("xcoords"), ("xcoords",)),
    "NaN": (_set("diff3d", (0, 3, 3), np.nan), ("diff3d", "finite", "found nan", "frame 0")),
    "infinite": (_set("diff3d", (0, 3, 3), np.inf), ("diff3d",)),
    "negative": (_set("diff3d", (0, 3, 3), -1.0), ("diff3d", "at least 0", "found -1.0", "frame 0")),
    "not square": (lambda a: a.update(diff3d=a["diff3d"][:, :, :-2]), ("diff3d", "30")),
    "lengths": (lambda a: a.update(xcoords=a["xcoords"][:-1]), ("xcoords",)),
    "probe size": (lambda a: a.update(probeGuess=a["probeGuess"][:-2, :-2]), ("probeGuess", "30")),
    "NaN positions": (_set("ycoords", 2, np.nan), ("ycoords",)),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["train", "reconstruct"])
def test_bad_scans_get_one_clear_line(folder: Path, tmp_path: Path, name: str, command: str) -> None:
    change, parts = BAD[name]
    arrays = _scan_arrays()
    change(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    _refused(folder, tmp_path, command, "bad.npz", *parts)


@pytest.mark.parametrize("command", ["train", "reconstruct"])
def test_files_that_are_no_scan(folder: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "bad.npz").write_bytes(b"this is not an NPZ")
    _refused(folder, tmp_path, command, "bad.npz")
    (tmp_path / "bad.npz").unlink()
    _refused(folder, tmp_path, command, "bad.npz")


def _refused(folder: Path, tmp_path: Path, command: str, *parts: str, extra: tuple[Any, ...] = ()) -> None:
    scan = tmp_path / "bad.npz"
    before = ["train", scan] if command == "train" else ["reconstruct", scan, "--model", folder / "run"]
    done = call(*before, "-o", tmp_path / "out", *extra, *(QUICK if command == "train" else []))
    assert done.exit_code == 2, done.output
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert all(part in line for part in parts), line
    written = [p.name for p in (tmp_path / "out").iterdir()] if (tmp_path / "out").exists() else []
    assert not {"wts.h5.zip", "metrics.json", "reconstruction.npz"} & set(written)


def test_too_few_frames_for_a_group(folder: Path, tmp_path: Path) -> None:
    write_scan(small_scan().select(slice(0, 3)), tmp_path / "bad.npz")
    _refused(folder, tmp_path, "train", "4", "3", extra=("--gridsize", 2))


def test_a_bundle_for_another_size(folder: Path, tmp_path: Path) -> None:
    write_scan(small_scan(16, edge=40), tmp_path / "bad.npz")
    _refused(folder, tmp_path, "reconstruct", "32x32", "16x16")


def test_a_bundle_that_is_none(folder: Path, tmp_path: Path) -> None:
    done = call("reconstruct", folder / "scan.npz", "--model", tmp_path / "no.zip", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "no.zip" in done.stderr


def test_outputs_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for before in (
        ["train", folder / "scan.npz", *QUICK],
        ["reconstruct", folder / "scan.npz", "--model", folder / "run"],
    ):
        done = call(*before, "-o", tmp_path / "file")
        assert done.exit_code == 2
        assert "file" in done.stderr
    assert (tmp_path / "file").read_text() == "in the way"
    if os.geteuid():  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        assert (
            call(
                "reconstruct", folder / "scan.npz", "--model", folder / "run", "-o", tmp_path / "locked"
            ).exit_code
            == 2
        )


def test_a_full_disk_leaves_earlier_outputs(folder: Path, tmp_path: Path) -> None:
    """A limit on file size stands for the full disk: writing the same bytes fails half-way."""
    (tmp_path / "reconstruction.npz").write_bytes(b"earlier")
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192));"
        "sys.argv = ['ptychopinn', *sys.argv[1:]]; from ptycho_torch.cli import main; main()"
    )
    arguments = ["reconstruct", folder / "scan.npz", "--model", folder / "run", "-o", tmp_path, "--quiet"]
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "mpl"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert (tmp_path / "reconstruction.npz").read_bytes() == b"earlier"
    assert not [p for p in tmp_path.iterdir() if p.is_file() and p.name != "reconstruction.npz"]


def test_errors_are_json_too(folder: Path, tmp_path: Path) -> None:
    done = process(
        "reconstruct", tmp_path / "no.npz", "--model", folder / "run", "-o", tmp_path / "out", "--json"
    )
    assert done.returncode == 2
    assert "no.npz" in json.loads(done.stdout)["error"]


# ---------------------------------------------------------------- the whole way


@pytest.mark.slow
def test_the_demo_works(tmp_path: Path) -> None:
    done = process("demo", "-o", tmp_path, "--steps", "10", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    images = result["images"]
    assert set(images) == {"iterative", "without training", "adapted"}
    assert all(image["scores"]["complex_correlation"] > 0.8 for image in images.values())
    assert (
        images["adapted"]["scores"]["complex_correlation"]
        > images["without training"]["scores"]["complex_correlation"] - 0.02
    )
    assert (tmp_path / "demo.png").exists()
    assert call("verify", tmp_path / "training").exit_code == 0
    with zipfile.ZipFile(tmp_path / "training" / "wts.h5.zip") as archive:
        assert "bundle.json" in archive.namelist()


@pytest.mark.slow
def test_the_real_star(shared: Path, tmp_path: Path) -> None:
    star = shared / "data" / "siemens_star_aps.npz"
    small = [
        "--probe-sweeps",
        "12",
        "--max-minutes",
        "none",
        "--max-steps",
        "4",
        "--n-groups",
        "16",
        "--batch-size",
        "2",
    ]
    done = process("train", star, "-o", tmp_path / "run", *small)
    assert done.returncode == 0, done.stderr
    assert "516 frames" in done.stderr
    done = process(
        "reconstruct", star, "--model", tmp_path / "run", "-o", tmp_path / "image", "--refine", "12", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["residual"] < 0.02
    rec = load_reconstruction(tmp_path / "image" / "reconstruction.npz")
    middle = rec.object[rec.measured(0.3)]
    assert np.isfinite(middle).all()
    # Gold on a membrane: two levels of phase, well apart.
    phase = np.angle(middle / middle.mean())
    assert np.percentile(phase, 95) - np.percentile(phase, 5) > 0.3


def test_products_are_written_where_metres_are_known(folder: Path, tmp_path: Path) -> None:
    from ptycho_torch.scan.product import read_product

    before = [
        "reconstruct",
        folder / "scan.npz",
        "--model",
        folder / "run",
        "-o",
        tmp_path / "out",
        "--product",
        "-q",
    ]
    done = call(*before)
    assert done.exit_code == 2
    assert "metres" in done.stderr
    assert not (tmp_path / "out").exists()
    assert call(*before, "--pixel-size", "1e-8").exit_code == 2
    done = call(*before, "--pixel-size", "1e-8", "--energy", 8000, "--distance", 2)
    assert done.exit_code == 0, done.output
    product = read_product(tmp_path / "out" / "product.h5")
    rec = load_reconstruction(tmp_path / "out" / "reconstruction.npz")
    assert np.allclose(product.positions_px, rec.positions - rec.origin_xy, atol=1e-6)
    assert np.array_equal(product.object[0], rec.object)


def test_positions_are_refined_on_demand(folder: Path, tmp_path: Path) -> None:
    before = ["reconstruct", folder / "scan.npz", "--model", folder / "run", "-o", tmp_path / "out", "--json"]
    done = call(*before, "--refine", 3, "--refine-positions", "--refine-minutes", 1)
    assert done.exit_code == 0, done.output
    metrics = json.loads(done.stdout)
    rec = load_reconstruction(tmp_path / "out" / "reconstruction.npz")
    scan = open_scan(folder / "scan.npz")
    moved = np.sqrt(np.mean(np.sum((rec.positions - scan.positions) ** 2, axis=1)))
    assert metrics["moved_rms_px"] == pytest.approx(moved)
    assert moved > 0
    assert metrics["residual"] < metrics["residual_before_refinement"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--refine-positions",), "--refine"),
        (("--refine-minutes", 1), "--refine"),
        (("--engine", "epie"), "--refine"),
        (("--engine", "magic", "--refine", 2), "expected one of"),
        (("--engine", "lsqml", "--refine", 2, "--refine-minutes", 1), "epochs"),
    ],
    ids=str,
)
def test_refinement_that_cannot_be_is_refused_first(
    folder: Path, tmp_path: Path, flags: tuple[object, ...], text: str
) -> None:
    done = call("reconstruct", folder / "scan.npz", "--model", folder / "run", "-o", tmp_path / "out", *flags)
    assert done.exit_code == 2
    assert text in done.stderr
    assert not (tmp_path / "out").exists()
