"""``bundle.json``: what the other members are, where they come from, and a self-test.

Optional when reading; where it is there, it has to agree with the members. Imports no torch.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ptycho_torch.bundle.container import limits
from ptycho_torch.bundle.container.jsontext import parse_json
from ptycho_torch.errors import BundleError, brief, printable
from ptycho_torch.files.memory import MemoryBudget

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "SIDECAR",
    "SelfTest",
    "check_group",
    "check_member",
    "make_sidecar",
    "parse_sidecar",
    "readable",
    "read_self_test",
]

SIDECAR: Final = "bundle.json"
FORMAT: Final = "ptychopinn-bundle"
FORMAT_VERSION: Final = 1
_TOLERANCE: Final = 1e-4
_SCALE_SOURCES: Final = ("argument", "model", "global", "default")


@dataclass(frozen=True)
class SelfTest:
    """Frames, offsets, and the object that the saving process computed from them.

    ``frames`` (1, C, N, N) float32 in sqrt(counts), ``offsets`` (1, C, 1, 2) float32 in pixels,
    ``output`` complex64; ``tolerance`` is the largest difference allowed, relative to the output's maximum.
    """

    model: str
    frames: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]
    output: np.ndarray[Any, Any]
    tolerance: float = _TOLERANCE


def readable(value: Any) -> Any:
    """``value`` as JSON can hold it; arrays become a short description, odd floats text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {list(value.shape)}"
    if isinstance(value, Mapping):
        return {str(k): readable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [readable(v) for v in value]
    return str(value)


def _pack(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    text = base64.b64encode(zlib.compress(data.tobytes(), 1)).decode("ascii")
    return {"dtype": str(array.dtype), "shape": list(array.shape), "zlib_base64": text}


def make_sidecar(
    members: Mapping[str, tuple[str, int]],
    params: Mapping[str, Any],
    *,
    models: Mapping[str, str],
    scale_source: str,
    provenance: Mapping[str, Any],
    self_test: SelfTest | None,
) -> bytes:
    """The text of ``bundle.json``. ``members``: SHA-256 and size by name; ``models``: class by name."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "backend": "pytorch",
        "models": dict(models),
        "members": {name: {"sha256": sha, "size": size} for name, (sha, size) in members.items()},
        "intensity_scale": {"value": params["intensity_scale"], "source": scale_source},
        "params": readable(params),
        "provenance": readable(provenance),
        "self_test": None,
    }
    if self_test is not None:
        content["self_test"] = {
            "model": self_test.model,
            "tolerance": self_test.tolerance,
            "frames": _pack(self_test.frames),
            "offsets": _pack(self_test.offsets),
            "output": _pack(self_test.output),
        }
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def parse_sidecar(
    data: bytes | bytearray, fail: Callable[[str], BundleError], budget: MemoryBudget
) -> dict[str, Any]:
    """``bundle.json`` as a dictionary of a version that this program knows. Raises what ``fail`` makes."""
    try:
        found = parse_json(data, budget)
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:
        raise fail(f"not valid JSON ({printable(error, 80)})") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise fail(f"expected format {FORMAT!r}")
    version = found.get("format_version")
    if type(version) is not int or version < 1:
        raise fail(f"format_version: expected a positive integer, found {brief(version, 40)}")
    if version > FORMAT_VERSION:
        raise fail(
            f"written in format version {version}; this program knows up to {FORMAT_VERSION}: update it"
        )
    if found.get("backend") != "pytorch":
        raise fail(f"backend: expected 'pytorch', found {brief(found.get('backend'), 40)}")
    members = found.get("members")
    if not isinstance(members, dict) or len(members) > limits.MAX_ENTRIES:
        raise fail("members: expected a list of checksums by name")
    for name, entry in members.items():
        sound = (
            isinstance(entry, dict)
            and isinstance(entry.get("sha256"), str)
            and type(entry.get("size")) is int
        )
        if not sound:
            raise fail(f"members: {printable(name)}: expected sha256 and size")
    return found


def check_member(
    sidecar: Mapping[str, Any], name: str, data: bytes | bytearray, fail: Callable[[str], BundleError]
) -> None:
    """Compares a member with its size and SHA-256 in ``bundle.json``. Raises what ``fail`` makes."""
    entry = sidecar["members"].get(name)
    if entry is None:
        raise fail(f"not listed in {SIDECAR}; it was added afterwards")
    if entry["size"] != len(data) or entry["sha256"] != hashlib.sha256(data).hexdigest():
        raise fail(f"does not match its SHA-256 in {SIDECAR}; one of the two was changed")


def read_self_test(
    sidecar: Mapping[str, Any], fail: Callable[[str], BundleError], budget: MemoryBudget
) -> SelfTest | None:
    """The self-test, None where there is none. Raises what ``fail`` makes for a malformed one."""
    found = sidecar.get("self_test")
    if found is None:
        return None
    try:
        arrays = {
            key: _unpack(found[key], kind, budget)
            for key, kind in (("frames", "float32"), ("offsets", "float32"), ("output", "complex64"))
        }
        tolerance = float(found["tolerance"])
        if not 0 < tolerance <= 0.1 or type(found["model"]) is not str:
            raise ValueError("model or tolerance out of range")
        check_group(arrays["frames"], arrays["offsets"])
    except BundleError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error, zlib.error) as error:
        raise fail(f"self_test: malformed ({printable(error, 80)})") from None
    return SelfTest(found["model"], arrays["frames"], arrays["offsets"], arrays["output"], tolerance)


def check_group(frames: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any]) -> None:
    """Refuses a group that is none: running it would make a canvas as large as the offsets say."""
    shape = frames.shape
    if len(shape) != 4 or shape[0] != 1 or shape[2] != shape[3] or offsets.shape != (1, shape[1], 1, 2):
        raise ValueError("frames and offsets are not those of one group")
    if float(np.abs(offsets).max()) > shape[2]:
        raise ValueError("members of the group are further apart than a frame is wide")


def _unpack(found: Any, dtype: str, budget: MemoryBudget) -> np.ndarray[Any, Any]:
    shape = found["shape"]
    if found["dtype"] != dtype or not isinstance(shape, list) or len(shape) > 4:
        raise ValueError("array of an unexpected kind")
    if any(type(n) is not int or not 0 < n <= 4096 for n in shape):
        raise ValueError("array of an unexpected shape")
    size = math.prod(shape) * np.dtype(dtype).itemsize
    packed = base64.b64decode(found["zlib_base64"], validate=True)
    budget.take(
        3 * size + len(packed), "self_test"
    )  # unpacked, as an array, and in this machine's byte order
    if size > limits.MAX_PARAMS_BYTES or size > 1040 * len(packed) + 64:
        raise ValueError("array of an unexpected size")
    stream = zlib.decompressobj()
    data = stream.decompress(packed, size + 1)
    if len(data) != size or not stream.eof or stream.unused_data:
        raise ValueError("array content does not fit its shape")
    array = np.frombuffer(bytearray(data), dtype=np.dtype(dtype).newbyteorder("<")).reshape(shape)
    if not np.isfinite(array).all():
        raise ValueError("array with values that are not finite")
    return array.astype(dtype)
