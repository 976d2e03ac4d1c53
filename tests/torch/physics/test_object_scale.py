"""The factor that brings an object to the brightness of its frames."""

from __future__ import annotations

import pytest
import torch

from ptycho_torch.errors import DataError
from ptycho_torch.physics.gauges import object_scale
from ptycho_torch.physics.propagation import diffract


def parts(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(3, 2, 8, 8, dtype=torch.complex64, generator=generator)
    return patches, torch.randn(2, 8, 8, dtype=torch.complex64, generator=generator)


@pytest.mark.parametrize("factor", [0.02, 0.7, 5.0])
def test_the_factor_that_was_left_out_is_found(factor: float) -> None:
    patches, probe = parts()
    frames = diffract(factor * patches, probe)
    assert object_scale(frames, patches, probe) == pytest.approx(factor, rel=1e-5)


def test_a_dim_object_is_one() -> None:
    patches, probe = parts()
    dim = 1e-3 * patches / patches.abs().max()
    assert object_scale(2 * diffract(dim, probe), dim, probe) == pytest.approx(2, rel=1e-5)


def test_bad_pixels_say_nothing() -> None:
    patches, probe = parts()
    frames = 3 * diffract(patches, probe)
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[2, 5] = False
    frames[..., 2, 5] = 1e4
    assert object_scale(frames, patches, probe, mask) == pytest.approx(3, rel=1e-5)


def test_powers_decide_so_that_noise_of_counts_adds_nothing() -> None:
    patches, probe = parts()
    made = diffract(patches, probe)
    frames = torch.zeros_like(made)
    # Half of the pixels dark, the others with twice the power: the same light in all.
    flat = torch.ones_like(made)
    frames[..., ::2] = 2**0.5
    ratio = object_scale(frames, patches, probe) / object_scale(flat, patches, probe)
    assert ratio == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("patches", [torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), torch.nan)])
def test_an_object_without_light_is_refused(patches: torch.Tensor) -> None:
    with pytest.raises(DataError, match="objectGuess: nothing of it lies under the frames"):
        object_scale(torch.ones(1, 1, 8, 8), patches + 0j, torch.ones(1, 8, 8) + 0j)


def test_frames_without_light_are_refused() -> None:
    with pytest.raises(DataError, match="objectGuess"):
        object_scale(torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8) + 0j, torch.ones(1, 8, 8) + 0j)


def test_frames_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="objectGuess"):
        object_scale(
            torch.full((1, 1, 8, 8), torch.inf), torch.ones(1, 1, 8, 8) + 0j, torch.ones(1, 8, 8) + 0j
        )
