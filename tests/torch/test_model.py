"""The pair of models: one core, two views, one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ptycho_torch.compat.parameters import dataclass_to_legacy_dict
from ptycho_torch.config import ModelConfig
from ptycho_torch.errors import ConfigError, DataError
from ptycho_torch.model import build_pair, create_torch_model_with_gridsize, default_probe

CONFIG = ModelConfig(N=32, unrolled_width=8, unrolled_levels=1, unrolled_iterations=2)


def pair(scale: float = 2.0, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = ModelConfig(**{**vars(CONFIG), **changes})
    return build_pair(config, default_probe(config.N), scale)


def test_both_views_share_everything() -> None:
    autoencoder, to_object = pair()
    assert autoencoder.core is to_object.core
    assert autoencoder.state_dict().keys() == to_object.state_dict().keys()


@torch.no_grad()
def test_the_autoencoder_goes_on_where_the_other_stops() -> None:
    autoencoder, to_object = pair()
    x, offsets = torch.rand(2, 1, 32, 32), torch.zeros(2, 1, 1, 2)
    obj, amplitude, intensity = autoencoder(x, offsets)
    torch.testing.assert_close(obj, to_object(x, offsets), rtol=0, atol=0)
    torch.testing.assert_close(intensity, amplitude**2)
    wave = to_object.probe * obj
    field = torch.fft.fftshift(torch.fft.fft2(wave, norm="ortho"), dim=(-2, -1))
    torch.testing.assert_close(amplitude, 2.0 * field.abs(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_scale_is_taken_out_and_put_back() -> None:
    one, two = pair(1.0)[0], pair(5.0)[0]
    x, offsets = torch.rand(2, 1, 32, 32), torch.zeros(2, 1, 1, 2)
    a, b = one(x, offsets), two(5 * x, offsets)
    torch.testing.assert_close(a[0], b[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(5 * a[1], b[1], rtol=1e-4, atol=1e-5)
    assert two.intensity_scale == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("architecture", "gridsize", "size", "objects"),
    [("unrolled", 1, 32, 1), ("unrolled", 2, 32, 4), ("cnn", 1, 64, 1), ("cnn", 2, 64, 1)],
)
@torch.no_grad()
def test_shapes_are_the_contracts(architecture: str, gridsize: int, size: int, objects: int) -> None:
    autoencoder, to_object = pair(architecture=architecture, gridsize=gridsize, N=size)
    members = gridsize**2
    x, offsets = torch.rand(3, members, size, size), torch.zeros(3, members, 1, 2)
    assert to_object(x, offsets).shape == (3, objects, size, size)
    assert to_object(x, offsets).dtype == torch.complex64
    assert [v.shape[1] for v in autoencoder(x, offsets)] == [objects, members, members]


def test_what_does_not_fit_is_refused_by_name() -> None:
    to_object = pair()[1]
    with pytest.raises(DataError, match=r"frames: .*\(B, C, 32, 32\).*found \(2, 1, 16, 16\)"):
        to_object(torch.rand(2, 1, 16, 16), torch.zeros(2, 1, 1, 2))
    with pytest.raises(DataError, match=r"offsets: "):
        to_object(torch.rand(2, 1, 32, 32), torch.zeros(2, 2))
    with pytest.raises(DataError, match="probe: "):
        build_pair(CONFIG, default_probe(16), 1.0)
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(DataError, match="intensity_scale"):
            build_pair(CONFIG, default_probe(32), scale)
    with pytest.raises(ConfigError, match=r"model\.unrolled_width"):
        pair(unrolled_width=1)


def test_params_describe_the_model_again() -> None:
    autoencoder, _ = pair(3.0)
    params = {
        **dataclass_to_legacy_dict(autoencoder.config),
        **autoencoder.bundle_params(),
        "intensity_scale": 3.0,
    }
    again, _ = create_torch_model_with_gridsize(1, 32, params)
    assert again.config == autoencoder.config
    assert again.intensity_scale == pytest.approx(3.0)
    np.testing.assert_array_equal(again.probe.detach().numpy(), autoencoder.probe.detach().numpy())
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in autoencoder.state_dict().items()
    }


def test_a_probe_of_the_older_layout_is_taken() -> None:
    probe = default_probe(32)[0]
    for given in (probe, probe[..., None], probe[None]):
        made = create_torch_model_with_gridsize(1, 32, {"probe": given})[1]
        assert made.probe.shape == (1, 32, 32)
    assert create_torch_model_with_gridsize(2, 32)[1].config.gridsize == 2


@torch.no_grad()
def test_the_mask_confines_the_probe() -> None:
    made = pair(probe_mask=True)[1]
    axis = np.arange(32) - 15.5
    outside = np.hypot(axis[:, None], axis[None]) >= 8
    assert not made.probe[0].numpy()[outside].any()
    assert made.probe.abs().sum() > 0
