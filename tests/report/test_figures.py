from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from ptycho_torch.errors import OutputError
from ptycho_torch.evaluation.reference import as_reference
from ptycho_torch.report.figures import (
    beside_figure,
    comparison_figure,
    figure_png,
    reconstruction_figure,
    save_figure,
    scan_figure,
    training_figure,
    uncertainty_figure,
)
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan


def reconstruction(phase: float = 0.4, height: int = 60, width: int = 50) -> Reconstruction:
    y, x = np.indices((height, width))
    weight = np.exp(-((x - width / 2) ** 2 + (y - height / 2) ** 2) / 150).astype(np.float32)
    values = (1 + 0.2 * np.sin(x / 4)) * np.exp(1j * phase * np.cos(y / 5)) * (weight > 0.01)
    return Reconstruction(
        values.astype(np.complex64),
        weight,
        np.array([-7.0, 20.0]),
        np.zeros((3, 2)),
        np.ones((1, 16, 16), complex),
    )


def scan(probe: bool = True) -> Scan:
    rng = np.random.default_rng(0)
    good = np.ones((16, 16), bool)
    good[3] = False
    return Scan(
        np.sqrt(rng.poisson(3, (80, 16, 16))).astype(np.float32),
        rng.random((80, 2)) * 30,
        np.ones((2, 16, 16), np.complex64) if probe else None,
        good_pixels=good,
        counts_known=True,
    )


def test_error_bars_are_drawn_where_they_are_known() -> None:
    rec = reconstruction()
    known = rec.measured()
    bars = np.where(known, 0.1, np.nan)
    bars[30, 25] = 0.4
    figure = uncertainty_figure(replace(rec, sigma_amplitude=bars, sigma_phase=bars))
    images = [axes.get_images()[0] for axes in figure.axes if axes.get_images()]
    assert [float(np.ma.max(image.get_array())) for image in images] == pytest.approx([0.4, 0.4])
    assert all(np.ma.count(image.get_array()) == known.sum() for image in images)
    assert pixels(figure).std() > 0.05


HISTORY = [{"epoch": i, "seconds": 2.0 * i, "loss": 3 / i, "val_loss": 4 / i} for i in range(1, 8)]


def pixels(figure: Figure) -> np.ndarray:
    png = figure_png(figure, dpi=50)
    assert png.startswith(b"\x89PNG")
    return np.asarray(imread(io.BytesIO(png)))


@pytest.mark.parametrize("phase", [0.0, 0.4, 3.0])
def test_reconstruction(phase: float) -> None:
    rec = reconstruction(phase)
    figure = reconstruction_figure(rec)
    amplitude, angle = figure.axes[:2]
    assert [a.get_title() for a in (amplitude, angle)] == ["Amplitude", "Phase"]
    assert len(figure.axes) == 4  # two colour bars
    shown = amplitude.images[0].get_array()
    assert np.ma.is_masked(shown)
    left, right, bottom, top = amplitude.images[0].get_extent()
    mask = rec.measured()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert (left, right) == (-7 + columns[0] - 0.5, -7 + columns[-1] + 0.5)
    assert (top, bottom) == (20 + rows[0] - 0.5, 20 + rows[-1] + 0.5)
    assert amplitude.get_xlabel() == "x (pixels)"
    assert any("px" in t.get_text() for t in amplitude.texts)
    assert angle.images[0].get_cmap().name == ("twilight" if phase == 3 else "cividis")
    assert pixels(figure).std() > 0.1


def test_nothing_measured_is_no_crash() -> None:
    rec = reconstruction()
    rec.weight[:] = 0
    rec.object[:] = 0
    pixels(reconstruction_figure(rec))


@pytest.mark.parametrize(
    "history", [HISTORY, HISTORY[:1], [], [{**row, "loss": -row["loss"]} for row in HISTORY]]
)
def test_training(history: list[dict[str, float]]) -> None:
    figure = training_figure(history)
    epoch, time = figure.axes
    assert (epoch.get_xlabel(), time.get_xlabel()) == ("epoch", "time (s)")
    assert len(epoch.lines) == (2 if history else 0)
    assert epoch.get_yscale() == ("log" if history is HISTORY else "linear")
    pixels(figure)


def test_training_without_validation_in_every_row() -> None:
    rows = [{k: v for k, v in row.items() if k != "val_loss" or row["epoch"] % 2 == 0} for row in HISTORY]
    assert [len(line.get_xdata()) for line in training_figure(rows).axes[0].lines] == [7, 3]


@pytest.mark.parametrize("probe", [True, False])
def test_scan(probe: bool) -> None:
    figure = scan_figure(scan(probe))
    assert figure.axes[0].get_title() == "80 positions"
    assert figure.axes[0].yaxis_inverted()
    assert figure.axes[1].get_title() == "Mean of 64 frames"
    assert figure.axes[2].get_title() == ("Probe amplitude, mode 1 of 2" if probe else "")
    pixels(figure)


def test_comparison() -> None:
    rec = reconstruction()
    truth = np.ones((90, 60), np.complex64)
    truth[20:80, :43] = rec.object[:, 7:]
    figure = comparison_figure(rec, truth)
    assert len(figure.axes) == 12
    assert figure.axes[2].get_title() == "Difference, amplitude"
    assert np.abs(figure.axes[2].images[0].get_array()).max() < 1e-5
    pixels(figure)


def test_images_stand_beside_their_truth_on_one_scale() -> None:
    rec = reconstruction()
    twice = dataclasses.replace(rec, object=2j * rec.object)
    figure = beside_figure({"ours": twice, "theirs": rec}, as_reference(rec), "three ways")
    shown = [axes for axes in figure.axes if axes.images and axes.get_xlabel()]
    assert [axes.get_title() for axes in shown] == ["truth", "ours", "theirs", "", "", ""]
    for row in (shown[:3], shown[3:]):
        assert len({axes.images[0].get_clim() for axes in row}) == 1
        first = row[0].images[0].get_array()
        for axes in row[1:]:  # a factor and a phase are free, and taken off
            assert np.abs(axes.images[0].get_array() - first).max() < 1e-4
    pixels(figure)


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert figure_png(training_figure(HISTORY)) == figure_png(training_figure(HISTORY))


def test_saving(tmp_path: Path) -> None:
    save_figure(training_figure(HISTORY), tmp_path / "t.png", dpi=40)
    assert [p.name for p in tmp_path.iterdir()] == ["t.png"]
    with pytest.raises(OutputError):
        save_figure(training_figure(HISTORY), tmp_path / "none" / "t.png")


def test_no_global_state() -> None:
    code = "import sys, ptycho_torch.report.figures\nassert 'matplotlib.pyplot' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$\\frac{$", "$\\frac{$"),
        ("名前.npz", "\\u540d\\u524d.npz"),
        ("caf\udce9", "caf\\udce9"),
        ("a\x1b[0m\n", "a\\x1b[0m"),
    ],
)
def test_file_names_as_titles(name: str, shown: str) -> None:
    figure = reconstruction_figure(reconstruction(), title=name)
    assert figure.get_suptitle() == shown
    pixels(figure)
