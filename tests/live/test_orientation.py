"""The eight ways in which a detector's frames lie."""

from __future__ import annotations

import numpy as np
import pytest

from ptycho_torch.errors import ConfigError
from ptycho_torch.live.orientation import ORIENTATIONS, Orientation


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("each", ORIENTATIONS, ids=lambda o: o.name)
def test_turning_is_undone_and_keeps_the_zero_frequency(each: Orientation, size: int) -> None:
    frames = np.random.default_rng(0).random((2, size, size))
    turned = each.turn(frames)
    assert np.array_equal(each.undo(turned), frames)
    assert np.array_equal(turned[:, size // 2, size // 2], frames[:, size // 2, size // 2])


def test_all_eight_differ() -> None:
    frame = np.random.default_rng(0).random((1, 6, 6))
    assert len({each.turn(frame).tobytes() for each in ORIENTATIONS}) == 8


def test_half_a_turn_conjugates_the_field() -> None:
    # |F(psi*)|^2 is |F psi|^2 turned by 180 degrees about the zero frequency.
    rng = np.random.default_rng(1)
    wave = rng.normal(size=(8, 8)) + 1j * rng.normal(size=(8, 8))
    one, other = (np.abs(np.fft.fftshift(np.fft.fft2(w))) for w in (wave, wave.conj()))
    assert np.allclose(Orientation.named("turn-180").turn(one[None])[0], other)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="swap-mirror-x"):
        Orientation.named("upside-down")
