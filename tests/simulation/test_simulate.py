from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from ptycho_torch.errors import DataError
from ptycho_torch.scan import check_content, open_scan, write_scan
from ptycho_torch.simulation import (
    crop_patches,
    diffract,
    make_object,
    make_positions,
    make_probe,
    simulate_scan,
)
from strategies import seeds

quick = settings(max_examples=25, deadline=None)


def noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


@quick
@given(seeds, st.sampled_from([4, 5, 8, 16]), st.integers(1, 3))
def test_power_is_conserved_and_dc_is_centred(seed: int, size: int, modes: int) -> None:
    rng = np.random.default_rng(seed)
    patches, probe = noise(rng, 3, size, size), noise(rng, modes, size, size)
    intensity = diffract(patches, probe)
    exit_power = sum((np.abs(p * patches) ** 2).sum(axis=(1, 2)) for p in probe)
    np.testing.assert_allclose(intensity.sum(axis=(1, 2)), exit_power, rtol=1e-12)
    flat = diffract(np.ones((1, size, size)), np.ones((1, size, size)))
    assert np.unravel_index(flat[0].argmax(), flat[0].shape) == (size // 2, size // 2)


@quick
@given(seeds, st.floats(-3, 3), st.floats(-3, 3))
def test_the_field_is_that_of_the_direct_sum(seed: int, re: float, im: float) -> None:
    rng = np.random.default_rng(seed)
    size = 6
    patch, probe = noise(rng, size, size), noise(rng, 1, size, size)
    k = np.arange(size) - size // 2
    kernel = np.exp(-2j * np.pi * np.outer(k, np.arange(size)) / size) / np.sqrt(size)
    field = kernel @ (probe[0] * patch) @ kernel.T
    np.testing.assert_allclose(diffract(patch[None], probe)[0], np.abs(field) ** 2, atol=1e-10)
    factor = re + 1j * im
    np.testing.assert_allclose(
        diffract(factor * patch[None], probe)[0], abs(factor) ** 2 * np.abs(field) ** 2, atol=1e-10
    )


@quick
@given(seeds, st.integers(4, 9))
def test_cropping_is_linear_and_exact_at_whole_pixels(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = noise(rng, 20, 24), noise(rng, 20, 24)
    where = rng.uniform(0, 1, (5, 2)) * [24 - size, 20 - size] + size // 2
    both = crop_patches(2 * a - 1j * b, where, size)
    np.testing.assert_allclose(
        both, 2 * crop_patches(a, where, size) - 1j * crop_patches(b, where, size), atol=1e-12
    )
    x, y = rng.integers(0, 24 - size + 1), rng.integers(0, 20 - size + 1)
    whole = crop_patches(a, np.array([[x + size // 2, y + size // 2]]), size)[0]
    np.testing.assert_array_equal(whole, a[y : y + size, x : x + size])


@quick
@given(seeds)
def test_cropping_is_exact_for_quadratics_and_near_a_spline_for_smooth_objects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = 8
    where = rng.uniform(8, 22, (6, 2))
    i = np.arange(size) - size // 2
    y, x = where[:, 1, None, None] + i[:, None], where[:, 0, None, None] + i[None, :]
    rows, columns = np.indices((32, 32)).astype(float)
    c = rng.normal(size=6)

    def quadratic(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return c[0] + c[1] * u + c[2] * v + c[3] * u * u + c[4] * u * v + c[5] * v * v

    np.testing.assert_allclose(
        crop_patches(quadratic(rows, columns), where, size), quadratic(y, x), rtol=1e-9, atol=1e-9
    )
    smooth = np.sin(rows / 4) * np.cos(columns / 5)
    spline = map_coordinates(smooth, np.stack(np.broadcast_arrays(y, x)), order=5)
    np.testing.assert_allclose(crop_patches(smooth, where, size).real, spline, atol=2e-3)


@quick
@given(seeds, st.floats(1, 7), st.integers(1, 2))
def test_photons_are_those_asked_for(seed: int, exponent: float, modes: int) -> None:
    rng = np.random.default_rng(seed)
    obj, probe = make_object("grf", 32, seed), noise(rng, modes, 16, 16)
    places = make_positions("random", obj.shape, 16, count=40, seed=seed)
    photons = 10**exponent
    expected = simulate_scan(obj, probe, places, photons=photons, noise=False)
    mean = (expected.frames.astype(float) ** 2).sum(axis=(1, 2)).mean()
    np.testing.assert_allclose(mean, photons, rtol=1e-5)
    counted = simulate_scan(obj, probe, places, photons=photons, seed=seed)
    counts = counted.frames.astype(float) ** 2
    np.testing.assert_allclose(counts, np.rint(counts), rtol=1e-6, atol=1e-4)
    assert abs(counts.sum() - photons * 40) < 6 * np.sqrt(photons * 40)
    assert counted.counts_known
    assert not expected.counts_known


def test_noise_is_poisson() -> None:
    obj, probe = np.ones((16, 16)), make_probe("zoneplate", 16)
    places = np.full((4000, 2), 8.0)
    rate = simulate_scan(obj, probe, places[:1], photons=2e4, noise=False).frames[0].astype(float) ** 2
    counts = simulate_scan(obj, probe, places, photons=2e4, seed=3).frames.astype(float) ** 2
    error = np.sqrt(rate / 4000)
    assert (np.abs(counts.mean(axis=0) - rate) < 6 * error + 1e-6).all()
    bright = rate > 5
    ratio = counts.var(axis=0)[bright] / rate[bright]
    assert np.abs(ratio - 1).max() < 0.2


def test_truth_and_probe_of_the_scan_predict_its_frames() -> None:
    obj = make_object("siemens", 64)
    places = make_positions("spiral", obj.shape, 32, count=30, jitter=0.7, seed=1)
    scan = simulate_scan(obj, 17 * make_probe("zoneplate", 32), places, photons=1e5, noise=False)
    check_content(scan)
    assert scan.probe is not None
    assert scan.object_guess is not None
    again = np.sqrt(diffract(crop_patches(scan.object_guess, scan.positions, 32), scan.probe))
    np.testing.assert_allclose(scan.frames, again, atol=1e-3)


def test_seeds_reproduce_and_differ() -> None:
    obj, probe = make_object("grf", 48), make_probe("disk", 16)
    places = make_positions("grid", obj.shape, 16, step=4)
    one, same, other = (
        simulate_scan(obj, probe, places, photons=1e4, seed=seed).frames for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_simulated_scan_survives_its_file(tmp_path: object) -> None:
    obj = make_object("lines", 48)
    places = make_positions("grid", obj.shape, 16, step=8)
    scan = simulate_scan(obj, make_probe("disk", 16), places, photons=1e5)
    write_scan(scan, f"{tmp_path}/scan.npz")
    back = open_scan(f"{tmp_path}/scan.npz")
    np.testing.assert_array_equal(back.frames, scan.frames)
    np.testing.assert_array_equal(back.object_guess, scan.object_guess)
    assert back.counts_known


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"photons": 0}, "photons: expected"),
        ({"photons": np.nan}, "photons: expected"),
        ({"photons": 1e16}, "photons: expected"),
        ({"probe": np.ones((8, 6))}, "probe: expected shape"),
        ({"probe": np.zeros((8, 8))}, "finite power"),
        ({"obj": np.ones((1, 16, 16))}, "object: expected finite values of shape"),
        ({"obj": np.full((16, 16), np.nan)}, "object: expected finite"),
        ({"obj": np.ones((6, 16))}, "positions: expected x in"),
        ({"positions": np.ones(2)}, "positions: expected shape"),
        ({"positions": np.array([[8.0, 8.0], [8.0, 12.1]])}, r"y in \[4, 12\].*found \[ 8.  12.1\] at 1"),
        ({"positions": np.array([[np.nan, 8.0]])}, "positions: expected x in"),
    ],
)
def test_what_cannot_be_simulated_is_refused(changes: dict[str, object], says: str) -> None:
    given_ = {
        "obj": np.ones((16, 16)),
        "probe": np.ones((8, 8)),
        "positions": np.array([[8.0, 8.0]]),
        **changes,
    }
    with pytest.raises(DataError, match=says) as caught:
        simulate_scan(**given_)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_scan_and_simulation_import_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['lightning'] = None\n"
        "from ptycho_torch.simulation import *\n"
        "o = make_object('lines', 48); x = make_positions('grid', o.shape, 16, step=8)\n"
        "print(simulate_scan(o, make_probe('zoneplate', 16), x).n_frames)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "25", done.stderr
