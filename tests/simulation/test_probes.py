from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ptycho_torch.errors import DataError, ScanError, ScanNotFoundError
from ptycho_torch.simulation.probes import PROBE_NAMES, make_probe


@pytest.mark.parametrize("name", PROBE_NAMES)
@pytest.mark.parametrize("size", [16, 64, 128])
def test_named_probes_fit_their_window(name: str, size: int) -> None:
    probe = make_probe(name, size)
    assert probe.shape == (1, size, size)
    assert probe.dtype == np.complex64
    power = np.abs(probe[0].astype(complex)) ** 2
    power /= power.sum()
    rim = size // 16
    assert power[rim:-rim, rim:-rim].sum() > 0.95
    at = (np.indices(power.shape) * power).sum(axis=(1, 2)) - size / 2
    assert np.abs(at).max() < 0.06 * size


def test_the_zone_plate_has_no_twin_and_the_flat_ones_have() -> None:
    def twin(probe: np.ndarray) -> float:
        """Largest normalised overlap of a probe with the twin that diffracts alike."""
        other = np.conj(probe[::-1, ::-1])
        cross = np.fft.ifft2(np.fft.fft2(probe) * np.conj(np.fft.fft2(other)))
        return float(np.abs(cross).max() / np.sum(np.abs(probe) ** 2))

    assert twin(make_probe("disk")[0]) > 0.99
    assert twin(make_probe("gaussian")[0]) > 0.99
    assert twin(make_probe("zoneplate")[0]) < 0.6


def test_probes_out_of_files(tmp_path: Path) -> None:
    probe = np.stack([np.eye(32), np.ones((32, 32))]).astype(np.complex64)
    np.savez(tmp_path / "p.npz", probeGuess=probe)
    np.testing.assert_array_equal(make_probe(str(tmp_path / "p.npz")), probe)
    with pytest.raises(ScanError, match="64x64"):
        make_probe(str(tmp_path / "p.npz"), 64)
    with pytest.raises(ScanNotFoundError, match=r"probe: expected one of disk, .* found 'discus'"):
        make_probe("discus")
    for size in (8, 33):
        with pytest.raises(DataError, match="even number of at least 16"):
            make_probe("disk", size)


def test_the_measured_probe(shared: Path) -> None:
    probe = make_probe(str(shared / "data" / "run1084_probe_object_positions.npz"), 64)
    assert probe.shape == (1, 64, 64)
