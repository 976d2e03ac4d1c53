"""Bundles written by earlier versions of this format keep loading and give what they gave."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptycho_torch.bundle import verify_bundle
from ptycho_torch.model_manager import load_torch_bundle

OLD = sorted((Path(__file__).parents[2] / "data").glob("bundle_v*_*.zip"))


def test_there_is_one_of_each() -> None:
    assert {p.name for p in OLD} >= {
        "bundle_v1_unrolled.zip",
        "bundle_v1_unrolled_region.zip",
        "bundle_v1_unrolled_settling.zip",
        "bundle_v1_cnn.zip",
    }


@pytest.mark.parametrize("path", OLD, ids=lambda p: p.stem)
def test_old_bundles_load_and_give_the_same(path: Path) -> None:
    for name in ("autoencoder", "diffraction_to_obj"):
        module, params = load_torch_bundle(path, name)
        assert not module.training
        assert params["architecture"] in path.stem
    assert [c.status for c in verify_bundle(path).checks] == ["passed", "passed"]
