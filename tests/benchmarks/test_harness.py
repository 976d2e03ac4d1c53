from __future__ import annotations

from dataclasses import dataclass

import pytest

import harness


@dataclass
class Run:
    signal: int | None = None

    @property
    def interrupted(self) -> bool:
        return self.signal is not None


def test_a_run_that_a_signal_cut_short_is_no_result() -> None:
    assert harness.whole(run := Run()) is run  # type: ignore[arg-type, comparison-overlap]
    with pytest.raises(SystemExit, match="signal 15"):
        harness.whole(Run(15))  # type: ignore[arg-type]


def test_means_and_spread_over_seeds() -> None:
    rows = [
        {"step": 3, "way": w, "error": e, "seconds": 2 * e} for w, e in (("a", 1.0), ("b", 5.0), ("a", 3.0))
    ]
    assert harness.over_seeds(rows, ("step", "way"), ("error", "seconds")) == [
        {"step": 3, "way": "a", "seeds": 2, "error": 2.0, "seconds": 4.0, "spread": pytest.approx(2**0.5)},
        {"step": 3, "way": "b", "seeds": 1, "error": 5.0, "seconds": 10.0, "spread": 0.0},
    ]
