"""The notebooks run from the first cell to the last, and hold the pictures of such a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", DOCS / "tools/notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _outputs(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """Kinds of output of each cell of code; how often and in which order they come is chance."""
    return [
        sorted({key for output in cell.outputs for key in output.get("data", {output.get("name", ""): ""})})
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_what_is_kept_in_it(path: Path, tool: ModuleType, tmp_path: Path) -> None:
    kept = nbformat.read(path, as_version=4)
    done = tool.run(path, tmp_path)
    assert _outputs(done) == _outputs(kept), "run `make notebooks`"
    assert sum("image/jpeg" in kinds for kinds in _outputs(kept)) >= 1
    assert path.stat().st_size < 400_000


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 5
