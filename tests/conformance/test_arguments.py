"""Configuration and measurements by the older program's names and arguments; no torch needed."""

from __future__ import annotations

import dataclasses
import pickle
import warnings

import numpy as np
import pytest

from ptycho.config.config import InferenceConfig, TrainingConfig, validate_training_config
from ptycho.raw_data import RawData
from ptycho_torch.config import config_fields, from_dict, to_dict
from ptycho_torch.errors import ScanError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("cls", [TrainingConfig, InferenceConfig])
def test_n_images_is_n_groups_and_warns(cls: type) -> None:
    with pytest.warns(DeprecationWarning, match="n_groups") as caught:
        config = cls(n_images=12)
    assert caught[0].filename == __file__
    assert config.n_groups == 12
    with pytest.warns(DeprecationWarning, match="n_images"):
        assert cls(n_images=12, n_groups=5).n_groups == 5
    assert "n_images" not in config_fields(cls)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cls(n_groups=5).n_groups == 5
        for copy in (
            dataclasses.replace(config),
            pickle.loads(pickle.dumps(config)),
            from_dict(cls, to_dict(config)),
        ):
            assert copy == config


def test_whole_floats_are_accepted_where_a_configuration_is_used() -> None:
    config = TrainingConfig(batch_size=16.0, n_groups=np.float32(4))  # type: ignore[arg-type]
    config.model.n_filters_scale = 1.0  # type: ignore[assignment]
    with pytest.raises(ValueError, match="n_groups"):
        validate_training_config(dataclasses.replace(config, n_groups=1.5))  # type: ignore[arg-type]
    config.n_groups = 4
    validate_training_config(config)
    assert (type(config.batch_size), type(config.model.n_filters_scale)) == (int, int)


def arrays(count: int = 5) -> dict[str, np.ndarray]:
    return {
        "xcoords": RNG.random(count) * 20,
        "ycoords": RNG.random(count) * 20,
        "xcoords_start": RNG.random(count) * 20,
        "ycoords_start": RNG.random(count) * 20,
        "diff3d": RNG.random((count, 16, 16), np.float32),
        "probeGuess": np.ones((16, 16), complex),
        "scan_index": np.zeros(count, int),
        "objectGuess": np.ones((40, 40), complex),
    }


def test_raw_data_is_made_of_arrays_by_name_and_in_order() -> None:
    given = arrays()
    for raw in (RawData(**given), RawData(*given.values())):
        for name, value in given.items():
            assert np.allclose(getattr(raw, name), value), name
        assert np.array_equal(raw.scan.positions, np.stack([given["xcoords"], given["ycoords"]], -1))
        groups = raw.generate_grouped_data(16, gridsize=1)
        assert np.allclose(groups["coords_start_offsets"][:, 0, 0, 0], given["xcoords_start"])
        assert np.allclose(groups["coords_offsets"][:, 0, 1, 0], given["ycoords"])
    raw = RawData(
        given["xcoords"], given["ycoords"], diff3d=given["diff3d"], Y=1, norm_Y_I=2, metadata={"a": 3}
    )
    assert (raw.Y, raw.norm_Y_I, raw.metadata) == (1, 2, {"a": 3})
    assert np.array_equal(raw.xcoords_start, raw.xcoords)
    assert raw.probeGuess is None
    same = RawData.from_coords_without_pc(
        *(given[k] for k in ("xcoords", "ycoords", "diff3d", "probeGuess")), None
    )
    assert same.scan.positions_start is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ycoords", np.zeros(3)),
        ("xcoords", None),
        ("ycoords_start", np.zeros(3)),
        ("ycoords_start", None),
        ("diff3d", None),
        ("diff3d", np.zeros((5, 16))),
        ("probeGuess", np.ones((8, 8))),
        ("objectGuess", np.ones(3)),
    ],
)
def test_arrays_that_do_not_fit_are_named(name: str, value: np.ndarray | None) -> None:
    named = {"objectGuess": "object_guess"}.get(name, name)
    with pytest.raises(ScanError, match=named):
        RawData(**{**arrays(), name: value})
