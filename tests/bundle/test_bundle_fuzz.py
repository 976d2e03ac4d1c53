"""A short run of benchmarks/fuzz_bundle.py: mutated bundles raise nothing but BundleError."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_mutated_bundles() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "fuzz_bundle.py"
    spec = importlib.util.spec_from_file_location("fuzz_bundle", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = module.fuzz(seconds=30, seed=1, most=500)
    assert result["failures"] == []
    assert result["inputs"] == 500
    assert result["accepted"] > 10
