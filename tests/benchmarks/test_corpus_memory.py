from __future__ import annotations

import importlib.util
from pathlib import Path


def test_growth_is_held_against_the_file(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "corpus_memory.py"
    spec = importlib.util.spec_from_file_location("corpus_memory", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "wts.h5.zip").write_bytes(bytes(3 << 20))
    case = {"name": "a", "path": str(tmp_path / "wts.h5.zip"), "got": "load"}
    assert module.judge([{**case, "growth": 76}, {**case, "growth": 3}]) == ([], "largest growth 76 MiB: a")
    bad, _ = module.judge(
        [{**case, "growth": 77}, {**case, "got": "hang"}, {**case, "path": str(tmp_path), "growth": 76}]
    )
    assert bad == ["a: grew by 77 MiB, 76 MiB are allowed", "a: not measured (hang)"]
