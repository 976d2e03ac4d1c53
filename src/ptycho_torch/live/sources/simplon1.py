"""Dectris SIMPLON stream version 1: multipart messages of JSON and data over ZeroMQ PUSH.

    {"htype": "dheader-1.0", "series": 1, "header_detail": ...}
    {"htype": "dimage-1.0", "series": 1, "frame": 0, ...} | {"htype": "dimage_d-1.0", "shape": [columns, rows],
        "type": "uint16", "encoding": "bs16-lz4<", "size": ...} | data | {"htype": "dconfig-1.0", ...} | appendix
    {"htype": "dseries_end-1.0", "series": 1}

References
----------
.. [1] DECTRIS Ltd., SIMPLON API Reference, stream interface.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError, PtychoError, brief
from ptycho_torch.live.sources import SOURCES
from ptycho_torch.live.sources.base import Receiver, Sender, Source
from ptycho_torch.live.sources.codecs import as_frame, compress_bslz4, decompress, plane
from ptycho_torch.live.sources.sockets import connected, follow, let_go, patient_send, series_name

__all__ = ["Simplon1"]

_HEADER_BYTES: Final = 1 << 20
_SHUFFLED: Final = re.compile(r"bs(8|16|32)-lz4<?")


@SOURCES.register("simplon1")
class Simplon1(Source):
    """Frames of a Dectris detector, stream version 1. A position may come in the appendix, JSON with ``x`` and ``y``."""

    gives = ("frame", "position")

    def __init__(self, address: str, options: Any = None) -> None:
        super().__init__(address, options)
        self._socket = connected(address, "PULL", self.options.most_bytes)

    def read(self, to: Receiver, stop: threading.Event) -> None:
        follow(self._socket, to, stop, self._take, "detector", bound=self.address.startswith("@"))

    def _take(self, parts: list[bytes], to: Receiver) -> bool:
        """Understand a message; return whether it ends the series."""
        head = _json(parts[0])
        kind, series = str(head.get("htype")).partition("-")[0], series_name(head.get("series"))
        if kind == "dheader":
            config = _json(parts[1]) if len(parts) > 1 else {}
            each, triggers = config.get("nimages"), config.get("ntrigger", 1)
            known = type(each) is int and type(triggers) is int
            to.start(series, each * triggers if known else None)
        elif kind == "dimage":
            self._image(parts, head, series, to)
        elif kind == "dseries_end":
            to.end("frame")
            return True
        else:
            raise DataError("malformed: unknown htype")
        return False

    def _image(self, parts: list[bytes], head: dict[str, Any], series: str, to: Receiver) -> None:
        number = head.get("frame")
        if type(number) is not int or len(parts) < 3:
            raise DataError("malformed: no frame")
        if to.known(number) or number < 0:
            return to.refuse("frame", "duplicate" if number >= 0 else "number out of range")
        about, data = _json(parts[1]), parts[2]
        shape = about.get("shape")
        if not isinstance(shape, list):
            raise DataError("malformed: no shape")
        # Columns come first in version 1.
        edges, dtype = plane(
            shape[::-1] if len(shape) == 2 else shape, about.get("type"), self.options.most_bytes
        )
        coding = str(about.get("encoding", ""))
        shuffled = _SHUFFLED.fullmatch(coding)
        if coding in ("", "<"):
            frame = as_frame(data, edges, dtype)
        elif coding in ("lz4", "lz4<"):
            frame = decompress(data, "lz4-bare", edges, dtype)
        elif shuffled and int(shuffled[1]) == 8 * dtype.itemsize:
            frame = decompress(data, "bslz4", edges, dtype)
        else:
            raise DataError(
                f"compression: expected lz4<, bs{8 * dtype.itemsize}-lz4< or <, found {brief(coding)}"
            )
        return to.frame(number, frame, _place(parts[4]) if len(parts) > 4 else None, series)

    @classmethod
    def sender(cls, address: str) -> Sender:
        return _Sender(address)


def _json(part: bytes) -> dict[str, Any]:
    if len(part) > _HEADER_BYTES:
        raise DataError("header too large: expected at most a megabyte")
    try:
        found = json.loads(part)
    except (ValueError, RecursionError) as error:
        raise DataError("malformed: not JSON") from error
    if not isinstance(found, dict):
        raise DataError("malformed: no object")
    return found


def _place(appendix: bytes) -> tuple[float, float] | None:
    """A position in an appendix; appendices of other kinds hold none."""
    try:
        found = _json(appendix)
    except DataError:
        return None
    x, y = found.get("x"), found.get("y")
    return (x, y) if isinstance(x, int | float) and isinstance(y, int | float) else None


class _Sender(Sender):
    def __init__(self, address: str, series: int = 1) -> None:
        self._socket = connected(address, "PUSH", bind=True)
        self._series = series

    def _send(self, *parts: dict[str, Any] | bytes) -> None:
        coded = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts]
        patient_send(self._socket, coded)

    def start(self, count: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        head = {"htype": "dheader-1.0", "series": self._series, "header_detail": "basic"}
        self._send(head, {"nimages": count, "ntrigger": 1, "bit_depth_image": 8 * dtype.itemsize})

    def frame(self, number: int, frame: NDArray[Any]) -> None:
        plain = frame.dtype.kind == "f"
        data = np.ascontiguousarray(frame).tobytes() if plain else compress_bslz4(frame)
        about = {
            "htype": "dimage_d-1.0",
            "shape": list(frame.shape[::-1]),
            "type": frame.dtype.name,
            "encoding": "<" if plain else f"bs{8 * frame.dtype.itemsize}-lz4<",
            "size": len(data),
        }
        self._send(
            {"htype": "dimage-1.0", "series": self._series, "frame": number, "hash": ""},
            about,
            data,
            {"htype": "dconfig-1.0", "start_time": 0, "stop_time": 0, "real_time": 0},
        )

    def end(self) -> None:
        with contextlib.suppress(PtychoError):  # whoever listened may be gone
            self._send({"htype": "dseries_end-1.0", "series": self._series})
        let_go(self._socket)
