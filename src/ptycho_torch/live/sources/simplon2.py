"""Dectris SIMPLON stream version 2: CBOR messages over ZeroMQ PUSH.

References
----------
.. [1] DECTRIS Ltd., Stream V2 specification, https://github.com/dectris/documentation.
.. [2] RFC 8949 (CBOR) and RFC 8746 (typed arrays).
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError, PtychoError, brief
from ptycho_torch.live.sources import SOURCES
from ptycho_torch.live.sources.base import Receiver, Sender, Source, needed
from ptycho_torch.live.sources.codecs import as_frame, compress_bslz4, decompress, plane
from ptycho_torch.live.sources.sockets import connected, follow, let_go, patient_send, series_name

__all__ = ["Simplon2"]

_TYPED: Final = {
    64: "uint8",
    69: "uint16",
    70: "uint32",
    77: "int16",
    78: "int32",
    85: "float32",
    86: "float64",
}
_TAGS: Final = {name: tag for tag, name in _TYPED.items()}
_ARRAY: Final = 40
_COMPRESSED: Final = 56500


@SOURCES.register("simplon2")
class Simplon2(Source):
    """Frames of a Dectris detector, stream version 2. A position may come as ``user_data`` with ``x`` and ``y``.

    Of several thresholds the first by name is used.
    """

    gives = ("frame", "position")

    def __init__(self, address: str, options: Any = None) -> None:
        super().__init__(address, options)
        self._cbor = needed("cbor2")
        self._socket = connected(address, "PULL", self.options.most_bytes)

    def read(self, to: Receiver, stop: threading.Event) -> None:
        follow(self._socket, to, stop, self._take, "detector", bound=self.address.startswith("@"))

    def _take(self, parts: list[bytes], to: Receiver) -> bool:
        """Understand a message; return whether it ends the series."""
        if len(parts) != 1:
            raise DataError("malformed: expected one part")
        try:
            message = self._cbor.loads(parts[0])
        except Exception as error:  # whatever the decoder raises on bytes of strangers
            raise DataError("malformed: not CBOR") from error
        if not isinstance(message, dict) or "type" not in message:
            raise DataError("malformed: no type")
        kind, series = message["type"], series_name(message.get("series_id"))
        if kind == "start":
            expected = message.get("number_of_images")
            to.start(series, expected if type(expected) is int else None, self._bad(message))
        elif kind == "image":
            number = message.get("image_id")
            if type(number) is not int:
                raise DataError("malformed: no image_id")
            if to.known(number) or number < 0:
                to.refuse("frame", "duplicate" if number >= 0 else "number out of range")
                return False
            to.frame(number, self._frame(message.get("data")), _place(message.get("user_data")), series)
        elif kind == "end":
            to.end("frame")
            return True
        else:
            raise DataError("malformed: unknown type")
        return False

    def _frame(self, channels: Any) -> NDArray[Any]:
        if not isinstance(channels, dict) or not channels:
            raise DataError("malformed: no data")
        return self._array(channels[min(channels, key=str)])

    def _array(self, tagged: Any) -> NDArray[Any]:
        """A multi-dimensional array of two axes."""
        tag = self._cbor.CBORTag
        if not isinstance(tagged, tag) or tagged.tag != _ARRAY:
            raise DataError("malformed: no array")
        inside = tagged.value
        if not isinstance(inside, list | tuple) or len(inside) != 2 or not isinstance(inside[1], tag):
            raise DataError("malformed: no typed array")
        kind = _TYPED.get(inside[1].tag)
        shape = list(inside[0]) if isinstance(inside[0], list | tuple) else inside[0]
        edges, dtype = plane(shape, kind, self.options.most_bytes)
        data = inside[1].value
        if isinstance(data, bytes):
            return as_frame(data, edges, dtype)
        if not isinstance(data, tag) or data.tag != _COMPRESSED:
            raise DataError("malformed: no bytes")
        if not isinstance(data.value, list | tuple) or len(data.value) != 3:
            raise DataError("malformed: no compressed bytes")
        codec, size, packed = data.value
        if codec not in ("bslz4", "lz4") or not isinstance(packed, bytes) or size not in (1, dtype.itemsize):
            raise DataError(f"compression: expected bslz4 or lz4, found {brief(codec)}")
        return decompress(packed, codec, edges, dtype)

    def _bad(self, message: dict[Any, Any]) -> NDArray[np.bool_] | None:
        masks = message.get("pixel_mask")
        if not message.get("pixel_mask_enabled", True) or not isinstance(masks, dict) or not masks:
            return None
        return np.asarray(self._frame(masks)) != 0

    @classmethod
    def sender(cls, address: str) -> Sender:
        return _Sender(address)


def _place(said: Any) -> tuple[float, float] | None:
    """A position that a message brings along."""
    if not isinstance(said, dict) or "x" not in said or "y" not in said:
        return None
    x, y = said["x"], said["y"]
    # What is no number stays a position, which is then refused and counted.
    return (
        (x, y) if isinstance(x, int | float) and isinstance(y, int | float) else (float("nan"), float("nan"))
    )


class _Sender(Sender):
    def __init__(self, address: str, series: int = 1) -> None:
        self._cbor = needed("cbor2")
        self._socket = connected(address, "PUSH", bind=True)
        self._series = {"series_id": series, "series_unique_id": f"replay-{series}"}

    def _send(self, message: dict[str, Any]) -> None:
        patient_send(self._socket, [self._cbor.dumps(message)])

    def start(self, count: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._send(
            {
                "type": "start",
                **self._series,
                "number_of_images": count,
                "image_dtype": dtype.name,
                "image_size_x": shape[1],
                "image_size_y": shape[0],
                "channels": ["threshold_1"],
            }
        )

    def frame(self, number: int, frame: NDArray[Any]) -> None:
        tag = self._cbor.CBORTag
        if frame.dtype.kind == "f":
            data: Any = np.ascontiguousarray(frame).tobytes()
        else:
            data = tag(_COMPRESSED, ["bslz4", frame.dtype.itemsize, compress_bslz4(frame)])
        array = tag(_ARRAY, [list(frame.shape), tag(_TAGS[frame.dtype.name], data)])
        self._send({"type": "image", **self._series, "image_id": number, "data": {"threshold_1": array}})

    def end(self) -> None:
        with contextlib.suppress(PtychoError):  # whoever listened may be gone
            self._send({"type": "end", **self._series})
        let_go(self._socket)
