"""Does a bundle still give what was saved? First integrity, then the self-test."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from ptycho_torch.bundle.container.sidecar import SIDECAR, read_self_test
from ptycho_torch.bundle.contents import Bundle, read_bundle
from ptycho_torch.bundle.scale import LOG_SCALE, agree
from ptycho_torch.bundle.tensors import Weights
from ptycho_torch.errors import BundleError, DependencyError
from ptycho_torch.files.memory import memory_limit, shown_bytes

__all__ = ["Check", "VerifyReport", "verify_bundle"]

_LARGEST_LOG: Final = 88.0
"""exp of more than this is no float32."""


@dataclass(frozen=True)
class Check:
    """One line of the report. ``absent``: there was nothing to check, which is no failure."""

    name: Literal["integrity", "self-test"]
    status: Literal["passed", "failed", "absent"]
    text: str


@dataclass(frozen=True)
class VerifyReport:
    """The checks in order. ``exit_status``: 0 good, 3 integrity failed, 4 self-test failed."""

    path: str
    checks: tuple[Check, ...]

    @property
    def exit_status(self) -> int:
        failed = [check.name for check in self.checks if check.status == "failed"]
        return 0 if not failed else 3 if "integrity" in failed else 4

    def as_dict(self) -> dict[str, object]:
        """The report for ``json.dumps``."""
        return {
            "path": self.path,
            "exit_status": self.exit_status,
            "checks": [vars(check) for check in self.checks],
        }


def verify_bundle(base_path: str | os.PathLike[str]) -> VerifyReport:
    """Check a bundle and report; what is wrong with it is in the report, not raised.

    Integrity: container, checksums, manifest, params, every weight. Self-test: the model is rebuilt, run
    on the stored frames, and its output compared with the stored one; the difference allowed is stored
    with it. Without torch only integrity is checked.

    Parameters
    ----------
    base_path : path

    Returns
    -------
    VerifyReport

    Raises
    ------
    BundleNotFoundError
        Where there is no bundle.

    Examples
    --------
    >>> from ptycho_torch.bundle.shipped import shipped_bundle
    >>> verify_bundle(shipped_bundle()).exit_status
    0
    """
    path = os.fspath(base_path)
    try:
        with read_bundle(base_path) as bundle:
            path = bundle.path
            checks = (_integrity(bundle), _self_test(bundle))
    except FileNotFoundError:
        raise
    except BundleError as error:
        checks = (Check("integrity", "failed", str(error)),)  # type: ignore[assignment]
    return VerifyReport(str(path), checks)


def _integrity(bundle: Bundle) -> Check:
    count, notes = 0, []
    for model in bundle.models:
        if bundle.backend == "pytorch":
            data = bundle.read(bundle.weights_member(model))
            weights = bundle.decode_weights(model, data)
            weights.check_values()
            count += sum(view.count for view in weights.tensors.values())
            notes += _scale_note(bundle, model, weights)
            bundle.release(data)
        else:
            bundle.release(bundle.read(bundle.weights_member(model)))
    how = f"{count} finite weights" if count else "all members readable"
    sums = "checksums right" if bundle.sidecar is not None else f"CRCs right (no {SIDECAR} to compare with)"
    text = "; ".join([f"{len(bundle.models)} models, {how}, {sums}", *dict.fromkeys(notes)])
    # The writer of bundle.json keeps both scales alike; other writers never did.
    wrong = notes and bundle.sidecar is not None
    return Check("integrity", "failed" if wrong else "passed", text)


def _scale_note(bundle: Bundle, model: str, weights: Weights) -> list[str]:
    """What is said where the weights hold another intensity scale than the params."""
    log_scale = weights.number(LOG_SCALE)
    if log_scale is None:
        return []
    if abs(log_scale) > _LARGEST_LOG:
        return [f"{model}: {LOG_SCALE} gives no finite intensity scale"]
    note = agree(bundle.params[model], math.exp(log_scale), bundle.sidecar).note
    return [] if note is None else [note]


def _self_test(bundle: Bundle) -> Check:
    test = read_self_test(bundle.sidecar or {}, partial(bundle.error, SIDECAR), bundle.archive.budget)
    if test is None:
        return Check("self-test", "absent", "this bundle holds none")
    if test.model not in bundle.models:
        return Check("self-test", "failed", "is for a model that the bundle does not hold")
    try:
        from ptycho_torch.bundle.rebuild import load_model
        from ptycho_torch.bundle.selftest import needed_memory, run_self_test
    except ImportError:
        return Check("self-test", "absent", "not run: needs torch (pip install torch)")
    try:
        module = load_model(bundle, test.model).module
        side, members = int(bundle.params[test.model]["N"]), int(bundle.params[test.model]["gridsize"]) ** 2
        if test.frames.shape != (1, members, side, side):
            return Check("self-test", "failed", f"its frames {test.frames.shape} are not the model's")
        if (needed := needed_memory(module, test)) > memory_limit():
            return Check("self-test", "absent", f"not run: may take {shown_bytes(needed)} of memory")
        worst = run_self_test(test, module)
    except (ValueError, RuntimeError, DependencyError) as error:
        return Check("self-test", "failed", f"the model cannot be rebuilt and run: {error}")
    text = f"output differs by {worst:.1e} of its maximum, at most {test.tolerance:.1e} is allowed"
    if worst <= test.tolerance:
        return Check("self-test", "passed", text)
    return Check("self-test", "failed", f"drift: {text}; weights, code or numerics are not what was saved")
