"""Every bound that reading a bundle keeps to, in one place.

They are far above anything that a legitimate writer makes and far below anything that hurts the
machine that reads. A file past one of them is refused; none can be switched off. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ptycho_torch.files.memory import MemoryBudget

__all__ = [
    "BIG_ENTRY",
    "BUDGET_FLOOR",
    "BUDGET_RATIO",
    "CHUNK",
    "MAX_ARRAY_DIMS",
    "MAX_DEPTH",
    "MAX_DIRECTORY_BYTES",
    "MAX_ENTRIES",
    "MAX_INT_BYTES",
    "MAX_JSON_DEPTH",
    "MAX_MANIFEST_BYTES",
    "MAX_MODELS",
    "MAX_NAME_BYTES",
    "MAX_OPCODES",
    "MAX_PARAMS_BYTES",
    "MAX_RATIO",
    "MAX_SIDECAR_BYTES",
    "MAX_TENSORS",
    "MAX_TEXT_LINE",
    "MAX_TOTAL_BYTES",
    "MAX_VALUES",
    "MAX_WEIGHTS_BYTES",
    "OBJECT_BYTES",
    "budget_of",
    "member_limit",
]

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

# container
MAX_ENTRIES: Final = 10_000
MAX_DIRECTORY_BYTES: Final = 8 * MIB
MAX_NAME_BYTES: Final = 512
MAX_MANIFEST_BYTES: Final = 1 * MIB
MAX_PARAMS_BYTES: Final = 64 * MIB
MAX_SIDECAR_BYTES: Final = 64 * MIB
MAX_WEIGHTS_BYTES: Final = 4 * GIB
MAX_TOTAL_BYTES: Final = 8 * GIB
BIG_ENTRY: Final = 64 * MIB
"""Up to here a compression ratio proves nothing: equal weights reach 440:1."""
MAX_RATIO: Final = 250
CHUNK: Final = 1 * MIB
MAX_MODELS: Final = 64

# memory: what a file may make in all
BUDGET_FLOOR: Final = 40 * MIB
BUDGET_RATIO: Final = 3
OBJECT_BYTES: Final = 160
"""What one value of a pickle or a JSON text is counted as, beside its content."""
MAX_JSON_DEPTH: Final = 64

# pickled data
MAX_OPCODES: Final = 500_000
MAX_VALUES: Final = 200_000
MAX_DEPTH: Final = 32
MAX_INT_BYTES: Final = 16
MAX_ARRAY_DIMS: Final = 16
MAX_TEXT_LINE: Final = 200
MAX_TENSORS: Final = 10_000


def member_limit(name: str) -> int:
    """Largest unpacked size in bytes of the member ``name`` of a bundle."""
    if name == "manifest.dill":
        return MAX_MANIFEST_BYTES
    if name == "bundle.json":
        return MAX_SIDECAR_BYTES
    return MAX_PARAMS_BYTES if name.endswith("/params.dill") else MAX_WEIGHTS_BYTES


def budget_of(size: int, refuse: Callable[[str], Exception]) -> MemoryBudget:
    """Open the budget of a bundle of ``size`` bytes; weights do not compress, so little is allowed on top."""
    return MemoryBudget(
        size,
        refuse,
        ratio=BUDGET_RATIO,
        floor=BUDGET_FLOOR,
        advice="no bundle needs that much; save it again with the program that made it",
    )
