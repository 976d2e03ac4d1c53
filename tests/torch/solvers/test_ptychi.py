"""Handing over to pty-chi; the engines themselves run where it can be imported."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_epie import SCAN, truth

from ptycho_torch.errors import ConfigError, DependencyError, TrainingError
from ptycho_torch.solvers import SOLVERS, EngineOptions
from ptycho_torch.solvers.residual import residual

ENGINES = ["dm", "lsqml", "ptychi-epie", "raar"]


def _has_ptychi() -> bool:
    try:
        SOLVERS.get("lsqml")()
    except DependencyError:
        return False
    return True


needs_ptychi = pytest.mark.skipif(not _has_ptychi(), reason="pty-chi cannot be imported (extra 'iterative')")


def test_solvers_have_names() -> None:
    assert set(SOLVERS.names()) >= {"epie", *ENGINES}
    assert [SOLVERS.get(name).name for name in ENGINES] == ENGINES  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="expected one of dm, epie"):
        SOLVERS.get("magic")


@pytest.mark.skipif(_has_ptychi(), reason="pty-chi is there")
@pytest.mark.parametrize("engine", ENGINES)
def test_without_ptychi_the_extra_is_named(engine: str) -> None:
    with pytest.raises(DependencyError, match=r"ptychopinn\[iterative\]"):
        SOLVERS.get(engine)()


@needs_ptychi
def test_the_truth_stays_the_truth() -> None:
    """Positions, units and canvas arrive as they are: nothing moves from a solution."""
    begun = truth()
    done = SOLVERS.get("lsqml")().solve(SCAN, begun, EngineOptions(sweeps=3, update_probe=False))
    assert residual(done, SCAN) < 1e-3
    assert done.object.shape == begun.object.shape
    assert done.solver == "lsqml"


@needs_ptychi
@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_explains_the_frames_better(engine: str) -> None:
    seen: list[int] = []
    flat = dataclasses.replace(truth(), object=np.ones_like(truth().object))
    options = EngineOptions(sweeps=10, update_probe=False)
    done = SOLVERS.get(engine)().solve(SCAN, flat, options, lambda sweep, _: seen.append(sweep))
    assert seen == list(range(1, 11))
    assert residual(done, SCAN) < 0.5 * residual(flat, SCAN)


@needs_ptychi
def test_raar_takes_the_probe_as_it_is() -> None:
    with pytest.raises(ConfigError, match=r"update_probe.*diverges"):
        SOLVERS.get("raar")().solve(SCAN, truth(), EngineOptions(sweeps=1, update_probe=True))
    begun = truth()
    done = SOLVERS.get("raar")().solve(SCAN, begun, SOLVERS.get("raar").Options(sweeps=2))
    given, kept = (rec.probe / np.linalg.norm(rec.probe) for rec in (begun, done))  # its power is a gauge
    np.testing.assert_allclose(kept, given, atol=1e-5 * np.abs(given).max())


@needs_ptychi
@pytest.mark.parametrize("engine", ENGINES)
def test_what_diverges_is_not_a_result(engine: str) -> None:
    broken = dataclasses.replace(truth(), object=np.full_like(truth().object, np.nan))
    with pytest.raises(TrainingError, match=f"{engine}: diverged within 2 epochs"):
        SOLVERS.get(engine)().solve(SCAN, broken, EngineOptions(sweeps=2, update_probe=False))
