"""Runs the notebooks and keeps what they print and draw: `make notebooks`, or `python
docs/tools/notebooks.py NAME...`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


def run(path: Path, folder: Path | None = None) -> nbformat.NotebookNode:
    """The notebook with fresh outputs; it works in ``folder``, or in one of its own.

    Raises :class:`nbclient.exceptions.CellExecutionError` when a cell fails.
    """
    with tempfile.TemporaryDirectory() as own:
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(
            notebook,
            timeout=280,
            startup_timeout=200,
            resources={"metadata": {"path": str(folder or own)}},
            record_timing=False,
        )
        client.execute()
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    for name in names:
        path, began = FOLDER / f"{name}.ipynb", time.monotonic()
        done = run(path)
        nbformat.write(done, path)
        print(f"{name}: {time.monotonic() - began:.0f} s, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
