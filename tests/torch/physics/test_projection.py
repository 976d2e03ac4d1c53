"""The modulus projection against a numpy twin, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ptycho_torch.physics.projection import change_of, intensity, project

cases = given(size=st.integers(2, 9), modes=st.integers(1, 3), seed=st.integers(0, 2**31))


def draw(size: int, modes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two exit waves of some modes, measured amplitudes, and good pixels."""
    rng = np.random.default_rng(seed)
    wave = rng.standard_normal((2, modes, size, size)) + 1j * rng.standard_normal((2, modes, size, size))
    measured = rng.uniform(0.1, 3, (2, 1, size, size))
    good = rng.random((size, size)) < 0.7
    return torch.from_numpy(wave), torch.from_numpy(measured), torch.from_numpy(good)


def moduli(wave: torch.Tensor) -> torch.Tensor:
    return torch.fft.fft2(wave, norm="ortho").abs().square().sum(-3, keepdim=True).sqrt()


def twin(
    wave: NDArray[np.complex128], measured: NDArray[np.float64], good: NDArray[np.bool_] | None
) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """By the definition of the transform, pixel by pixel: one exit wave (modes, N, N)."""
    size = wave.shape[-1]
    kernel = np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(size)) / size) / np.sqrt(size)
    field = kernel @ wave @ kernel.T
    wanted, misfit = field.copy(), np.zeros((1, size, size))
    for i in range(size):
        for j in range(size):
            if good is None or good[i, j]:
                modulus = np.linalg.norm(field[:, i, j])
                wanted[:, i, j] = field[:, i, j] / modulus * measured[0, i, j]
                misfit[0, i, j] = modulus - measured[0, i, j]
    return kernel.conj() @ wanted @ kernel.conj().T - wave, misfit


@settings(max_examples=25, deadline=None)
@cases
@pytest.mark.parametrize("masked", [False, True])
def test_agrees_with_a_numpy_twin(masked: bool, size: int, modes: int, seed: int) -> None:
    wave, measured, good = draw(size, modes, seed)
    change, misfit = project(wave, measured, good if masked else None)
    assert change.shape == wave.shape
    assert misfit.shape == measured.shape
    for k in range(2):
        expected = twin(wave[k].numpy(), measured[k].numpy(), good.numpy() if masked else None)
        np.testing.assert_allclose(change[k].numpy(), expected[0], atol=1e-6)
        np.testing.assert_allclose(misfit[k].numpy(), expected[1], atol=1e-6)


@settings(max_examples=25, deadline=None)
@cases
def test_afterwards_good_pixels_have_the_measured_moduli_and_others_their_own(
    size: int, modes: int, seed: int
) -> None:
    wave, measured, good = draw(size, modes, seed)
    change, _ = project(wave, measured, good)
    after = moduli(wave + change)
    torch.testing.assert_close(after, torch.where(good, measured, moduli(wave)), rtol=1e-6, atol=1e-6)
    again, misfit = project(wave + change, measured, good)
    assert float(again.abs().max()) < 1e-6
    assert float(misfit.abs().max()) < 1e-6


@settings(max_examples=25, deadline=None)
@cases
def test_no_wave_with_the_measured_moduli_is_nearer(size: int, modes: int, seed: int) -> None:
    wave, measured, _ = draw(size, modes, seed)
    change, misfit = project(wave, measured)
    other = torch.from_numpy(np.random.default_rng(seed + 1).standard_normal(wave.shape)) + wave * 1j
    other = other + project(other, measured)[0]  # any other point of the set
    nearest = change.abs().square().sum((-3, -2, -1))
    assert torch.all(nearest <= (other - wave).abs().square().sum((-3, -2, -1)) + 1e-9)
    # The transform keeps distances, so the way is that of the moduli.
    torch.testing.assert_close(nearest, misfit.square().sum((-3, -2, -1)), rtol=1e-6, atol=1e-6)


def test_phases_are_kept() -> None:
    wave, measured, _ = draw(6, 2, 0)
    change, _ = project(wave, measured)
    before, after = (torch.fft.fft2(w) for w in (wave, wave + change))
    torch.testing.assert_close(torch.sgn(after), torch.sgn(before), rtol=1e-6, atol=1e-6)


def test_a_dark_wave_gives_finite_numbers_and_gradients() -> None:
    wave = torch.zeros(1, 1, 4, 4, dtype=torch.complex64, requires_grad=True)
    change, misfit = project(wave, torch.ones(1, 1, 4, 4))
    assert torch.equal(change.detach(), torch.zeros_like(change))
    torch.testing.assert_close(misfit.detach(), -torch.ones(1, 1, 4, 4), rtol=0, atol=2e-6)
    (change.abs().square().sum() + misfit.square().sum()).backward()
    assert wave.grad is not None
    assert torch.isfinite(torch.view_as_real(wave.grad)).all()


def test_gradients_pass_gradcheck() -> None:
    wave, measured, good = draw(3, 2, 4)
    wave.requires_grad_()
    measured.requires_grad_()
    assert torch.autograd.gradcheck(lambda w, m: project(w, m, good), (wave, measured))


@settings(max_examples=15, deadline=None)
@cases
@pytest.mark.parametrize("masked", [False, True])
def test_the_change_alone_has_the_same_value_and_gradient(
    masked: bool, size: int, modes: int, seed: int
) -> None:
    wave, measured, good = draw(size, modes, seed)
    mask = good if masked else None
    pull = torch.from_numpy(np.random.default_rng(seed + 1).standard_normal(wave.shape)) * (1 + 0.5j)
    gradients = []
    for law in (lambda w: project(w, measured, mask)[0], lambda w: change_of(w, measured, mask)):
        given_ = wave.clone().requires_grad_()
        change = law(given_)
        torch.testing.assert_close(change.detach(), project(wave, measured, mask)[0])
        (change * pull).real.sum().backward()
        gradients.append(given_.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    assert torch.equal(change_of(wave, measured, mask), project(wave, measured, mask)[0])


def test_the_change_alone_is_one_step_of_the_graph_and_none_where_nobody_asks() -> None:
    """The automatic backward pass gives the same numbers, in twice the time and memory."""
    wave, measured, good = draw(4, 2, 0)
    wave.requires_grad_()
    change = change_of(wave, measured, good)
    assert change.grad_fn is not None
    leaves = [node for node, _ in change.grad_fn.next_functions if node is not None]
    assert [leaf.name() for leaf in leaves] == ["torch::autograd::AccumulateGrad"]
    with torch.no_grad():
        assert not change_of(wave, measured, good).requires_grad


@pytest.mark.parametrize("before", [(), (2, 3)], ids=str)
def test_oblong_frames_with_any_axes_before_them(before: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    shape = (*before, 2, 4, 6)
    wave = torch.from_numpy(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).requires_grad_()
    measured = torch.from_numpy(rng.random((*before, 1, 4, 6)))
    field = np.fft.fft2(wave.detach().numpy(), norm="ortho")
    modulus = np.sqrt((np.abs(field) ** 2).sum(-3, keepdims=True))
    wanted = np.fft.ifft2(field * (measured.numpy() / modulus - 1), norm="ortho")
    np.testing.assert_allclose(project(wave.detach(), measured)[0].numpy(), wanted, atol=1e-10)
    assert torch.autograd.gradcheck(lambda w: change_of(w, measured), (wave,))


def test_gradients_of_the_change_alone_pass_gradcheck() -> None:
    wave, measured, good = draw(3, 2, 4)
    wave.requires_grad_()
    for mask in (None, good):
        assert torch.autograd.gradcheck(lambda w, m=mask: change_of(w, measured, m), (wave,))


def test_gradients_reach_amplitudes_that_were_predicted() -> None:
    """Training asks what becomes of frames that an object made: they have a gradient of their own."""
    wave, measured, good = draw(3, 2, 4)
    wave.requires_grad_()
    measured.requires_grad_()
    for mask in (None, good):
        assert torch.autograd.gradcheck(lambda w, a, m=mask: change_of(w, a, m), (wave, measured))
        assert torch.autograd.gradcheck(lambda a, m=mask: change_of(wave.detach(), a, m), (measured,))


@settings(max_examples=15, deadline=None)
@cases
def test_intensities_of_modes_add(size: int, modes: int, seed: int) -> None:
    wave, _, _ = draw(size, modes, seed)
    expected = np.sum(np.abs(wave.numpy()) ** 2, axis=1)
    for part, of in (
        (wave, expected),
        (wave[:1], expected[:1]),
        (wave[0], expected[0]),
        (wave[None], expected[None]),
    ):
        np.testing.assert_allclose(intensity(part).numpy(), of)
