"""The probe guess in the global dictionary."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptycho import params

__all__ = ["get_probe", "set_probe_guess"]


def set_probe_guess(X_train: Any = None, probe_guess: Any = None) -> Any:
    """Puts a probe, (N, N) or (modes, N, N), where scripts look for it: ``params.cfg['probe']``. Returns it."""
    probe = np.asarray(probe_guess, dtype=np.complex64)
    params.set("probe", probe)
    return probe


def get_probe() -> Any:
    """The probe guess; ``KeyError`` where none was set."""
    return params.get("probe")
