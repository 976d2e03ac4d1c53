"""The flat dictionary of the older program."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from ptycho_torch.compat.parameters import (
    KEY_MAPPINGS,
    dataclass_to_legacy_dict,
    model_config_from_legacy,
    update_legacy_dict,
)
from ptycho_torch.config import ModelConfig, TrainingConfig
from ptycho_torch.errors import ConfigError


def test_keys_are_those_of_the_older_program() -> None:
    flat = dataclass_to_legacy_dict(TrainingConfig(output_dir=Path("out")))
    assert flat["object.big"] is True
    assert flat["probe.trainable"] is True
    assert flat["intensity_scale.trainable"] is True
    assert flat["output_prefix"] == "out"
    assert flat["N"] == 64
    assert not set(KEY_MAPPINGS) & set(flat)


def test_the_model_comes_back_from_it() -> None:
    config = ModelConfig(N=128, gridsize=2, architecture="cnn", object_big=False, amp_activation="swish")
    assert model_config_from_legacy(dataclass_to_legacy_dict(config)) == config
    assert model_config_from_legacy({}) == ModelConfig()
    with pytest.raises(ConfigError, match="params: "):
        model_config_from_legacy({"N": "big"})


def test_unset_fields_leave_old_values_alone() -> None:
    target = {"n_groups": 5, "probe": "an array", "other": 1}
    update_legacy_dict(target, TrainingConfig())
    assert target["n_groups"] == 5
    assert target["probe"] == "an array"
    assert target["other"] == 1
    update_legacy_dict(target, TrainingConfig(n_groups=7))
    assert target["n_groups"] == 7


def test_configurations_can_be_pickled() -> None:
    config = TrainingConfig(model=ModelConfig(N=128))
    assert pickle.loads(pickle.dumps(config)) == config
