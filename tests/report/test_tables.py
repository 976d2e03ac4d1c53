from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.report.tables import history_csv, json_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(VALUES)
def test_plain_values_come_back(value: object) -> None:
    assert json.loads(json_text(value)) == value


def test_what_json_does_not_know() -> None:
    @dataclass
    class Thing:
        where: Path
        size: tuple[int, int]

    value = {
        "n": np.float32(0.5),
        "a": np.arange(4).reshape(2, 2),
        "inf": float("inf"),
        "nan": np.float64("nan"),
        "t": Thing(Path("a/b"), (1, 2)),
        3: np.bool_(True),
    }
    assert json.loads(json_text(value)) == {
        "n": 0.5,
        "a": [[0, 1], [2, 3]],
        "inf": None,
        "nan": None,
        "t": {"where": "a/b", "size": [1, 2]},
        "3": True,
    }
    with pytest.raises(TypeError, match="found object"):
        json_text({"a": object()})


def test_history() -> None:
    text = history_csv([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "val_loss": 0.3}])
    assert text.splitlines() == ["epoch,loss,val_loss", "1,0.5,", "2,0.25,0.3"]
    assert [row["epoch"] for row in csv.DictReader(io.StringIO(text))] == ["1", "2"]
    assert history_csv([]) == "\n"


def test_json_is_plain_text_that_gives_back_what_went_in() -> None:
    odd = "größe\x1b[0m\x9b\u202e\udce9\x7f"
    text = json_text({odd: odd})
    assert text.replace("\n", "").isprintable()
    assert text.isascii()
    assert json.loads(text) == {odd: odd}
