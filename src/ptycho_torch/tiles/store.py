"""The state of a run in pieces: one file a piece, each written whole or not at all, so that it is done or is not.

    FOLDER/plan.json                    what the run is of
    FOLDER/STAGE/end.npz                a stage that is over, and what all pieces need to know of it
    FOLDER/STAGE/00012.npz              a piece of it

A stage ends for all processes together; within it they wait for nobody.
"""

from __future__ import annotations

import io
import json
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError, printable
from ptycho_torch.files import write_bytes_atomic, write_text_atomic

__all__ = ["Store"]

_PLAN: Final = "plan.json"
_FORMAT: Final = "ptychopinn-tiles-1"
_RECENT: Final = 12
"""Pieces that are kept once read: a cell and its neighbours."""

Arrays = dict[str, NDArray[Any]]


class Store:
    """A folder with the pieces of a run.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._recent: OrderedDict[Path, Arrays] = OrderedDict()

    # ---- what the run is of

    def begin(self, plan: dict[str, Any]) -> None:
        """Make the folder anew and say what the run is of."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        write_text_atomic(self.folder / _PLAN, json.dumps({"format": _FORMAT, **plan}, indent=2, default=str))

    def plan(self) -> dict[str, Any] | None:
        """Return what the run is of; None where there is none.

        Raises
        ------
        DataError
            When the file is of something else.
        """
        path = self.folder / _PLAN
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read: {printable(error)}; remove {self.folder}") from error
        if not isinstance(found, dict) or found.pop("format", None) != _FORMAT:
            raise DataError(f"{path}: expected the state of a reconstruction; remove {self.folder}")
        return found

    def check_same(self, plan: dict[str, Any]) -> None:
        """Refuse to go on with a run of another scan or with other settings. Raises :class:`DataError`."""
        said, wanted = self.plan() or {}, json.loads(json.dumps(plan, default=str))
        for name in wanted:
            if said.get(name) != wanted[name]:
                raise DataError(
                    f"{name}: expected {printable(said.get(name))}, what the run in {self.folder} is of, found"
                    f" {printable(wanted[name])}; leave out --resume and remove that folder to begin anew"
                )

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- pieces

    def path(self, stage: str, piece: int | str) -> Path:
        """Return the file of a piece."""
        return self.folder / stage / (f"{piece:05d}.npz" if isinstance(piece, int) else f"{piece}.npz")

    def has(self, stage: str, piece: int | str = "end") -> bool:
        """Return whether a piece is done; without one, whether the stage is over."""
        return self.path(stage, piece).is_file()

    def missing(self, stage: str, pieces: list[int]) -> list[int]:
        """Return the pieces that are still to do."""
        return [piece for piece in pieces if not self.has(stage, piece)]

    def put(self, stage: str, piece: int | str, **arrays: Any) -> None:
        """Write what a piece came to. Raises :class:`~ptycho_torch.errors.OutputError`."""
        path, text = self.path(stage, piece), io.BytesIO()
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(text, **arrays)
        write_bytes_atomic(path, text.getvalue())

    def get(self, stage: str, piece: int | str = "end") -> Arrays:
        """Read a piece. Raises :class:`DataError` when it cannot be read."""
        path = self.path(stage, piece)
        if path in self._recent:
            self._recent.move_to_end(path)
            return self._recent[path]
        try:
            with np.load(path, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DataError(
                f"{path}: cannot be read: {printable(error)}; remove {self.folder} and begin anew"
            ) from error
        self._recent[path] = arrays
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        return arrays

    def drop(self, stage: str) -> None:
        """Remove a stage that nothing needs any more."""
        for path in [path for path in self._recent if path.parent.name == stage]:
            del self._recent[path]
        shutil.rmtree(self.folder / stage, ignore_errors=True)
