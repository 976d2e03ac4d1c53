"""What is open in ptychography is found, reported and taken off, and no score depends on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gauged_images import Complex, N, moved, ramp, smooth
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation import evaluate
from ptycho_torch.evaluation.alignment import align
from ptycho_torch.evaluation.reference import Reference
from ptycho_torch.simulation import make_object

EDGE = 240


def imperfect(
    kind: str, shape: tuple[int, int] = (EDGE, EDGE)
) -> tuple[Complex, NDArray[np.float32], Complex]:
    """A blurred and noisy image that fades into an empty border, as stitched ones do; weight; truth."""
    truth = make_object(kind, EDGE, 1).astype(complex)
    y, x = np.indices(shape)
    depth = np.minimum(np.minimum(x, shape[1] - 1 - x), np.minimum(y, shape[0] - 1 - y)) - 12
    weight = np.clip(depth / 16, 0, 1) ** 2
    rng = np.random.default_rng(3)
    noise = 0.03 * (rng.normal(size=truth.shape) + 1j * rng.normal(size=truth.shape))
    image = sum(
        unit * ndimage.gaussian_filter(part, 0.7)
        for unit, part in ((1, (truth + noise).real), (1j, (truth + noise).imag))
    )
    return np.where(weight > 1e-3, image[: shape[0], : shape[1]], 0), weight.astype(np.float32), truth


def numbers(scores: dict[str, Any]) -> dict[str, float]:
    found = {"complex_correlation": scores["complex_correlation"]}
    for part in ("amplitude", "phase", "complex"):
        for key, value in scores[part].items():
            flat = (
                {key: value} if not isinstance(value, dict) else {f"{key} {k}": v for k, v in value.items()}
            )
            found |= {f"{part} {k}": v for k, v in flat.items()}
    return found


TRANSFORMS = [
    ((0.25, -3.4), (0.0, 0.0), 1.0),
    ((0.0, 0.0), (0.0, 0.0), 0.3 * np.exp(2j)),
    ((0.0, 0.0), (0.37, -0.61), 1.0),
    ((2.5, 1.25), (0.5, 0.5), 7 * np.exp(-3j)),
]


@pytest.mark.parametrize("kind", ["siemens", "grf"])
def test_no_score_depends_on_the_gauge(kind: str) -> None:
    image, weight, truth = imperfect(kind)
    reference = Reference(truth.astype(np.complex64), np.ones(truth.shape, np.float32))

    def scored(values: Complex) -> dict[str, Any]:
        return evaluate(Reference(values.astype(np.complex64), weight, frame_size=N), reference)

    before = scored(image)
    start, known = before["alignment"], numbers(before)
    assert known["amplitude ms_ssim"] is not None
    for (kx, ky), (x, y), factor in TRANSFORMS:
        after = scored(moved(image, x, y) * ramp(image.shape, kx, ky) * factor)
        now, found = after["alignment"], numbers(after)
        assert found.keys() == known.keys()
        for key, value in known.items():
            scale = EDGE if key.endswith(("ring", "pixels")) else 1
            assert found[key] == pytest.approx(value, abs=1e-3 * scale), (key, kx, ky, x, y)
        change = np.subtract(now["ramp_detector_px"], start["ramp_detector_px"])
        assert change == pytest.approx((-kx, -ky), abs=1e-3)
        assert np.subtract(now["shift_xy"], start["shift_xy"]) == pytest.approx((-x, -y), abs=2e-3)
        assert now["amplitude_scale"] * abs(factor) == pytest.approx(start["amplitude_scale"], rel=1e-3)
        assert after["region"] == before["region"]


def laid(
    values: Complex, weight: NDArray[np.float32], border: int, x: float, y: float
) -> tuple[Complex, Any]:
    """Object and weights on a larger canvas, both moved."""
    wide = [np.pad(v, border) for v in (values, weight)]
    there = [moved(v, x, y) if x % 1 or y % 1 else np.roll(v, (int(y), int(x)), (0, 1)) for v in wide]
    return there[0], np.where(np.abs(there[1]) < 1e-3, 0, there[1].real).astype(np.float32)


@pytest.mark.parametrize(("x", "y"), [(2.0, -1.0), (3.45, 2.2), (-31.3, 8.6)])
@pytest.mark.parametrize("how", ["origin", "array with its weights", "array alone"])
def test_no_score_depends_on_where_it_lies(x: float, y: float, how: str) -> None:
    image, weight, truth = imperfect("siemens", (190, 171))
    reference = Reference(truth.astype(np.complex64), np.ones(truth.shape, np.float32))
    known = numbers(evaluate(Reference(image.astype(np.complex64), weight), reference))
    turn = ramp((190 + 80, 171 + 80), 0.3, -0.1) * 1e-3
    if how == "origin":
        x, y = round(x), round(y)
        other = Reference((image * turn[:190, :171]).astype(np.complex64), weight, (x, y))
    elif how == "array alone":
        wide, still = laid(image, weight, 40, x, y)[0], np.pad(weight, 40)
        other = Reference((wide * turn).astype(np.complex64), still, (-40, -40))
    else:
        wide, along = laid(image, weight, 40, x, y)
        other = Reference((wide * turn).astype(np.complex64), along, (-40, -40))
    after = evaluate(other, reference)
    assert after["alignment"]["shift_xy"] == pytest.approx((-x, -y), abs=5e-3)
    assert after["alignment"]["amplitude_scale"] == pytest.approx(1e3, rel=0.02)
    found = numbers(after)
    for key, value in known.items():
        if value is not None:
            scale = {"psnr": 5, "ring": EDGE, "pixels": 50 * EDGE}.get(key.split()[-1], 1)
            assert found[key] == pytest.approx(value, abs=1e-3 * scale), key


def test_flips_and_conjugates_are_no_gauge() -> None:
    truth = smooth(64)
    ones = np.ones(truth.shape, np.float32)
    for other in (truth.conj(), truth[::-1, ::-1].conj(), truth[::-1], truth[:, ::-1], truth.T):
        scores = evaluate(Reference(other.astype(np.complex64), ones), truth)
        assert scores["phase"]["correlation"] < 0.5
        assert scores["complex"]["nrmse"] > 0.3


@settings(max_examples=15, deadline=None)
@given(
    st.floats(-4, 4),
    st.floats(-4, 4),
    st.floats(-4, 4),
    st.floats(-4, 4),
    st.floats(-3, 3),
    st.floats(0.1, 10),
)
def test_what_was_done_is_undone_and_reported(
    kx: float, ky: float, x: float, y: float, phase: float, scale: float
) -> None:
    truth = smooth(96)
    image = moved(truth, x, y) * ramp(truth.shape, kx, ky) * np.exp(-1j * phase) / scale
    ones = np.ones(truth.shape, np.float32)
    both = align(Reference(image.astype(np.complex64), ones), Reference(truth.astype(np.complex64), ones))
    record = both.alignment
    assert record.ramp_xy == pytest.approx((-2 * np.pi * kx / N, -2 * np.pi * ky / N), abs=1e-4)
    assert record.ramp_detector_px is None
    assert record.shift_xy == pytest.approx((-x, -y), abs=2e-3)
    assert record.amplitude_scale == pytest.approx(scale, rel=1e-3)
    # The phase is that at the middle, once the image is there.
    at = np.subtract(record.middle_xy, record.shift_xy)
    expected = phase - 2 * np.pi * (kx * at[0] + ky * at[1]) / N
    assert abs(np.angle(np.exp(1j * (record.phase - expected)))) < 1e-3
    # The image's edges meet no neighbours where the phase ramp does not close over the canvas.
    inner = both.region & (ndimage.distance_transform_edt(both.region) > 20)
    assert np.abs(both.image - both.reference)[inner].max() < 0.03


@pytest.mark.parametrize("gauge", ["ramp", "phase", "scale", "shift"])
def test_what_is_kept_counts(gauge: str) -> None:
    truth = smooth(96)
    changes = {
        # About the middle, for else it is a phase, too.
        "ramp": truth * ramp(truth.shape, 0.25, 0) * np.exp(-2j * np.pi * 0.25 * 47.5 / N),
        "phase": truth * np.exp(1j),
        "scale": truth * 1.5,
        "shift": np.roll(truth, 3, 1),
    }
    ones = np.ones(truth.shape, np.float32)
    image, reference = (
        Reference(changes[gauge].astype(np.complex64), ones),
        Reference(truth.astype(np.complex64), ones),
    )
    others = [g for g in changes if g != gauge]
    free, kept, only = (evaluate(image, reference, keep=keep) for keep in ([], [gauge], others))
    for scores in (free, only):
        assert scores["complex"]["nrmse"] < 1e-4
    assert kept["complex"]["nrmse"] > 0.3
    fields = {"phase": "phase", "scale": "amplitude_scale", "shift": "shift_xy", "ramp": "ramp_xy"}
    neutral = {"phase": 0.0, "scale": 1.0, "shift": (0.0, 0.0), "ramp": (0.0, 0.0)}
    assert kept["alignment"][fields[gauge]] == neutral[gauge]
    assert kept["alignment"]["kept"] == (gauge,)
    assert all(only["alignment"][fields[g]] == neutral[g] for g in others)


def test_a_small_ramp_that_is_kept_spoils_the_complex_correlation() -> None:
    truth = smooth(128)
    image = Reference(
        (truth * ramp(truth.shape, 0.25, 0)).astype(np.complex64), np.ones(truth.shape, np.float32)
    )
    assert evaluate(image, truth)["complex_correlation"] > 0.9999
    assert evaluate(image, truth, keep=["ramp"])["complex_correlation"] < 0.7


def test_a_shift_is_found_beside_a_ramp_that_is_kept() -> None:
    truth = smooth(96)
    image = moved(truth, 5.3, -2.6) * ramp(truth.shape, 1.0, 0.5)
    ones = np.ones(truth.shape, np.float32)
    record = align(
        Reference(image.astype(np.complex64), ones),
        Reference(truth.astype(np.complex64), ones),
        keep=["ramp"],
    ).alignment
    assert record.shift_xy == pytest.approx((-5.3, 2.6), abs=2e-3)
    assert record.ramp_xy == (0.0, 0.0)


def test_words_that_are_no_gauge() -> None:
    with pytest.raises(DataError, match="keep: expected some of ramp, phase, scale, shift, found tilt"):
        evaluate(
            Reference(smooth(32).astype(np.complex64), np.ones((32, 32), np.float32)),
            smooth(32),
            keep=["tilt"],
        )


def test_nothing_to_find_a_shift_by_leaves_it_alone() -> None:
    flat = np.ones((40, 40), np.complex64)
    record = align(*(Reference(v, np.ones((40, 40), np.float32)) for v in (flat * 2j, flat))).alignment
    assert np.abs(record.shift_xy).max() < 1e-6
    assert np.abs(record.ramp_xy).max() < 1e-6
    assert record.amplitude_scale == pytest.approx(0.5)
