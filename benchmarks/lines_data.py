"""Data and score of the ``lines`` benchmark ("Towards single-shot coherent imaging via overlap-free
ptychography", arXiv 2602.21361, table "sim_lines").

Frames of a case are ``sqrt(Poisson(A^2))`` with ``A = s |FFT2(probe * patch)| / 64``; the paper's
network sees them divided by ``s`` (:attr:`LinesCase.intensity_scale`). Four 64x64 patches of a
gridsize-2 group lie on the same 4-px grid as the next group's, so each frame is stored once and
groups are indices; a shared frame then also has one noise realisation, as on a detector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from skimage.restoration import unwrap_phase

from ptycho_torch.scan import Scan, ScanSource
from ptycho_torch.simulation.objects import lines
from ptycho_torch.simulation.probes import disk

__all__ = [
    "LinesCase",
    "ideal_probe",
    "lcls_probe",
    "lines_objects",
    "make_case",
    "score_image",
    "score_lines",
    "tile_centres",
]

WINDOW = 64
STEP_TRAIN, STEP_TEST = 4, 10
PHOTONS = 1e9
LENGTH = 392
_CENTRE, _TRIM = 10, 2

Float = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LinesCase:
    """One of the four cases.

    ``train``: frames sqrt(counts) of both images on the 4-px grid; the second image lies 392 px to
    the right of the first, so no neighbours cross, and ``scan_index`` says which image. ``test``: frames of
    test image 0. ``*_groups``: (G, gridsize^2) indices into the frames, channels in rows. ``train_groups``
    and ``test_groups`` of gridsize 1 hold every frame once. ``offsets``: (gridsize^2, 2) (x, y) of the
    members from their group's mean, the same for all. ``truth``: (330, 330), its first pixel at row
    and column ``truth_corner`` of the test object. ``intensity_scale``: s.
    """

    gridsize: int
    probe_name: str
    train: Scan
    train_groups: NDArray[np.int64]
    test: Scan
    test_groups: NDArray[np.int64]
    offsets: NDArray[np.float32]
    truth: NDArray[np.float32]
    truth_corner: int
    norm_train: float
    norm_test: float
    intensity_scale: float
    probe: NDArray[np.complex64]

    def score(self, patches: NDArray[Any]) -> dict[str, float]:
        """SSIM and PSNR of the test's predictions; see :func:`score_lines`."""
        return score_lines(patches, self.truth, self.norm_test)

    def twin_mean(self) -> dict[str, float] | None:
        """Score of the best guess that a single frame allows; None where it can tell an object from its twin.

        Under a probe with P(-r) = P(r), a patch o(r) and its twin o*(-r) give the same frame to the
        last bit. Without other knowledge both are equally likely, so the least squared error has
        their mean.
        """
        wave = self.probe[0]
        if self.gridsize != 1 or np.abs(wave - wave[::-1, ::-1].conj()).max() > 1e-6 * np.abs(wave).max():
            return None
        image = self.test.object_guess
        assert image is not None
        corners = self.test.positions.astype(int)[:, ::-1] - WINDOW // 2
        patches = sliding_window_view(image, (WINDOW, WINDOW))[corners[:, 0], corners[:, 1]]
        return self.score((patches + patches[:, ::-1, ::-1].conj()) / 2)


def lines_objects(seed: int, count: int = 2) -> NDArray[np.float64]:
    """``count`` amplitude images (count, 392, 392) from the legacy generator at ``seed``."""
    rng = np.random.RandomState(seed)
    return np.stack([lines(LENGTH, rng).real for _ in range(count)])


def _normalised(probe: NDArray[Any]) -> NDArray[np.complex64]:
    y, x = np.indices(probe.shape) - (WINDOW - 1) / 2  # between pixels: the mean is over 812 of them
    disk = np.hypot(y, x) < WINDOW // 4
    return (probe / (4 * np.mean(np.abs(probe) * disk))).astype(np.complex64)


def ideal_probe() -> NDArray[np.complex64]:
    """(64, 64) flat-phase probe: a soft-edged disk out of a thresholded Gaussian."""
    return _normalised(disk(WINDOW)[0])


def lcls_probe(path: Path) -> NDArray[np.complex64]:
    """(64, 64) measured probe out of the LCLS file, amplitude and unwrapped phase slightly smoothed."""
    with np.load(path, allow_pickle=False) as archive:
        probe = archive["probeGuess"]
    amplitude = gaussian_filter(np.abs(probe), 0.5)
    # Without rng: scikit-image to 0.26 gives the reference's corner pixels then, and only then (its PR 8142).
    phase = gaussian_filter(unwrap_phase(np.angle(probe)), 0.5)
    return _normalised(amplitude * np.exp(1j * phase))


def _origins(length: int, window: int, step: int) -> NDArray[np.int64]:
    return np.arange(0, length - window + 1, step)


def _layout(gridsize: int, length: int, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Corners (F, 2) = (row, column) of one image's unique frames, and (G, gridsize^2) groups of them."""
    shifts = STEP_TRAIN * np.arange(gridsize)
    starts = _origins(length, WINDOW + int(shifts[-1]), step)
    corner = np.stack(np.meshgrid(starts, starts, indexing="ij"), -1).reshape(-1, 1, 2)
    member = corner + np.stack(np.meshgrid(shifts, shifts, indexing="ij"), -1).reshape(1, -1, 2)
    unique, index = np.unique(member.reshape(-1, 2), axis=0, return_inverse=True)
    return unique, index.reshape(member.shape[:2])


def _group_maximum(image: Float, gridsize: int, step: int) -> float:
    """Mean over groups of the largest value under a group."""
    window = WINDOW + STEP_TRAIN * (gridsize - 1)
    starts = _origins(len(image), window, step)
    views = sliding_window_view(image, (window, window))[np.ix_(starts, starts)]
    return float(views.max(axis=(2, 3)).mean())


def _patches(image: Float, corners: NDArray[np.int64], chunk: int = 128) -> Iterator[tuple[slice, Float]]:
    views = sliding_window_view(image, (WINDOW, WINDOW))
    for start in range(0, len(corners), chunk):
        part = slice(start, start + chunk)
        yield part, views[corners[part, 0], corners[part, 1]]


def _powers(image: Float, corners: NDArray[np.int64], probe: NDArray[Any]) -> Float:
    weight = np.abs(probe.astype(complex)) ** 2
    return np.concatenate([np.einsum("fij,ij->f", p * p, weight) for _, p in _patches(image, corners)])


def _counted(
    image: Float,
    corners: NDArray[np.int64],
    probe: NDArray[Any],
    scale: float,
    rng: np.random.Generator | None,
) -> NDArray[np.float32]:
    """Amplitudes sqrt(counts) of the patches; without noise when ``rng`` is None."""
    frames = np.empty((len(corners), WINDOW, WINDOW), np.float32)
    wave = probe.astype(complex)
    for part, patches in _patches(image, corners):
        field = fft.fftshift(fft.fft2(wave * patches, norm="ortho"), axes=(1, 2))
        rate = scale**2 * (field.real**2 + field.imag**2)
        frames[part] = np.sqrt(rate if rng is None else rng.poisson(rate))
    return frames


def _scan(
    images: NDArray[Any],
    corners: NDArray[np.int64],
    probe: NDArray[np.complex64],
    scale: float,
    rng: np.random.Generator | None,
    name: str,
) -> Scan:
    count, per_image = len(images), len(corners)
    frames = np.empty((count * per_image, WINDOW, WINDOW), np.float32)
    positions = np.empty((count * per_image, 2))
    for k, image in enumerate(images):
        rows = slice(k * per_image, (k + 1) * per_image)
        frames[rows] = _counted(image, corners, probe, scale, rng)
        positions[rows] = corners[:, ::-1] + WINDOW // 2 + np.array([k * image.shape[1], 0])
    return Scan(
        frames=frames,
        positions=positions,
        probe=probe[None],
        object_guess=np.concatenate(list(images), axis=1).astype(np.complex64),
        scan_index=np.repeat(np.arange(count), per_image),
        source=ScanSource(name, "simulation", "", "counts", "simulated photon counts"),
        counts_known=rng is not None,
    )


def make_case(
    gridsize: int,
    probe: str,
    shared: Path,
    seed: int = 0,
    *,
    noise: bool = True,
    images: int = 2,
    photons: float = PHOTONS,
) -> LinesCase:
    """The data of one case: ``gridsize`` 1 or 2, ``probe`` 'ideal' or 'experimental'.

    ``shared`` is the folder with ``data/run1084_probe_object_positions.npz``; ``seed`` is that of the
    photon noise alone; ``photons`` is the mean per training frame (per frame of a group).
    ``noise=False`` and ``images=1`` (training images) are for tests.
    Takes about 0.3 GB.
    """
    if gridsize not in (1, 2) or probe not in ("ideal", "experimental"):
        raise ValueError(f"expected gridsize 1|2 and probe ideal|experimental, found {gridsize} and {probe}")
    wave = (
        ideal_probe() if probe == "ideal" else lcls_probe(shared / "data/run1084_probe_object_positions.npz")
    )
    train_objects, test_object = lines_objects(1)[:images], lines_objects(2)
    length = test_object.shape[1]
    norm_train = float(np.mean([_group_maximum(o, gridsize, STEP_TRAIN) for o in train_objects]))
    norm_test = float(np.mean([_group_maximum(o, gridsize, STEP_TEST) for o in test_object]))
    train_objects = train_objects / norm_train
    corners, groups = _layout(gridsize, length, STEP_TRAIN)
    test_corners, test_groups = _layout(gridsize, length, STEP_TEST)
    power = np.mean([_powers(o, corners, wave)[groups].mean() for o in train_objects])
    scale = float(np.sqrt(photons / power))
    train_rng, test_rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    name = f"lines gridsize {gridsize} {probe}"
    train = _scan(train_objects, corners, wave, scale, train_rng if noise else None, f"{name} train")
    test = _scan(
        test_object[:1] / norm_test, test_corners, wave, scale, test_rng if noise else None, f"{name} test"
    )
    member = STEP_TRAIN * np.stack(np.meshgrid(*[np.arange(gridsize)] * 2, indexing="xy"), -1).reshape(-1, 2)
    # A group's central pixel lies half of the members' spread further in than a single frame's.
    first = WINDOW // 2 - _CENTRE // 2 + STEP_TRAIN * (gridsize - 1) // 2
    edge = _CENTRE * len(_origins(length, WINDOW + STEP_TRAIN * (gridsize - 1), STEP_TEST))
    return LinesCase(
        gridsize=gridsize,
        probe_name=probe,
        train=train,
        train_groups=np.concatenate([groups + k * len(corners) for k in range(len(train_objects))]),
        test=test,
        test_groups=test_groups,
        offsets=(member - member.mean(axis=0)).astype(np.float32),
        truth=test_object[0, first : first + edge, first : first + edge].astype(np.float32),
        truth_corner=first,
        norm_train=norm_train,
        norm_test=norm_test,
        intensity_scale=scale,
        probe=wave[None],
    )


def tile_centres(patches: NDArray[Any], truth: NDArray[Any]) -> NDArray[Any]:
    """The central 10x10 pixels of every patch, put together to an image of the truth's shape.

    ``patches``: (G, n, n) or (G, 1, n, n) real or complex, one per test group in order, pixel
    [n//2, n//2] at the group's mean position.
    """
    found = np.asarray(patches)
    if found.ndim == 4 and found.shape[1] == 1:
        found = found[:, 0]
    side = round(len(found) ** 0.5)
    low = found.shape[-1] // 2 - _CENTRE // 2
    if found.ndim != 3 or side * _CENTRE != len(truth) or side**2 != len(found) or low < 0:
        raise ValueError(
            f"patches: expected ({(len(truth) // _CENTRE) ** 2}, n, n), found {np.shape(patches)}"
        )
    centre = found[:, low : low + _CENTRE, low : low + _CENTRE].reshape(side, side, _CENTRE, _CENTRE)
    return centre.transpose(0, 2, 1, 3).reshape(truth.shape)


def score_lines(patches: NDArray[Any], truth: NDArray[Any], norm: float) -> dict[str, float]:
    """``ssim``, ``psnr_peak255`` and ``psnr`` of predicted patches against the truth, no registration.

    ``patches`` as :func:`tile_centres` takes them. The prediction's mean is scaled to the truth's;
    2 px are trimmed. SSIM and PSNR use the truth's range.
    """
    tiled = np.abs(tile_centres(patches, truth)).astype(np.float64) * norm
    return score_image(tiled, truth)


def score_image(amplitude: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    """As :func:`score_lines`, of an amplitude image of the truth's shape."""
    inner = slice(_TRIM, -_TRIM)
    wanted, image = truth[inner, inner].astype(np.float64), np.asarray(amplitude, np.float64)[inner, inner]
    image = image * (wanted.mean() / image.mean())
    error = float(np.mean((image - wanted) ** 2))
    span = float(wanted.max() - wanted.min())
    return {
        "ssim": float(structural_similarity(wanted, image, data_range=span)),
        "psnr_peak255": float(10 * np.log10(255**2 / error)) if error else float("inf"),
        "psnr": float(10 * np.log10(span**2 / error)) if error else float("inf"),
    }
