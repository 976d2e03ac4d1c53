"""Random probes and objects of many kinds, to pretrain on: what a scan nobody has seen may look like.

Everything is drawn from a generator that the caller gives, so the same seed gives the same examples. None
of the benchmarks' own objects and probes is among them; but random fields are made as the object ``grf`` is, and
annular pupils out of focus are relatives of the ``zoneplate`` probe.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter, zoom
from scipy.spatial import cKDTree

from ptycho_torch.physics.probes import propagated
from ptycho_torch.simulation.objects import grf

__all__ = ["random_object", "random_probe", "spoiled_probe"]

Complex = NDArray[np.complex64]
Image = NDArray[np.float64]
_Rng = np.random.Generator


# ------------------------------------------------------------------ probes
def _axes(size: int, corner: bool) -> tuple[Image, Image]:
    """Pixel coordinates (y, x) around the centre; ``corner``: in the order of an FFT."""
    line = np.fft.fftfreq(size, 1 / size) if corner else np.arange(size) - size // 2
    y, x = np.meshgrid(line, line, indexing="ij")
    return y.astype(np.float64), x.astype(np.float64)


def _aberrations(u: Image, v: Image, rng: _Rng, strength: float) -> Image:
    """Phase of astigmatism, coma and spherical aberration in pupil coordinates."""
    q = u * u + v * v
    terms = (u * u - v * v, 2 * u * v, q * u, q * v, q * q)
    return np.asarray(sum(rng.normal(0, strength) * term for term in terms))


def _focused(size: int, rng: _Rng) -> NDArray[np.complex128]:
    """A focus of a round (or annular) or rectangular pupil, out of focus and aberrated."""
    y, x = _axes(size, corner=True)
    edge = size * rng.uniform(0.08, 0.32)
    u, v = x / edge, y / edge
    if rng.random() < 0.5:
        radius = np.hypot(u, v)
        pupil = np.clip((1 - radius) * edge + 0.5, 0, 1)
        if rng.random() < 0.6:
            pupil *= np.clip((radius - rng.uniform(0, 0.5)) * edge + 0.5, 0, 1)
    else:
        tall = rng.uniform(0.7, 1.6)
        pupil = np.clip((1 - abs(u)) * edge + 0.5, 0, 1) * np.clip((1 - abs(v) * tall) * edge + 0.5, 0, 1)
    # The geometric spread of a defocused beam is a part of the frame, whatever its size.
    spread = rng.uniform(-0.28, 0.28) * size
    phase = np.pi * spread / size * edge * (u * u + v * v) + _aberrations(u, v, rng, 1.0)
    return np.asarray(fft.fftshift(fft.ifft2(pupil * np.exp(1j * phase))))


def _illuminated(size: int, rng: _Rng) -> NDArray[np.complex128]:
    """A Gaussian, disk or rectangle with a curved wavefront, half of the time some way downstream."""
    y, x = _axes(size, corner=False)
    kind = rng.integers(3)
    if kind == 0:
        width = rng.uniform(0.07, 0.2) * size
        reach = 2 * width
        amplitude = np.exp(-(x**2 + y**2 * rng.uniform(0.7, 1.4)) / (2 * width * width))
    else:
        reach = rng.uniform(0.12, 0.32) * size
        inside = np.hypot(x, y) < reach
        if kind == 2:
            inside = (abs(x) < reach) & (abs(y) < reach * rng.uniform(0.6, 1.2))
        amplitude = gaussian_filter(inside.astype(float), rng.uniform(0.5, 2) * size / 64)
    u, v = x / reach, y / reach
    phase = rng.normal(0, 2.5) * (u * u + v * v) + _aberrations(u, v, rng, 0.6)
    wave = amplitude * np.exp(1j * phase)
    return propagated(wave, -rng.uniform(-0.6, 0.6) * size) if rng.random() < 0.5 else wave


def _unit(probe: NDArray[np.complexfloating]) -> Complex:
    """Total power (N/2)^2, as :func:`~ptycho_torch.physics.units.normalise_probe` has it."""
    return (probe * (probe.shape[-1] / 2 / np.sqrt(np.sum(np.abs(probe) ** 2)))).astype(np.complex64)


def random_probe(size: int, rng: _Rng, modes: int = 1) -> Complex:
    """Return a random probe, (modes, N, N) complex64 of total power (N/2)^2.

    Parameters
    ----------
    size : int
        Edge N in pixels.
    rng : numpy.random.Generator
    modes : int
        Incoherent modes: the first one times low polynomials, with falling power, orthogonal.

    Examples
    --------
    >>> random_probe(32, np.random.default_rng(0)).shape
    (1, 32, 32)
    """
    wave = _focused(size, rng) if rng.random() < 0.4 else _illuminated(size, rng)
    if rng.random() < 0.5:
        noise = gaussian_filter(rng.normal(size=(2, size, size)), (0, 1, 1))
        wave = wave + (noise[0] + 1j * noise[1]) * np.abs(wave).max() * rng.uniform(0, 0.06)
    wave = np.roll(wave, tuple(rng.integers(-size // 20, size // 20 + 1, 2)), (0, 1))
    wave = wave * np.exp(1j * rng.uniform(0, 2 * np.pi))
    if modes == 1:
        return _unit(wave[None])
    y, x = (a / size * 4 for a in _axes(size, corner=False))
    raw = np.stack([wave, *(wave * f for f in (x, y, x * y, x * x - y * y)[: modes - 1])])
    basis = np.linalg.qr(raw.reshape(modes, -1).T)[0].T.reshape(raw.shape)
    power = np.cumprod(np.concatenate([[1.0], rng.uniform(0.1, 0.5, modes - 1)]))
    return _unit(basis * np.sqrt(power)[:, None, None])


def spoiled_probe(probe: Complex, rng: _Rng) -> Complex:
    """Return a guess of a probe as files hold it: out of focus, of another size, without its fine structure.

    Its centre of mass, in real space and at the detector, stays where the probe's is: a shift of the probe
    is one of the object, and no error.
    """
    size = probe.shape[-1]
    spectrum = fft.fft2(probe.astype(np.complex128))
    y, x = _axes(size, corner=True)
    power = np.sum(np.abs(spectrum) ** 2, axis=0)
    extent = np.sqrt(np.sum(power * (x * x + y * y)) / power.sum())
    # Far outside, where there is hardly any power, polynomials would scatter what there is over the frame.
    u, v = np.clip(x / extent, -2, 2), np.clip(y / extent, -2, 2)
    phase = rng.normal(0, 0.45) * (u * u + v * v) + _aberrations(u, v, rng, rng.uniform(0, 0.15))
    guess = fft.ifft2(spectrum * np.exp(1j * phase))
    if rng.random() < 0.5:
        guess = _magnified(guess, rng.uniform(0.9, 1.12))
    if rng.random() < 0.3:
        blur = rng.uniform(0.3, 1.0) * size / 64
        guess = gaussian_filter(guess.real, (0, blur, blur)) + 1j * gaussian_filter(
            guess.imag, (0, blur, blur)
        )
    if rng.random() < 0.08:  # nothing known but the size
        guess = _gaussian_like(guess)
    return _unit(_centred_as(guess, probe))


def _magnified(waves: NDArray[np.complex128], factor: float) -> NDArray[np.complex128]:
    size = waves.shape[-1]
    done = []
    for wave in waves:
        big = zoom(wave.real, factor, order=1) + 1j * zoom(wave.imag, factor, order=1)
        edge = big.shape[0]
        canvas = np.zeros((max(edge, size),) * 2, complex)
        at = canvas.shape[0] // 2 - edge // 2
        canvas[at : at + edge, at : at + edge] = big
        cut = canvas.shape[0] // 2 - size // 2
        done.append(canvas[cut : cut + size, cut : cut + size])
    return np.stack(done)


def _gaussian_like(waves: NDArray[np.complex128]) -> NDArray[np.complex128]:
    size = waves.shape[-1]
    power = np.sum(np.abs(waves) ** 2, axis=0)
    y, x = _axes(size, corner=False)
    cy, cx = (np.sum(power * a) / power.sum() for a in (y, x))
    width = np.sum(power * ((x - cx) ** 2 + (y - cy) ** 2)) / power.sum()
    first = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / width)
    shapes = [first, *(first * f for f in (x - cx, y - cy, (x - cx) * (y - cy), x * x - y * y))]
    share = np.sqrt(np.sum(np.abs(waves) ** 2, axis=(1, 2)))
    return np.stack(
        [s / np.sqrt(np.sum(s * s)) * w for s, w in zip(shapes[: len(share)], share, strict=True)]
    ).astype(complex)


def _centroid(power: Image, corner: bool) -> tuple[float, float]:
    """Centre of mass (y, x) on the periodic frame, from the phase of its first Fourier component."""
    size = power.shape[-1]
    line = np.exp(
        2j * np.pi * (np.fft.fftfreq(size, 1 / size) if corner else np.arange(size) - size // 2) / size
    )
    y = np.angle(np.sum(power.sum(1) * line)) * size / (2 * np.pi)
    x = np.angle(np.sum(power.sum(0) * line)) * size / (2 * np.pi)
    return float(y), float(x)


def _centred_as(guess: NDArray[np.complex128], probe: Complex) -> NDArray[np.complex128]:
    size = probe.shape[-1]
    y, x = _axes(size, corner=True)

    def total(waves: NDArray[np.complexfloating]) -> Image:
        return np.asarray(np.sum(np.abs(waves) ** 2, axis=0))

    (ay, ax), (by, bx) = (_centroid(total(w), False) for w in (probe, guess))
    guess = fft.ifft2(fft.fft2(guess) * np.exp(-2j * np.pi * (y * (ay - by) + x * (ax - bx)) / size))
    (ay, ax), (by, bx) = (_centroid(total(fft.fft2(w)), True) for w in (probe, guess))
    rows, columns = _axes(size, corner=False)
    return np.asarray(guess * np.exp(2j * np.pi * (rows * (ay - by) + columns * (ax - bx)) / size))


# ------------------------------------------------------------------ objects
def _shapes(size: int, rng: _Rng) -> Image:
    y, x = np.mgrid[:size, :size]
    image = np.zeros((size, size))
    for _ in range(rng.integers(60, 400)):
        cx, cy = rng.uniform(0, size, 2)
        r, a = rng.uniform(2, 40) ** rng.uniform(0.7, 1), rng.uniform(0, 2 * np.pi)
        reach = int(2 * r) + 2
        box = np.s_[max(0, int(cy) - reach) : int(cy) + reach, max(0, int(cx) - reach) : int(cx) + reach]
        u = (x[box] - cx) * np.cos(a) + (y[box] - cy) * np.sin(a)
        v = (y[box] - cy) * np.cos(a) - (x[box] - cx) * np.sin(a)
        if rng.random() < 0.5:
            inside = u**2 + (v * rng.uniform(0.5, 2)) ** 2 < r * r
        else:
            inside = (abs(u) < r) & (abs(v) < r * rng.uniform(0.1, 1))
        image[box][inside] = rng.random()
    return image


def _random_field(size: int, rng: _Rng) -> Image:
    return np.asarray(np.real(np.log(grf(size, rng, rng.uniform(1.5, 20)))))


def _spheres(size: int, rng: _Rng) -> Image:
    y, x = np.mgrid[:size, :size]
    image = np.zeros((size, size))
    for _ in range(rng.integers(30, 200)):
        cx, cy = rng.uniform(0, size, 2)
        r = rng.uniform(2, 25)
        image += np.sqrt(np.clip(r * r - (x - cx) ** 2 - (y - cy) ** 2, 0, None))
    return image


def _wires(size: int, rng: _Rng) -> Image:
    image = np.zeros((size, size))
    for _ in range(rng.integers(40, 250)):
        row, column = rng.integers(0, size, 2)
        length, width = rng.integers(10, 150), rng.integers(1, 6)
        if rng.random() < 0.5:
            image[row : row + width, column : column + length] = rng.choice([0, 1])
        else:
            image[row : row + length, column : column + width] = 1
    return image


def _cells(size: int, rng: _Rng) -> Image:
    y, x = np.mgrid[:size, :size]
    seeds = rng.uniform(0, size, (rng.integers(30, 600), 2))
    distance, nearest = cKDTree(seeds).query(np.stack([x.ravel(), y.ravel()], 1), 2)
    image = rng.random(len(seeds))[nearest[:, 0]].reshape(size, size)
    image[(distance[:, 1] - distance[:, 0]).reshape(size, size) < rng.uniform(0, 3)] = rng.random()
    return np.asarray(image)


def _gratings(size: int, rng: _Rng) -> Image:
    y, x = np.mgrid[:size, :size]
    period, a = rng.uniform(3, 30), rng.uniform(0, 2 * np.pi)
    bent = gaussian_filter(rng.normal(size=(size, size)), 20) * rng.uniform(0, 60)
    image = np.sin((x * np.cos(a) + y * np.sin(a)) / period * 2 * np.pi + bent)
    return image if rng.random() < 0.5 else (image > 0).astype(float)


def _clouds(size: int, rng: _Rng) -> Image:
    return np.asarray(sum(gaussian_filter(rng.normal(size=(size, size)), s) * s for s in (1, 2, 4, 8, 16)))


_KINDS: tuple[Callable[[int, _Rng], Image], ...] = (
    _shapes,
    _random_field,
    _spheres,
    _wires,
    _cells,
    _gratings,
    _clouds,
)


def _picture(size: int, rng: _Rng) -> Image:
    """A random grey picture, 0 to 1, of one kind or two laid over each other, sharp or soft."""
    image = _KINDS[rng.integers(len(_KINDS))](size, rng).astype(float)
    if rng.random() < 0.2:
        image = image + rng.uniform(0.2, 1) * image.std() * _KINDS[rng.integers(len(_KINDS))](size, rng)
    if rng.random() < 0.6:
        image = gaussian_filter(image, rng.uniform(0.4, 1.5))
    image = image - image.min()
    return np.asarray(image / max(float(image.max()), 1e-9))


def random_object(size: int, rng: _Rng) -> Complex:
    """Return a random object, (size, size) complex64 with an rms amplitude of 1.

    Amplitude and phase come from one picture or from two; absorbing, weak, dark with bright parts, or pure
    phase; the phase spans up to 3 rad either way.

    Parameters
    ----------
    size : int
        Edge in pixels.
    rng : numpy.random.Generator

    Examples
    --------
    >>> obj = random_object(64, np.random.default_rng(0))
    >>> round(float(np.sqrt(np.mean(np.abs(obj) ** 2))), 4)
    1.0
    """
    first = _picture(size, rng)
    second = _picture(size, rng) if rng.random() < 0.5 else first
    kind = rng.random()
    if kind < 0.45:
        amplitude = 1 - rng.uniform(0, 0.9) * first
    elif kind < 0.7:
        amplitude = np.exp(-rng.uniform(0, 0.5) * first)
    elif kind < 0.9:
        amplitude = rng.uniform(0.02, 0.3) + first
    else:
        amplitude = np.ones_like(first)
    phase = rng.uniform(-3, 3) * second if rng.random() < 0.8 else 0 * second
    obj = amplitude * np.exp(1j * phase)
    return (obj / np.sqrt(np.mean(np.abs(obj) ** 2))).astype(np.complex64)
