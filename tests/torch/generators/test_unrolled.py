"""The unrolled generator against an independent float64 computation, and its symmetries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ptycho_torch.config import ModelConfig
from ptycho_torch.errors import ConfigError
from ptycho_torch.generators import available, build
from ptycho_torch.generators.unet import UNet
from ptycho_torch.physics.patches import region_size, sampling_matrices

SMALL = {"N": 16, "unrolled_width": 8, "unrolled_levels": 1, "unrolled_iterations": 3}


def make(seed: int = 0, fresh: bool = False, **changes: Any) -> Any:
    torch.manual_seed(seed)
    module = build(ModelConfig(**{**SMALL, **changes}))
    if not fresh:
        for parameter in module.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.05)
    return module.eval()


def data(members: int = 1, modes: int = 1, size: int = 16, batch: int = 2, seed: int = 1) -> Any:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, members, size, size, generator=g) * 2
    offsets = torch.rand(batch, members, 1, 2, generator=g) * 6 - 3
    offsets = offsets - offsets.mean(1, keepdim=True)
    probe = torch.randn(modes, size, size, dtype=torch.complex64, generator=g)
    return x, offsets, probe


def twin(
    x: np.ndarray, offsets: np.ndarray, probe: np.ndarray, steps: int, alpha: float, region: int
) -> np.ndarray:
    """The physics steps alone in float64 numpy, one group: x (C, N, N), offsets (C, 2) -> object (R, R)."""
    size = x.shape[-1]
    y, xs = (m.double().numpy() for m in sampling_matrices(torch.from_numpy(offsets), size, region))
    power = np.sum(np.abs(probe) ** 2, 0)
    light = sum(y[c].T @ power @ xs[c] for c in range(len(x))).clip(0)
    obj = np.ones((region, region), complex)
    for _ in range(steps):
        total = np.zeros_like(obj)
        for c in range(len(x)):
            waves = probe * (y[c] @ obj @ xs[c].T)
            field = np.fft.fftshift(np.fft.fft2(waves, axes=(-2, -1)), axes=(-2, -1)) / size
            modulus = np.sqrt(np.sum(np.abs(field) ** 2, 0) + 1e-12)
            new = np.fft.ifftshift(field * (x[c] / modulus), axes=(-2, -1))
            change = np.fft.ifft2(new, axes=(-2, -1)) * size - waves
            total += y[c].T @ np.sum(probe.conj() * change, 0) @ xs[c]
        obj = obj + total / (light + alpha * power.max())
    return obj


@pytest.mark.parametrize("modes", [1, 2])
def test_fresh_single_frames_are_the_physics_alone(modes: int) -> None:
    module = make(fresh=True)
    x, offsets, probe = data(modes=modes)
    with torch.no_grad():
        found = module.propose(x, offsets, probe).object
    for b in range(len(x)):
        expected = twin(x[b].double().numpy(), np.zeros((1, 2)), probe.numpy().astype(complex), 3, 0.05, 16)
        np.testing.assert_allclose(found[b, 0].numpy(), expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("physics_steps", [None, 2])
def test_fresh_groups_are_the_physics_alone(physics_steps: int | None) -> None:
    module = make(fresh=True, unrolled_physics_steps=physics_steps)
    x, offsets, probe = data(members=4)
    region = region_size(offsets, 16)
    with torch.no_grad():
        found = module.propose(x, offsets, probe, region=region).patches
    shifts = offsets[:, :, 0].double().numpy()
    for b in range(len(x)):
        steps = 3 * (physics_steps or 1)
        whole = twin(x[b].double().numpy(), shifts[b], probe.numpy().astype(complex), steps, 0.05, region)
        y, xs = (m.numpy() for m in sampling_matrices(torch.from_numpy(shifts[b]), 16, region))
        expected = np.stack([y[c] @ whole @ xs[c].T for c in range(4)])
        np.testing.assert_allclose(found[b].numpy(), expected, atol=5e-4 * np.abs(expected).max())


@torch.no_grad()
def test_order_of_members_does_not_matter() -> None:
    module = make()
    x, offsets, probe = data(members=4)
    order = torch.tensor([2, 0, 3, 1])
    a = module.propose(x, offsets, probe, region=32).patches
    b = module.propose(x[:, order], offsets[:, order], probe, region=32).patches
    torch.testing.assert_close(a[:, order], b, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_single_frame_does_not_know_where_it_is() -> None:
    module = make()
    x, offsets, probe = data()
    a = module.propose(x, offsets, probe).object
    b = module.propose(x, offsets + 11.3, probe).object
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@torch.no_grad()
def test_the_probes_global_phase_has_no_influence() -> None:
    module = make()
    x, offsets, probe = data()
    a = module.propose(x, offsets, probe).object
    b = module.propose(x, offsets, probe * np.exp(0.7j)).object
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_an_empty_mode_changes_nothing() -> None:
    module = make()
    x, offsets, probe = data()
    more = torch.cat([probe, torch.zeros_like(probe)])
    torch.testing.assert_close(
        module.propose(x, offsets, probe).object,
        module.propose(x, offsets, more).object,
        rtol=1e-4,
        atol=1e-5,
    )


@torch.no_grad()
def test_masked_pixels_are_not_looked_at() -> None:
    module = make()
    x, offsets, probe = data()
    mask = torch.ones(16, 16, dtype=torch.bool)
    torch.testing.assert_close(
        module.propose(x, offsets, probe, mask).object,
        module.propose(x, offsets, probe).object,
        rtol=1e-5,
        atol=1e-6,
    )
    mask[3:6, 9] = False
    spoiled = x.clone()
    spoiled[..., 3:6, 9] = 1e4
    a, b = (module.propose(v, offsets, probe, mask).object for v in (x, spoiled))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.allclose(a, module.propose(x, offsets, probe).object, atol=1e-3)


@pytest.mark.parametrize("size", [14, 16, 18, 22, 50])
@torch.no_grad()
def test_any_even_size(size: int) -> None:
    module = make(N=size)
    x, offsets, probe = data(members=2, size=size)
    found = module.propose(x, offsets, probe).patches
    assert found.shape == (2, 2, size, size)
    assert torch.isfinite(found.abs()).all()


@torch.no_grad()
def test_bf16_changes_little() -> None:
    module = make()
    x, offsets, probe = data()
    a = module.propose(x, offsets, probe).object
    module.bf16 = True
    b = module.propose(x, offsets, probe).object
    assert b.dtype == torch.complex64
    assert 0 < (a - b).abs().max() < 0.05 * a.abs().max()


def test_gradients_reach_every_parameter() -> None:
    module = make()
    x, offsets, probe = data(members=4)
    module.propose(x, offsets, probe).patches.abs().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())


@torch.no_grad()
def test_a_fresh_network_adds_nothing_for_any_size() -> None:
    net = UNet(3, 2, 8, 2)
    for height, width in ((16, 16), (18, 30), (2, 64)):
        out = net(torch.randn(1, 3, height, width))
        assert out.shape == (1, 2, height, width)
        assert not out.any()


def test_the_registry_names_what_it_has() -> None:
    assert {"cnn", "unrolled"} <= set(available())
    with pytest.raises(ConfigError, match=r"architecture: .*cnn.*unrolled.*'other'"):
        build(ModelConfig(architecture="other"))
