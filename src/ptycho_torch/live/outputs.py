"""The growing object for other programs: ZeroMQ, PVAccess and HDF5 with SWMR, from a thread of its own.

ZeroMQ (PUB)    two parts: JSON with shape, dtype, origin_xy, version; the object's bytes, complex64, row by row
PVAccess        NTNDArray of float32, amplitude over phase (2H, W); origin and version as attributes
HDF5            live.h5: object (H, W), weight (H, W), origin_xy (2,), version; it grows, readers refresh
"""

from __future__ import annotations

import json
import logging
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import PtychoError
from ptycho_torch.live.canvas import GrowingCanvas
from ptycho_torch.live.sources.pva import ndarray_value, serve
from ptycho_torch.live.sources.sockets import connected, let_go

__all__ = ["Hdf5Output", "Output", "Outputs", "PvaOutput", "ZmqOutput"]

logger = logging.getLogger(__name__)
_CHUNK = 128
_LET_GO = 5.0
"""Seconds for which subscribers may take the last object."""


class Output(ABC):
    """One way on which the object goes out."""

    @abstractmethod
    def publish(
        self,
        obj: NDArray[np.complex64],
        weight: NDArray[np.float32],
        origin_xy: NDArray[np.int64],
        version: int,
    ) -> None:
        """Send object and weight (H, W), pixel [0, 0] at ``origin_xy``."""

    @abstractmethod
    def close(self) -> None:
        """Let go."""


class ZmqOutput(Output):
    """Publishes to whoever subscribes at an address; who is slow misses some."""

    def __init__(self, address: str) -> None:
        self._socket = connected(address, "PUB", bind=True)

    def publish(
        self,
        obj: NDArray[np.complex64],
        weight: NDArray[np.float32],
        origin_xy: NDArray[np.int64],
        version: int,
    ) -> None:
        head = {"shape": obj.shape, "dtype": "complex64", "origin_xy": origin_xy.tolist(), "version": version}
        self._socket.send_multipart([json.dumps(head).encode(), np.ascontiguousarray(obj).tobytes()])

    def close(self) -> None:
        let_go(self._socket, _LET_GO)


class PvaOutput(Output):
    """Serves a channel; the first object opens it."""

    def __init__(self, address: str) -> None:
        self._server, self._pv = serve(address)
        self._open = False

    def publish(
        self,
        obj: NDArray[np.complex64],
        weight: NDArray[np.float32],
        origin_xy: NDArray[np.int64],
        version: int,
    ) -> None:
        both = np.concatenate([np.abs(obj), np.angle(obj)]).astype(np.float32)
        x, y = origin_xy.tolist()
        value = ndarray_value(both, version, {"origin_x": float(x), "origin_y": float(y)})
        if self._open:
            self._pv.post(value)
        else:
            self._pv.open(value)
            self._open = True

    def close(self) -> None:
        self._server.stop()


class Hdf5Output(Output):
    """A SWMR file that appears with the first object."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None

    def publish(
        self,
        obj: NDArray[np.complex64],
        weight: NDArray[np.float32],
        origin_xy: NDArray[np.int64],
        version: int,
    ) -> None:
        if self._file is None:
            self._file = self._made()
        for name, value in (("object", obj), ("weight", weight)):
            self._file[name].resize(obj.shape)
            self._file[name][:] = value
        self._file["origin_xy"][:] = origin_xy
        self._file["version"][0] = version
        for data in self._file.values():
            data.flush()

    def _made(self) -> Any:
        file: Any = h5py.File(self.path, "w", libver="latest")
        grows = {"shape": (1, 1), "maxshape": (None, None), "chunks": (_CHUNK, _CHUNK)}
        file.create_dataset("object", dtype=np.complex64, **grows)
        file.create_dataset("weight", dtype=np.float32, **grows)
        # In chunks, too: readers beside the writer can open nothing else.
        file.create_dataset("origin_xy", (2,), np.float64, maxshape=(None,), chunks=(2,))
        file.create_dataset("version", (1,), np.int64, maxshape=(None,), chunks=(1,))
        file.swmr_mode = True
        return file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Outputs:
    """Publishes a canvas on several ways whenever it has changed; one that fails is said and left out.

    Parameters
    ----------
    canvas : GrowingCanvas
    ways : list of Output
    say : callable
        Told of what fails.
    interval : float
        Seconds between two looks.
    """

    def __init__(self, canvas: GrowingCanvas, ways: list[Output], say: Any, interval: float = 1.0) -> None:
        self.canvas, self.ways, self._say, self.interval = canvas, list(ways), say, interval
        self._stop = threading.Event()
        self._version = 0
        self._thread = threading.Thread(target=self._run, name="outputs", daemon=True)

    def start(self) -> None:
        if self.ways:
            self._thread.start()

    def close(self) -> None:
        """Publish what is there now, and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10.0)
        self.publish()
        for way in self.ways:
            try:
                way.close()
            except PtychoError as error:
                self._say(f"{type(way).__name__}: {error}")

    def publish(self) -> None:
        """Send the canvas on all ways, if it is another one than before."""
        if not self.ways or self.canvas.version in (0, self._version):
            return
        obj, weight, origin, self._version = self.canvas.snapshot()
        for way in list(self.ways):
            try:
                way.publish(obj, weight, origin, self._version)
            except Exception as error:  # other programs are no reason to end
                self._say(f"{type(way).__name__}: failed and is left out: {type(error).__name__}: {error}")
                logger.debug("output failed", exc_info=True)
                self.ways.remove(way)

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            self.publish()
