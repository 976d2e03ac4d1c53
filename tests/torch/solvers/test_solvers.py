"""What every solver owes, run over those that are there."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from test_epie import SCAN, truth

from ptycho_torch.errors import ConfigError, DataError, DependencyError
from ptycho_torch.evaluation import evaluate
from ptycho_torch.solvers import SOLVERS, EngineOptions, RefineOptions, Solver
from ptycho_torch.solvers.residual import residual
from ptycho_torch.solvers.start import flat_start

ITERATIVE = [name for name in SOLVERS.names() if name != "learned"]
"""The learned solver needs weights; test_learned.py has it."""


def solver(name: str) -> Solver:
    try:
        return SOLVERS.get(name)()
    except DependencyError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ITERATIVE)
def test_a_solver_starts_from_nothing(name: str) -> None:
    made = solver(name)
    done = made.solve(SCAN, options=made.Options(sweeps=30))
    assert (done.solver, done.sweeps) == (name, 30)
    assert evaluate(done, SCAN.object_guess)["complex_correlation"] > 0.95
    assert residual(done, SCAN) < 0.1 * residual(flat_start(SCAN), SCAN)
    assert done.provenance["scan"]["frames"] == SCAN.n_frames


@pytest.mark.parametrize("name", ITERATIVE)
def test_a_start_stays_as_it_was_and_its_canvas_is_kept(name: str) -> None:
    made, begun = solver(name), truth()
    begun.weight[:3] = 0
    kept = {key: np.array(getattr(begun, key)) for key in ("object", "probe", "positions", "weight")}
    done = made.solve(SCAN, begun, made.Options(sweeps=2, update_positions=True))
    for key, value in kept.items():
        np.testing.assert_array_equal(getattr(begun, key), value)
    assert done.object.shape == begun.object.shape
    assert not done.object[:3].any()
    assert done.residual_withheld is None


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize("exposure", [1.0, 7.0])
def test_the_result_predicts_the_scans_own_counts(name: str, exposure: float) -> None:
    """Whatever unit the start's probe was in."""
    made, scan = solver(name), dataclasses.replace(SCAN, frames=SCAN.frames * np.float32(exposure))
    done = made.solve(scan, truth(), made.Options(sweeps=2, update_probe=False))
    power = float(np.mean(np.sum(np.square(scan.frames, dtype=np.float64), axis=(1, 2))))
    assert float(np.sum(np.abs(done.probe) ** 2)) == pytest.approx(power, rel=1e-3)
    assert residual(done, scan) < 1e-3


def test_options_are_checked() -> None:
    made = SOLVERS.get("epie")()
    with pytest.raises(ConfigError, match="sweeps: expected a value at least 1"):
        made.solve(SCAN, options=RefineOptions(sweeps=0))
    with pytest.raises(ConfigError, match="expected RefineOptions, found EngineOptions"):
        made.solve(SCAN, options=EngineOptions())


def test_a_scan_without_a_probe_says_so() -> None:
    with pytest.raises(DataError, match="no probe guess to start from; give one"):
        SOLVERS.get("epie")().solve(dataclasses.replace(SCAN, probe=None))


def test_defaults_depend_on_the_start() -> None:
    flat, known = RefineOptions().resolved(flat=True), RefineOptions().resolved(flat=False)
    assert (flat.step, flat.probe_step, flat.probe_after, flat.positions_after) == (1.0, 1.0, 1, 5)
    assert (known.step, known.probe_step, known.probe_after, known.positions_after) == (0.5, 0.5, 0, 1)
    given = RefineOptions(step=0.3, probe_after=0, positions_after=0).resolved(flat=True)
    assert (given.step, given.probe_step, given.probe_after, given.positions_after) == (0.3, 0.3, 0, 0)


def test_names_and_options_need_no_torch() -> None:
    code = (
        "import sys, ptycho_torch.solvers as s; assert s.SOLVERS.names(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
