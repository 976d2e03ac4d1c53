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
