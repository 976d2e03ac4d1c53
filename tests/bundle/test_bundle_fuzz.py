"""A short run of benchmarks/fuzz_bundle.py: mutated bundles raise nothing but BundleError and take little memory."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


def _fuzz() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "fuzz_bundle.py"
    spec = importlib.util.spec_from_file_location("fuzz_bundle", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mutated_bundles() -> None:
    result = _fuzz().fuzz(seconds=200, seed=1, most=500)
    assert result["failures"] == []
    assert result["inputs"] == 500
    assert result["accepted"] > 10
    assert 0 < result["largest_growth_mib"] <= 64


def test_growth_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _fuzz()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "ALLOWED", -(1 << 40))
    result = module.fuzz(seconds=10, seed=1, most=1)
    assert len(result["failures"]) == 1
    assert "grew by" in result["failures"][0]
