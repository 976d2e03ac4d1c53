"""The forward model against an independent one in numpy, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ptycho_torch.physics.propagation import diffract, intensity, propagate, propagate_back


def complex_noise(rng: np.random.Generator, *shape: int) -> NDArray[np.complex128]:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def twin_intensity(patch: NDArray[np.complex128], probe: NDArray[np.complex128]) -> NDArray[np.float64]:
    """The forward model by the definition of the discrete Fourier transform: no FFT, no shift."""
    size = patch.shape[-1]
    index = np.arange(size)
    frequency = index - size // 2
    kernel = np.exp(-2j * np.pi * np.outer(frequency, index) / size)
    total = np.zeros((size, size))
    for mode in probe:
        total += np.abs(kernel @ (mode * patch) @ kernel.T / size) ** 2
    return total


@settings(max_examples=20, deadline=None)
@given(
    size=st.integers(1, 24),
    modes=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_a_numpy_twin_in_float64(size: int, modes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    patch, probe = complex_noise(rng, size, size), complex_noise(rng, modes, size, size)
    expected = twin_intensity(patch, probe)
    found = intensity(torch.from_numpy(patch)[None, None], torch.from_numpy(probe))[0, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * expected.max())
    single = diffract(
        torch.from_numpy(patch.astype(np.complex64))[None, None], torch.from_numpy(probe.astype(np.complex64))
    )
    np.testing.assert_allclose(
        single[0, 0].numpy(), np.sqrt(expected), rtol=1e-6, atol=3e-6 * np.sqrt(expected.max())
    )


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 32), seed=st.integers(0, 2**31))
def test_propagation_is_unitary(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wave, other = (torch.from_numpy(complex_noise(rng, size, size)) for _ in range(2))
    field = propagate(wave)
    torch.testing.assert_close(field.abs().square().sum(), wave.abs().square().sum())
    torch.testing.assert_close(propagate_back(field), wave)
    torch.testing.assert_close(
        torch.vdot(other.flatten(), field.flatten()),
        torch.vdot(propagate_back(other).flatten(), wave.flatten()),
    )


def test_dc_is_in_the_centre() -> None:
    field = propagate(torch.ones(8, 8, dtype=torch.complex128)).abs()
    assert field.argmax() == 4 * 8 + 4
    assert field[4, 4] == pytest.approx(8.0)
    odd = propagate(torch.ones(5, 7, dtype=torch.complex128))
    assert odd.abs().argmax() == 2 * 7 + 3
    torch.testing.assert_close(propagate_back(odd), torch.ones(5, 7, dtype=torch.complex128))


def test_modes_add_in_intensity() -> None:
    rng = np.random.default_rng(0)
    patch = torch.from_numpy(complex_noise(rng, 1, 1, 8, 8))
    probe = torch.from_numpy(complex_noise(rng, 2, 8, 8))
    together = intensity(patch, probe)
    torch.testing.assert_close(together, intensity(patch, probe[:1]) + intensity(patch, probe[1:]))


def test_gradients_pass_gradcheck() -> None:
    rng = np.random.default_rng(1)
    patch = torch.from_numpy(complex_noise(rng, 1, 1, 4, 4)).requires_grad_()
    probe = torch.from_numpy(complex_noise(rng, 2, 4, 4)).requires_grad_()
    assert torch.autograd.gradcheck(diffract, (patch, probe))


def test_each_patch_of_a_batch_has_a_frame_of_its_own() -> None:
    rng = np.random.default_rng(2)
    patches, probe = complex_noise(rng, 2, 3, 6, 6), complex_noise(rng, 2, 6, 6)
    found = intensity(torch.from_numpy(patches), torch.from_numpy(probe))
    assert found.shape == (2, 3, 6, 6)
    for b in range(2):
        for c in range(3):
            np.testing.assert_allclose(found[b, c].numpy(), twin_intensity(patches[b, c], probe), rtol=1e-9)


def test_a_dark_field_has_a_small_amplitude_and_a_finite_gradient() -> None:
    patch = torch.zeros(1, 1, 4, 4, dtype=torch.complex128, requires_grad=True)
    amplitude = diffract(patch, torch.ones(1, 4, 4, dtype=torch.complex128))
    torch.testing.assert_close(amplitude.detach(), torch.full((1, 1, 4, 4), 1e-6, dtype=torch.float64))
    amplitude.sum().backward()
    assert patch.grad is not None
    assert torch.isfinite(torch.view_as_real(patch.grad)).all()
