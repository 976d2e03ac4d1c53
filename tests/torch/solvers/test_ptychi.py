"""Handing over to pty-chi; the engines themselves run where it can be imported."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_epie import SCAN, truth

from ptycho_torch.errors import ConfigError, DependencyError
from ptycho_torch.solvers.epie import residual
from ptycho_torch.solvers.ptychi import ENGINES, check_engine, refine_with_ptychi


def _has_ptychi() -> bool:
    try:
        check_engine("lsqml")
    except DependencyError:
        return False
    return True


needs_ptychi = pytest.mark.skipif(not _has_ptychi(), reason="pty-chi cannot be imported (extra 'iterative')")


def test_an_unknown_engine_is_refused_before_anything_is_imported() -> None:
    with pytest.raises(ConfigError, match="expected one of lsqml"):
        refine_with_ptychi(truth(), SCAN, engine="magic")


@pytest.mark.skipif(_has_ptychi(), reason="pty-chi is there")
def test_without_ptychi_the_extra_is_named() -> None:
    with pytest.raises(DependencyError, match=r"ptychopinn\[iterative\]"):
        refine_with_ptychi(truth(), SCAN, epochs=1)


@needs_ptychi
def test_the_truth_stays_the_truth() -> None:
    """Positions, units and canvas arrive as they are: nothing moves from a solution."""
    begun = truth()
    done = refine_with_ptychi(begun, SCAN, epochs=3, update_probe=False)
    # pty-chi shifts by Fourier phases, we by cubic interpolation: that is the difference left.
    assert residual(done, SCAN) < 1e-3
    assert done.object.shape == begun.object.shape
    assert done.info["refined_by"] == "pty-chi lsqml"


@needs_ptychi
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_each_engine_explains_the_frames_better(engine: str) -> None:
    seen: list[int] = []
    flat = dataclasses.replace(truth(), object=np.ones_like(truth().object))
    done = refine_with_ptychi(
        flat, SCAN, engine=engine, epochs=10, update_probe=False, progress=lambda e, _: seen.append(e)
    )
    assert seen == list(range(1, 11))
    assert residual(done, SCAN) < 0.5 * residual(flat, SCAN)
