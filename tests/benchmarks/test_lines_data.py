from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lines_data


@pytest.fixture(scope="module")
def check(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "data" / "lines_check.npz", allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def single(shared: Path) -> lines_data.LinesCase:
    return lines_data.make_case(1, "experimental", shared)


@pytest.fixture(scope="module")
def grouped(shared: Path) -> lines_data.LinesCase:
    return lines_data.make_case(2, "ideal", shared)


def test_objects_probe_truth_and_norm_are_the_reference(
    check: dict[str, np.ndarray], single: lines_data.LinesCase
) -> None:
    np.testing.assert_allclose(lines_data.lines_objects(1), check["train_objects"], atol=1e-6)
    np.testing.assert_allclose(lines_data.lines_objects(2), check["test_objects"], atol=1e-6)
    np.testing.assert_allclose(single.probe[0], check["probe_experimental"], atol=2e-6)
    np.testing.assert_allclose(single.truth, check["test_ground_truth"], atol=1e-6)
    assert single.norm_test == pytest.approx(float(check["norm_test"]), rel=1e-9)


def test_frames_differ_from_the_reference_by_photon_noise_alone(
    check: dict[str, np.ndarray], single: lines_data.LinesCase
) -> None:
    ours = single.test.frames[:8].astype(float)
    theirs = check["test_frames_first8"] * single.intensity_scale
    bright = ours > 5
    # The square root of a Poisson count has a standard deviation of 1/2 whatever its mean.
    difference = (ours - theirs)[bright]
    assert difference.std() == pytest.approx(np.sqrt(0.5), rel=0.03)
    assert abs(difference.mean()) < 5 * np.sqrt(0.5 / bright.sum()) + 2e-4
    np.testing.assert_allclose((ours**2).sum(axis=(1, 2)), (theirs**2).sum(axis=(1, 2)), rtol=3e-4)


def test_numbers_of_frames_and_groups(single: lines_data.LinesCase, grouped: lines_data.LinesCase) -> None:
    assert single.train.frames.shape == (13778, 64, 64)
    assert single.test.frames.shape == (1089, 64, 64)
    assert single.train.frames.dtype == np.float32
    np.testing.assert_array_equal(single.train_groups[:, 0], np.arange(13778))
    np.testing.assert_array_equal(single.test_groups[:, 0], np.arange(1089))
    assert grouped.train_groups.shape == (82 * 82 * 2, 4)
    assert grouped.test_groups.shape == (33 * 33, 4)
    assert grouped.train.frames.shape == (13778, 64, 64)
    assert grouped.test.frames.shape == (33 * 33 * 4, 64, 64)
    assert set(grouped.train_groups.ravel()) == set(range(13778))


@pytest.mark.parametrize("part", ["train", "test"])
def test_groups_are_four_corners_of_one_image(grouped: lines_data.LinesCase, part: str) -> None:
    scan, groups = getattr(grouped, part), getattr(grouped, f"{part}_groups")
    at = scan.positions[groups]
    np.testing.assert_array_equal(
        at - at.mean(axis=1, keepdims=True), np.broadcast_to(grouped.offsets, at.shape)
    )
    np.testing.assert_array_equal(grouped.offsets, [[-2, -2], [2, -2], [-2, 2], [2, 2]])
    assert (scan.scan_index[groups] == scan.scan_index[groups][:, :1]).all()


def test_photons(single: lines_data.LinesCase, grouped: lines_data.LinesCase) -> None:
    for case in (single, grouped):
        counts = np.mean(
            [np.sum(case.train.frames[g].astype(float) ** 2) / case.gridsize**2 for g in case.train_groups]
        )
        assert counts == pytest.approx(1e9, rel=1e-4)


@pytest.mark.parametrize("gridsize", [1, 2])
def test_the_truth_scores_full_marks(
    single: lines_data.LinesCase, grouped: lines_data.LinesCase, gridsize: int
) -> None:
    case = single if gridsize == 1 else grouped
    assert case.test.object_guess is not None
    image = np.abs(case.test.object_guess)
    centres = case.test.positions[case.test_groups].mean(axis=1).astype(int)
    patches = np.stack([image[y - 32 : y + 32, x - 32 : x + 32] for x, y in centres])
    score = case.score(3 * patches * np.exp(0.4j))
    assert score["ssim"] > 0.999999
    assert score["psnr"] > 100
    assert case.score(patches[:, None]) == pytest.approx(case.score(patches))
    assert case.score(patches[:, 27:37, 27:37])["ssim"] == pytest.approx(score["ssim"], abs=1e-9)
    noisy = case.score(patches + np.random.default_rng(0).normal(0, 0.02, patches.shape))
    assert noisy["ssim"] < 0.99
    assert noisy["psnr_peak255"] - noisy["psnr"] == pytest.approx(
        20 * np.log10(255 / np.ptp(case.truth[2:-2, 2:-2]))
    )


def test_the_score_says_what_it_expects(single: lines_data.LinesCase) -> None:
    with pytest.raises(ValueError, match=r"patches: expected \(1089, n, n\), found \(7, 64, 64\)"):
        single.score(np.ones((7, 64, 64)))
    with pytest.raises(ValueError, match="gridsize 1\\|2"):
        lines_data.make_case(3, "ideal", Path())


def test_the_ideal_probe_cannot_tell_a_patch_from_its_twin(shared: Path) -> None:
    case = lines_data.make_case(1, "ideal", shared, noise=False, images=1)
    wave, image = case.probe[0], case.test.object_guess.astype(complex)
    x, y = case.test.positions[100].astype(int)
    patch = image[y - 32 : y + 32, x - 32 : x + 32] * np.exp(0.3j * np.arange(64) / 64)
    frames = [np.abs(np.fft.fft2(wave * p)) for p in (patch, patch[::-1, ::-1].conj(), patch[::-1, ::-1])]
    np.testing.assert_allclose(frames[0], frames[1], atol=1e-6 * frames[0].max())
    assert np.abs(frames[0] - frames[2]).max() > 1e-3 * frames[0].max()
    found = case.twin_mean()
    assert found is not None
    assert found["ssim"] == pytest.approx(0.644, abs=0.001)


def test_the_measured_probe_can(single: lines_data.LinesCase) -> None:
    assert single.twin_mean() is None


def test_the_truths_corner(single: lines_data.LinesCase) -> None:
    corner, size = single.truth_corner, len(single.truth)
    image = np.abs(single.test.object_guess[corner : corner + size, corner : corner + size])
    assert lines_data.score_image(image, single.truth)["ssim"] == pytest.approx(1.0, abs=1e-6)


def test_fewer_photons(shared: Path, single: lines_data.LinesCase) -> None:
    dim = lines_data.make_case(1, "experimental", shared, images=1, photons=1e4)
    assert np.mean(np.sum(dim.train.frames.astype(float) ** 2, axis=(1, 2))) == pytest.approx(1e4, rel=0.01)
