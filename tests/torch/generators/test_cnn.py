"""The ``cnn`` generator: shapes for every option, batches that do not matter, layouts that do not matter."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from ptycho_torch.config import ModelConfig
from ptycho_torch.errors import PtychoError
from ptycho_torch.generators.cnn import CnnGenerator
from ptycho_torch.model import build_pair, default_probe

OPTIONS = [
    {"object_big": big, "probe_big": probe, "pad_object": pad}
    for big, probe, pad in itertools.product((True, False), repeat=3)
]


def made(**options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    config = ModelConfig(**{"N": 64, "architecture": "cnn", **options})
    pair = build_pair(config, default_probe(config.N), 20.0)
    return pair[0].eval(), pair[1].eval()


def batch(count: int, gridsize: int, size: int = 64, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, gridsize**2, size, size, generator=generator) * 20
    offsets = torch.randn(count, gridsize**2, 1, 2, generator=generator) * (gridsize > 1)
    return x, offsets - offsets.mean(1, keepdim=True)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("gridsize", [1, 2])
@torch.inference_mode()
def test_shapes_and_values(options: dict[str, Any], gridsize: int) -> None:
    autoencoder, to_object = made(gridsize=gridsize, **options)
    x, offsets = batch(2, gridsize)
    obj, amplitude, intensity = autoencoder(x, offsets)
    assert obj.dtype == torch.complex64
    assert obj.shape == (2, 1, 64, 64)
    assert amplitude.shape == intensity.shape == x.shape
    assert torch.isfinite(torch.view_as_real(obj)).all()
    assert torch.equal(intensity, amplitude.square())
    assert torch.equal(to_object(x, offsets), obj)


@pytest.mark.parametrize("size", [64, 128, 256])
@torch.inference_mode()
def test_sizes(size: int) -> None:
    _, to_object = made(N=size)
    assert to_object(*batch(1, 1, size)).shape == (1, 1, size, size)


@pytest.mark.parametrize("size", [32, 96, 512])
def test_sizes_that_the_program_does_not_have_are_refused(size: int) -> None:
    with pytest.raises(PtychoError, match="64"):
        made(N=size)


@pytest.mark.parametrize("activation", ["sigmoid", "swish", "softplus", "relu"])
@torch.inference_mode()
def test_activations(activation: str) -> None:
    _, to_object = made(amp_activation=activation, probe_big=False)
    amplitude = to_object(*batch(2, 1)).abs()
    assert torch.isfinite(amplitude).all()
    if activation == "sigmoid":
        assert amplitude.max() <= 1


@pytest.mark.parametrize("gridsize", [1, 2])
@torch.inference_mode()
def test_groups_do_not_know_of_each_other(gridsize: int) -> None:
    _, to_object = made(gridsize=gridsize)
    x, offsets = batch(70, gridsize)
    together = to_object(x, offsets)
    alone = torch.cat([to_object(x[i : i + 1], offsets[i : i + 1]) for i in (0, 13, 69)])
    assert len(together) == 70
    assert torch.allclose(together[[0, 13, 69]], alone, atol=1e-5)


@torch.inference_mode()
def test_memory_layout_changes_nothing() -> None:
    _, to_object = made()
    x, offsets = batch(3, 1)
    before = to_object(x, offsets)
    for module in to_object.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(to_object(x, offsets), before, atol=1e-5)


@torch.inference_mode()
def test_bf16_is_close_and_keeps_the_type() -> None:
    _, to_object = made()
    x, offsets = batch(2, 1)
    before = to_object(x, offsets)
    to_object.core.generator.bf16 = True
    after = to_object(x, offsets)
    assert after.dtype == torch.complex64
    assert (after - before).abs().max() < 0.05 * before.abs().max()


def test_gradients_reach_every_weight() -> None:
    autoencoder, _ = made(gridsize=2)
    autoencoder.train()
    x, offsets = batch(2, 2)
    autoencoder.core.generator.requires_grad_(True)
    _, amplitude, _ = autoencoder(x, offsets)
    (amplitude - x).abs().mean().backward()
    without = [n for n, p in autoencoder.core.generator.named_parameters() if p.grad is None]
    assert without == []


def test_the_class_is_the_registered_one() -> None:
    assert isinstance(made()[0].core.generator, CnnGenerator)
