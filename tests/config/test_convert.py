"""Configuration: one declaration checks what comes from Python, YAML and the command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.config import (
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
    config_fields,
    from_dict,
    load_yaml,
    set_field,
    to_dict,
    to_yaml,
    validate,
)
from ptycho_torch.errors import ConfigError, PtychoError

CLASSES = (ModelConfig, TrainingConfig, InferenceConfig, ExecutionConfig)


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_are_valid_and_documented(cls: type) -> None:
    validate(cls())
    for name, (_, item) in config_fields(cls).items():
        assert item.metadata.get("help"), name


@pytest.mark.parametrize("cls", CLASSES)
def test_yaml_round_trip(cls: type, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(to_yaml(cls()))
    assert load_yaml(cls, tmp_path / "c.yaml") == cls()


@given(
    st.integers(1, 8),
    st.floats(1e-6, 1.0),
    st.one_of(st.none(), st.floats(0.1, 1e3)),
    st.booleans(),
    st.sampled_from(["refine", "trainable", "fixed"]),
)
def test_any_values_survive_a_dict(
    gridsize: int, rate: float, minutes: float | None, overlap: bool, probe: str
) -> None:
    config = TrainingConfig(
        model=ModelConfig(gridsize=gridsize), learning_rate=rate, max_minutes=minutes, overlap=overlap
    )
    set_field(config, "probe", probe)
    assert from_dict(TrainingConfig, to_dict(config)) == config


def test_fields_are_mutable_and_unchecked_until_used() -> None:
    config = TrainingConfig()
    config.model.N = 0
    with pytest.raises(ConfigError, match=r"model\.N: .*at least 2.*found 0"):
        validate(config)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("model.N", 63, "multiple of 2"),
        ("model.N", 64.5, "an integer"),
        ("model.N", float("inf"), "an integer"),
        ("model.N", True, "an integer"),
        ("model.gridsize", "two", "an integer"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", float("nan"), "finite"),
        ("val_fraction", 0.9, "at most 0.5"),
        ("overlap", 1, "true or false"),
        ("overlap", "yes", "true or false"),
        ("probe", "refined", "'refine'"),
        ("nepochs", None, "an integer"),
    ],
)
def test_wrong_values_name_the_field_and_what_fits(name: str, value: object, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        set_field(TrainingConfig(), name, value)
    assert name.rsplit(".", 1)[-1] in str(caught.value)
    assert text in str(caught.value)
    assert isinstance(caught.value, PtychoError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("learnin_rate", "learning_rate"), ("model.gridsiz", "model.gridsize"), ("gridsize", "model.gridsize")],
)
def test_unknown_keys_are_refused_with_the_nearest(tmp_path: Path, wrong: str, near: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"{wrong}: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_yaml(TrainingConfig, path)
    assert str(path) in str(caught.value)
    assert wrong in str(caught.value)
    assert repr(near) in str(caught.value)


def test_yaml_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("nphotons: 1e6\nlearning_rate: 1e-3\n")
    config = load_yaml(TrainingConfig, tmp_path / "run.yaml")
    assert (config.nphotons, config.learning_rate) == (1e6, 1e-3)


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [", "42", "\x00"])
def test_files_that_are_no_mapping_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_yaml(TrainingConfig, path)
    with pytest.raises(ConfigError, match="no such"):
        load_yaml(TrainingConfig, tmp_path / "missing.yaml")


def test_later_sources_win() -> None:
    config = from_dict(TrainingConfig, {"model": {"N": 128}, "seed": 3})
    config = from_dict(TrainingConfig, {"model.gridsize": 2}, base=config)
    assert (config.model.N, config.model.gridsize, config.seed) == (128, 2, 3)


def test_paths_may_be_text() -> None:
    config = dataclasses.replace(TrainingConfig(), output_dir="somewhere")  # type: ignore[arg-type]
    validate(config)
    assert config.output_dir == Path("somewhere")
