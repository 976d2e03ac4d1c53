"""The way that ptychodus goes: train, save, load elsewhere, predict, stitch, in the right place."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
from small import correlation, small_config, small_scan

import ptycho.loader
import ptycho.params
import ptycho.probe
import ptycho.workflows.components as components
from ptycho.raw_data import RawData
from ptycho_torch.bundle.verify import verify_bundle
from ptycho_torch.compat import jobs, parameters
from ptycho_torch.config import TrainingConfig
from ptycho_torch.errors import DataError, OutputError
from ptycho_torch.reconstruction.predict import reconstruct
from ptycho_torch.scan.product import HALF_PIXEL

SCAN = small_scan(step=4.0)


@pytest.fixture(autouse=True)
def own_cfg() -> None:
    before = dict(parameters.cfg)
    parameters.cfg.clear()
    yield
    parameters.cfg.clear()
    parameters.cfg.update(before)


def raw() -> RawData:
    x, y = SCAN.positions.T - HALF_PIXEL  # as ptychodus counts
    return RawData.from_coords_without_pc(
        x, y, SCAN.frames, SCAN.probe[0],
        np.zeros(SCAN.n_frames, int), SCAN.object_guess,
    )  # fmt: skip


def trained(tmp_path: Path, gridsize: int) -> None:
    config = small_config(gridsize=gridsize, nepochs=4, learning_rate=3e-3)
    amplitude, phase, results = components.run_cdi_example(raw(), raw(), config)
    assert amplitude.shape == phase.shape == results["reconstruction"].object.shape
    assert len(results["history"]["loss"]) == 4
    ptycho.model_manager.save(tmp_path / "out")
    components.save_outputs(amplitude, phase, results, str(tmp_path / "out"))


@pytest.mark.parametrize("gridsize", [1, 2])
def test_the_whole_way(tmp_path: Path, gridsize: int) -> None:
    trained(tmp_path, gridsize)
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {
        "wts.h5.zip", "reconstructed_amplitude.png", "reconstructed_phase.png",
    }  # fmt: skip
    scale = ptycho.params.get("intensity_scale")
    parameters.cfg.clear()

    model, params = components.load_inference_bundle(out)
    assert ptycho.params.get("intensity_scale") == pytest.approx(scale) == params["intensity_scale"]
    data = raw().generate_grouped_data(32, K=7, nsamples=1, gridsize=gridsize)
    container = ptycho.loader.load(lambda: data, SCAN.probe, which=None, create_split=False)
    patches = model.predict([container.X * scale, container.local_offsets])
    assert patches.shape == (SCAN.n_frames, 32, 32, 1)
    assert patches.dtype == np.complex64
    image = np.squeeze(ptycho.tf_helper.reassemble_position(patches, container.global_offsets, M=20))
    # On the object guess's own canvas, pixel on pixel, and the image that `reconstruct` makes.
    assert image.shape == SCAN.object_guess.shape
    inner = (slice(16, -16), slice(16, -16))
    rec = reconstruct(model.module, SCAN)
    left, top = (int(v) for v in rec.origin_xy)
    direct = np.zeros_like(image)
    direct[top : top + rec.object.shape[0], left : left + rec.object.shape[1]] = rec.object
    assert correlation(image[inner], direct[inner]) > (0.9999 if gridsize == 1 else 0.99)
    here = correlation(image[inner], SCAN.object_guess[inner])
    assert here > 0.9
    for axis in (0, 1):
        for step in (-1, 1):
            assert correlation(np.roll(image, step, axis)[inner], SCAN.object_guess[inner]) < here


def test_every_form_of_a_bundle_is_taken(tmp_path: Path) -> None:
    trained(tmp_path, 1)
    out = tmp_path / "out"
    with zipfile.ZipFile(out / "wts.h5.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    seen = []
    for form in (out, out / "wts.h5.zip", tmp_path / "unpacked"):
        model, _ = components.load_inference_bundle(form)
        seen.append(model.predict([np.ones((2, 32, 32, 1), np.float32), np.zeros((2, 1, 2, 1))]))
    assert all(np.array_equal(seen[0], other) for other in seen[1:])
    # What was loaded can be saved again.
    ptycho.model_manager.save(tmp_path / "again")
    model, _ = components.load_inference_bundle(tmp_path / "again")
    again = model.predict([np.ones((2, 32, 32, 1), np.float32), np.zeros((2, 1, 2, 1))])
    assert np.array_equal(seen[0], again)


def test_nothing_to_save(tmp_path: Path) -> None:
    jobs._last.clear()
    with pytest.raises(OutputError, match="no model"):
        ptycho.model_manager.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_test_scan_there_is_no_picture(tmp_path: Path) -> None:
    amplitude, phase, results = components.run_cdi_example(raw(), None, small_config())
    assert amplitude is None
    assert phase is None
    components.save_outputs(amplitude, phase, results, tmp_path)
    assert not list(tmp_path.glob("*.png"))


def on_guess(patches: np.ndarray, places: np.ndarray) -> float:
    """Correlation of what patches give with the truth, where both lie."""
    inner = (slice(16, -16), slice(16, -16))
    image = np.squeeze(ptycho.tf_helper.reassemble_position(patches, places))
    return correlation(image[inner], SCAN.object_guess[inner])


@pytest.mark.parametrize("gridsize", [1, 2])
def test_no_model_is_the_shipped_one_and_solves_all_frames_together(gridsize: int) -> None:
    """It is for frames of any size, and begins with the probe that the script sets."""
    model, params = components.load_inference_bundle(None)
    assert params["N"] != SCAN.N
    data = raw().generate_grouped_data(32, K=7, nsamples=1, gridsize=gridsize)
    container = ptycho.loader.load(lambda: data, SCAN.probe, which=None, create_split=False)
    inputs = [container.X * params["intensity_scale"], container.local_offsets]
    with pytest.raises(DataError, match="set_probe_guess"):
        model.predict(inputs)
    ptycho.probe.set_probe_guess(None, SCAN.probe[0])
    patches = model.predict(inputs)
    assert patches.shape == (SCAN.n_frames, 32, 32, 1)
    alone = np.array(patches)  # plain, as a script may keep them
    together = on_guess(patches, container.global_offsets)
    assert together > 0.99
    assert together > on_guess(alone, container.global_offsets)
    # Patches that a script has changed, or some of them only, are what it gets.
    changed = (
        on_guess(patches * 1, container.global_offsets),
        on_guess(2j * patches, container.global_offsets),
    )
    assert changed[0] == pytest.approx(together, abs=1e-6)
    assert changed[1] < together
    assert on_guess(patches[:30], container.global_offsets[:30]) < together


def test_training_without_a_word_adapts_the_shipped_model(tmp_path: Path) -> None:
    config = TrainingConfig(max_minutes=None, max_steps=1, probe_sweeps=2, output_dir=tmp_path)
    config.model.N = 32
    amplitude, _, results = components.run_cdi_example(raw(), raw(), config)
    assert results["trained"].config.init == "shipped"
    assert results["trained"].config.model.unrolled_form == "settling"
    assert amplitude.shape == results["reconstruction"].object.shape
    ptycho.model_manager.save(tmp_path / "out")
    assert verify_bundle(tmp_path / "out").exit_status == 0


def test_plain_arrays_are_stitched_by_their_middle() -> None:
    obj = SCAN.object_guess
    rows = [np.round(p).astype(int) - 16 for p in SCAN.positions]
    patches = np.stack([obj[y : y + 32, x : x + 32] for x, y in rows])[..., None]
    places = np.round(SCAN.positions)[:, None, :, None]
    image = ptycho.tf_helper.reassemble_position(patches, places, M=20)[..., 0]
    known = image != 0
    y, x = (int(v.min()) for v in np.nonzero(known))
    part = image[y : y + 20, x : x + 20]
    left, top = (places[:, 0, :, 0].min(0) - 10).astype(int)
    assert np.allclose(part, obj[top : top + 20, left : left + 20], atol=1e-5)
    with pytest.raises(DataError, match="offsets"):
        ptycho.tf_helper.reassemble_position(patches, places[1:])


def test_the_tensorflow_backend_says_what_to_install() -> None:
    with pytest.raises(ValueError, match="TensorFlow program"):
        components.run_cdi_example(raw(), None, dataclasses.replace(small_config(), backend="tensorflow"))
