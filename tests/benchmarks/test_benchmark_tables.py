"""README.md says what the files say, and each file says how to repeat it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tables

RECORD = {
    "command": "python thing.py --minutes 1",
    "date": "2026-01-02",
    "seed": 7,
    "machine": {"cpu": "a CPU", "cores": 2, "gpu": None, "python": "3.11.7", "versions": {"torch": "2.13.0"}},
    "results": {"rows": [{"case": "a|b", "ssim": 0.98765, "note": None}, {"case": "c", "frames": 12}]},
}


def write(folder: Path, name: str = "thing", **changes: Any) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({k: v for k, v in {**RECORD, **changes}.items() if v != "drop"}))
    return path


def test_the_document_holds_command_machine_and_rows(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "another", results=[{"x": 1}])
    for name in ("thing", "another", "unrun"):
        (tmp_path / f"{name}.py").write_text(
            '"""What ``it`` measures.\n\nMore."""\nif __name__ == "__main__":\n    0\n'
        )
    (tmp_path / "helper.py").write_text('"""No benchmark."""\n')
    text = tables.document(tmp_path, tmp_path)
    assert text.index("## another.py\n") < text.index("## thing.py\n")
    assert "helper" not in text
    assert text.endswith("## unrun.py\n\nWhat `it` measures.\n\nMore.\n\nNo results are kept.\n")
    assert "\n\nWhat `it` measures.\n\nMore.\n\n`python thing.py --minutes 1`, 2026-01-02, seed 7. " in text
    assert "a CPU, 2 cores; no GPU; Python 3.11.7; torch 2.13.0." in text
    assert (
        "| case | ssim | note | frames |\n| --- | --- | --- | --- |\n"
        "| a\\|b | 0.9877 |  |  |\n| c |  |  | 12 |\n\n## unrun" in text
    )


def test_runs_with_several_seeds_become_mean_and_spread() -> None:
    rows = [{"loss": "mae", "seed": s, "ssim": v, "on": "cpu"} for s, v in enumerate((0.9, 0.92, 0.94))]
    rows += [{"loss": "poisson", "seed": 0, "ssim": 0.5, "on": "cpu"}]
    assert tables.spread(rows, ["loss"]) == [
        {"loss": "mae", "ssim": "0.92 ± 0.02", "on": "cpu", "runs": 3},
        {"loss": "poisson", "ssim": 0.5, "on": "cpu", "runs": 1},
    ]
    assert tables.spread(rows, []) == rows


def test_one_column_can_go_across() -> None:
    rows = [{"step": s, "way": w, "error": f"{s} {w}", "seconds": 1} for s in (3, 6) for w in ("a", "b")][:3]
    assert tables.across(rows, "step", "way", "error") == [
        {"step": 3, "a": "3 a", "b": "3 b"},
        {"step": 6, "a": "6 a"},
    ]


def test_results_of_no_script_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "lost-part")
    with pytest.raises(SystemExit, match=r"lost-part.json: expected the name of a script"):
        tables.document(tmp_path, tmp_path)


@pytest.mark.parametrize("key", ["command", "seed", "machine", "date"])
def test_a_file_that_cannot_be_repeated_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(SystemExit, match=rf"thing.json: expected {key}"):
        tables.read(write(tmp_path, **{key: "drop"}))


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="expected at least one row"):
        tables.read(write(tmp_path, results={"rows": []}))


def test_what_is_committed_is_what_the_files_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["tables.py", "--check"])
    tables.main()
    monkeypatch.setattr(tables, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    write(tmp_path / "results")
    (tmp_path / "thing.py").write_text('"""A thing."""\nif __name__ == "__main__":\n    0\n')
    with pytest.raises(SystemExit, match="differs from what the files"):
        tables.main()
    monkeypatch.setattr("sys.argv", ["tables.py"])
    tables.main()
    monkeypatch.setattr("sys.argv", ["tables.py", "--check"])
    tables.main()
    assert "seed 7" in (tmp_path / "README.md").read_text()
