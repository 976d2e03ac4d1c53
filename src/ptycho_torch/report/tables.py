"""Text that machines read: CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["history_csv", "json_text", "plain"]


def plain(value: Any) -> Any:
    """The value as JSON knows it: numpy numbers and arrays, dataclasses, paths and tuples are turned.

    Numbers that are not finite become None, for JSON has none. Raises TypeError for anything else.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise TypeError(f"expected a value that JSON can hold, found {type(value).__name__}")


def json_text(value: Any) -> str:
    """The value as indented JSON with a newline at the end; see :func:`plain`.

    Characters past ASCII are escaped: texts from files reach terminals this way, too.
    """
    return (
        json.dumps(plain(value), indent=2, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f")
        + "\n"
    )


def history_csv(history: Sequence[Mapping[str, Any]]) -> str:
    """One line per row, columns in the order in which they first appear; empty where a row has none."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return out.getvalue()
