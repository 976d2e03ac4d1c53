"""Hypothesis strategies that several rooms share."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ptycho_torch.scan import Scan

__all__ = ["positions", "scans", "seeds"]

seeds = st.integers(0, 2**32 - 1)


@st.composite
def positions(draw: st.DrawFn, least: int = 4, most: int = 60) -> np.ndarray:
    """(M, 2) positions on the pixel grid, many equal distances among them, or anywhere."""
    count = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(seeds))
    if draw(st.booleans()):
        return rng.integers(0, 12, (count, 2)).astype(np.float64)
    return rng.uniform(0, 100, (count, 2))


@st.composite
def scans(draw: st.DrawFn, counted: bool | None = None) -> Scan:
    """Small scans with any of the optional parts; ``counted`` fixes whether counts are known."""
    rng = np.random.default_rng(draw(seeds))
    count, size, modes = draw(st.integers(1, 9)), draw(st.sampled_from([4, 6, 8])), draw(st.integers(1, 3))
    known = draw(st.booleans()) if counted is None else counted
    counts = rng.poisson(30, (count, size, size)) if known else rng.gamma(2, 10, (count, size, size))
    counts[0, 0, 0] = 3  # some signal, and not a square number

    def wave(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)

    good = rng.random((size, size)) > 0.1
    good[0, 0] = True
    masked = draw(st.booleans())
    frames = np.sqrt(counts).astype(np.float32)
    if masked:
        frames[:, ~good] = 0
    return Scan(
        frames=frames,
        positions=rng.uniform(-50, 50, (count, 2)),
        probe=wave(modes, size, size),
        object_guess=wave(11, 13) if draw(st.booleans()) else None,
        positions_start=rng.uniform(-50, 50, (count, 2)) if draw(st.booleans()) else None,
        scan_index=rng.integers(0, 3, count) if draw(st.booleans()) else None,
        good_pixels=good if masked else None,
        counts_known=known,
    )
