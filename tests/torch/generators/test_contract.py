"""What every generator owes, asked of each; and that adding one touches its own file alone."""

from __future__ import annotations

import dataclasses
import sys
import types
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from small import QUIET, small_config, small_scan

from ptycho_torch.config import ModelConfig, opt, validate
from ptycho_torch.errors import ConfigError
from ptycho_torch.generators import Generator, Proposal, available, build, generator_class, register
from ptycho_torch.generators import base as contract
from ptycho_torch.model import build_pair, default_probe
from ptycho_torch.reconstruction import reconstruct
from ptycho_torch.training.run import fit

OWN = sorted(set(available()) & {"unrolled", "cnn"})


def small(name: str, **changes: Any) -> ModelConfig:
    return ModelConfig(
        **{
            "N": 64,
            "architecture": name,
            "unrolled_width": 8,
            "unrolled_levels": 1,
            "unrolled_iterations": 1,
            **changes,
        }
    )


def group(gridsize: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(2, gridsize**2, 64, 64, generator=draw)
    offsets = torch.randn(2, gridsize**2, 1, 2, generator=draw) * 3
    return x, offsets - offsets.mean(1, keepdim=True)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("gridsize", [1, 2])
@torch.no_grad()
def test_proposals_have_the_contracts_shapes(name: str, gridsize: int) -> None:
    x, offsets = group(gridsize)
    made = build(small(name, gridsize=gridsize))
    proposal = made.propose(x, offsets, torch.from_numpy(default_probe(64)))
    assert proposal.patches.shape == x.shape
    assert proposal.object.shape[1] in (1, gridsize**2)
    assert proposal.patches.dtype == torch.complex64
    trust = made.trust()
    assert trust is None or trust.shape == (64, 64)
    assert made.trusts_all(made.config) == (trust is None or bool(trust.all()))
    assert made.headroom(made.config) >= 1
    assert type(made.options) is made.Options


@pytest.mark.parametrize("name", OWN)
@torch.no_grad()
def test_the_sign_of_offsets_is_turned_at_the_edge_alone(name: str) -> None:
    """Inside, offsets are member minus mean for every generator; a model's callers give its own sign."""
    x, offsets = group(2)
    to_object = build_pair(small(name, gridsize=2), default_probe(64), 3.0)[1]
    inside = to_object.core.propose(x, offsets).object
    torch.testing.assert_close(to_object(3 * x, to_object.core.offset_sign * offsets), inside)
    assert not torch.allclose(to_object(3 * x, -to_object.core.offset_sign * offsets), inside)


@pytest.mark.parametrize("name", OWN)
def test_options_are_fields_of_the_model_with_help_and_range(name: str) -> None:
    options = generator_class(small(name)).Options
    model = {f.name: f for f in dataclasses.fields(ModelConfig)}
    for item in dataclasses.fields(options):
        assert item.metadata["help"].startswith(f"{name}: ")
        assert model[item.name] is item or model[item.name].metadata == item.metadata


# ---------------------------------------------------------------- one more


@dataclasses.dataclass
class FlatOptions:
    level: float = opt(1.0, "amplitude of what is proposed", gt=0)
    tries: int | None = opt(None, "unused", ge=1)


class Flat(Generator):
    """Proposes a constant and one learned number."""

    Options = FlatOptions
    options: FlatOptions

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.level = torch.nn.Parameter(torch.tensor(self.options.level))

    def propose(self, x: torch.Tensor, *_: Any, **__: Any) -> Proposal:
        patches = (self.level * torch.ones_like(x)).to(torch.complex64)
        return Proposal(patches, patches)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a generator that another distribution brings."""
    from ptycho_torch import generators

    name = "flat"
    module = types.ModuleType("another_distribution")
    point = EntryPoint(name, "another_distribution", "ptychopinn.generators")
    monkeypatch.setitem(sys.modules, "another_distribution", module)
    monkeypatch.setitem(generators._REGISTRY._items, name, Flat)
    monkeypatch.setattr(generators._REGISTRY, "_others", {name: [point]})
    return name


def test_an_installed_generator_trains_and_reconstructs(added: str) -> None:
    assert added in available()
    scan, config = small_scan(), small_config(architecture=added, max_steps=2)
    config.model.generator_options = "level=0.5"
    trained = fit(scan, config, QUIET)
    learned = trained.autoencoder.core.generator
    assert isinstance(learned, Flat)
    assert 0 < abs(float(learned.level) - 0.5) < 0.1
    rec = reconstruct(trained.diffraction_to_obj, scan)
    lit = abs(rec.object[rec.measured(0.3)])
    assert lit.mean() == pytest.approx(float(learned.level), rel=1e-2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("level=-1", "above 0"),
        ("level=dark", "a number"),
        ("lvel=1", "'level'"),
        ("level", "name=value"),
        ("tries=0", "at least 1"),
    ],
)
def test_its_options_are_checked_like_all(added: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"generator_options|level|tries") as caught:
        build(ModelConfig(architecture=added, generator_options=text))
    assert said in str(caught.value)


def test_options_may_be_several(added: str) -> None:
    config = ModelConfig(architecture=added, generator_options=" level = 2 , tries=none ")
    validate(config)
    assert contract.options_of(config, FlatOptions) == FlatOptions(level=2.0)


def test_a_name_that_is_taken_and_a_class_that_is_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="cnn"):
        register("cnn")(Flat)
    with pytest.raises(ConfigError, match="subclass of Generator"):
        register("none")(torch.nn.Linear)  # type: ignore[type-var]
