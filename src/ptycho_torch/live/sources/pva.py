"""EPICS PVAccess NTNDArray, as areaDetector's PVA plugin serves it.

``pva://CHANNEL`` finds its server by the environment (``EPICS_PVA_ADDR_LIST`` and so on); ``pva://host:port/CHANNEL``
asks one host, at its search port. ``uniqueId`` is the frame number. Attributes ``x`` and ``y``, or those of
``positions_keys``, are a position.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ConfigError, DataError, PtychoError, brief
from ptycho_torch.live.sources import SOURCES
from ptycho_torch.live.sources.base import Gathered, Peer, Receiver, Sender, Source, needed
from ptycho_torch.live.sources.codecs import decompress, plane

__all__ = ["Pva", "channel_of", "ndarray_value", "serve"]

logger = logging.getLogger(__name__)
_QUEUE: Final = 512
_BURST: Final = 64
"""Updates that are read at once."""
_GATHER: Final = 0.006
"""Seconds for which updates gather."""
_SETTLED: Final = 1.0
"""Seconds that a watcher may take from its connection to its subscription."""
_LEAVING: Final = 20.0
"""Seconds for which a server stays for clients that do not leave at the end."""
_SCALARS: Final = {
    5: "uint8",
    6: "uint16",
    7: "uint32",
    1: "int8",
    2: "int16",
    3: "int32",
    9: "float32",
    10: "float64",
}
"""pvData's codes of scalar types, which a codec's parameters hold."""
_UNION: Final = {
    "uint8": "ubyteValue", "uint16": "ushortValue", "uint32": "uintValue", "int16": "shortValue",
    "int32": "intValue", "float32": "floatValue", "float64": "doubleValue",
}  # fmt: skip


@SOURCES.register("pva")
class Pva(Source):
    """Updates of an NTNDArray. What the server drops, since it is faster, is seen as missing numbers."""

    gives = ("frame", "position")

    def __init__(self, address: str, options: Any = None) -> None:
        super().__init__(address, options)
        self._thread = needed("p4p.client.thread", "p4p")
        self._gone = needed("p4p.client.raw", "p4p").Disconnected
        self.channel, self._conf = channel_of(address)
        self._there = True

    def read(self, to: Receiver, stop: threading.Event) -> None:
        waiting: queue.Queue[Any] = queue.Queue(_QUEUE)  # full, it holds p4p's callback, and that the server
        with self._thread.Context("pva", conf=self._conf, useenv=self._conf is None, nt=False) as context:
            request = f"record[queueSize={_QUEUE},pipeline=true]"
            watch = context.monitor(self.channel, waiting.put, request=request, notify_disconnect=True)
            try:
                self._take_all(waiting, to, stop)
            finally:
                watch.close()
                while not waiting.empty():  # a callback that waits for room would never end
                    waiting.get_nowait()

    def _take_all(self, waiting: queue.Queue[Any], to: Receiver, stop: threading.Event) -> None:
        peer, gathered = Peer(to, self.channel), Gathered(to)
        while not stop.is_set():
            before = time.monotonic()
            try:
                updates = [waiting.get(timeout=0.05)]
            except queue.Empty:
                to.waited(time.monotonic() - before)
                peer.silent()
                continue
            if waiting.qsize() < _QUEUE // 4:  # few: to wake up for each would take longer than to read it
                time.sleep(_GATHER)
            to.waited(time.monotonic() - before)
            while len(updates) < _BURST and not waiting.empty():
                updates.append(waiting.get_nowait())
            try:
                if any(self._heard(update, peer, gathered) for update in updates):  # up to the last one
                    return
            finally:
                gathered.flush()

    def _heard(self, update: Any, peer: Peer, to: Receiver) -> bool:
        """Understand an update, or that the channel went; return whether it was the last."""
        if isinstance(update, Exception):
            if isinstance(update, self._gone) and self._there:
                to.say(f"{self.channel}: not connected; waiting for it")
            self._there = False
            return False
        if not self._there:
            to.say(f"{self.channel}: connected")
            to.start(self.channel)
            self._there = True
        peer.heard()
        try:
            return self._take(update, to)
        except DataError as error:
            to.refuse("frame", str(error).partition(":")[0])
        except PtychoError:
            raise
        except Exception:  # whatever another structure makes of what is asked of it
            to.refuse("frame", "no NTNDArray")
            logger.debug("an update that was not understood", exc_info=True)
        return False

    def _take(self, update: Any, to: Receiver) -> bool:
        number = int(update.uniqueId)
        said = {str(a.name): a.value for a in update.attribute}
        if not len(update.dimension):
            return False  # the channel is there, an image is not yet
        if said.get("last") is True or said.get("last") == 1:
            to.end("frame")
            return True
        if to.known(number) or number < 0:
            to.refuse("frame", "duplicate" if number >= 0 else "number out of range")
            return False
        x, y = self.options.positions_keys or ("x", "y")
        place = (said[x], said[y]) if x in said and y in said else None
        to.frame(number, self._frame(update), place, None)
        return False

    def _frame(self, update: Any) -> NDArray[Any]:
        shape = [int(each.size) for each in update.dimension][::-1]
        values, codec = update.value, str(update.codec.name)
        if not isinstance(values, np.ndarray):
            raise DataError("malformed: no pixels")
        if codec == "":
            edges, kind = plane(shape, values.dtype.name, self.options.most_bytes)
            if values.size != edges[0] * edges[1]:
                raise DataError("malformed: pixels that do not fill the shape")
            return np.asarray(values).reshape(edges)
        name = _SCALARS.get(int(update.codec.parameters))
        edges, kind = plane(shape, name, self.options.most_bytes)
        if codec not in ("lz4", "bslz4"):
            raise DataError(f"compression: expected lz4, bslz4 or none, found {brief(codec)}")
        return decompress(values.tobytes(), f"{codec}-bare", edges, kind)

    @classmethod
    def sender(cls, address: str) -> Sender:
        return _Sender(address)


def channel_of(address: str) -> tuple[str, dict[str, str] | None]:
    """Return channel, and settings of a client where the address names a host; None: those of the environment.

    Examples
    --------
    >>> channel_of("pva://DET:Pva1:Image")
    ('DET:Pva1:Image', None)
    >>> channel_of("pva://127.0.0.1:5076/DET:Image")[1]["EPICS_PVA_BROADCAST_PORT"]
    '5076'
    """
    bare = address.removeprefix("pva://")
    host, slash, channel = bare.partition("/")
    if not slash:
        return bare, None
    name, _, port = host.partition(":")
    return channel, {
        "EPICS_PVA_ADDR_LIST": name,
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVA_BROADCAST_PORT": port or "5076",
    }


class _Watched:
    """A handler that notes when clients are there, and when the last one has gone."""

    def __init__(self) -> None:
        self.watched, self.left = threading.Event(), threading.Event()

    def onFirstConnect(self, pv: Any) -> None:
        self.left.clear()
        self.watched.set()

    def onLastDisconnect(self, pv: Any) -> None:
        self.left.set()


def serve(address: str, handler: Any = None) -> tuple[Any, Any]:
    """Return a server and the PV (not yet open) that it serves at an address of :func:`channel_of`."""
    server, thread = needed("p4p.server", "p4p"), needed("p4p.server.thread", "p4p")
    channel, client = channel_of(address)
    pv = thread.SharedPV(handler=handler)
    provider = server.StaticProvider("ptychopinn")
    provider.add(channel, pv)
    if client is None:
        return server.Server(providers=[provider]), pv
    conf = {
        "EPICS_PVAS_INTF_ADDR_LIST": client["EPICS_PVA_ADDR_LIST"],
        "EPICS_PVAS_BEACON_ADDR_LIST": client["EPICS_PVA_ADDR_LIST"],
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_PVAS_SERVER_PORT": "0",
        "EPICS_PVAS_BROADCAST_PORT": client["EPICS_PVA_BROADCAST_PORT"],
    }
    return server.Server(providers=[provider], conf=conf, useenv=False), pv


def ndarray_value(image: NDArray[Any], number: int, attributes: dict[str, Any] | None = None) -> Any:
    """Return an image (H, W) as an NTNDArray."""
    p4p = needed("p4p")
    image = np.ascontiguousarray(image)
    sizes = image.shape[::-1]
    said = [
        {"name": name, "value": value, "descriptor": "", "sourceType": 0, "source": ""}
        for name, value in (attributes or {}).items()
    ]
    now = time.time()
    stamp = {"secondsPastEpoch": int(now), "nanoseconds": int(now % 1 * 1e9)}
    return p4p.Value(
        _ndarray_type(),
        {
            "value": (_UNION[image.dtype.name], image.ravel()),
            "dimension": [
                {"size": s, "offset": 0, "fullSize": s, "binning": 1, "reverse": False} for s in sizes
            ],
            "uniqueId": number,
            "compressedSize": image.nbytes,
            "uncompressedSize": image.nbytes,
            "attribute": said,
            "timeStamp": stamp,
            "dataTimeStamp": stamp,
        },
    )


def _empty() -> Any:
    """What a channel holds before its first image."""
    return needed("p4p").Value(_ndarray_type(), {"uniqueId": -1})


@functools.cache
def _ndarray_type() -> Any:
    """The type of all NTNDArrays; made once, since a PV refuses values of another one."""
    return needed("p4p.nt", "p4p").NTNDArray.buildType()


class _Sender(Sender):
    """Posts frames once somebody watches; what is posted before that nobody would see."""

    def __init__(self, address: str) -> None:
        self._clients = _Watched()
        self._server, self._pv = serve(address, self._clients)
        self._shape: tuple[int, int] = (1, 1)
        self._pv.open(_empty())

    def start(self, count: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._shape = shape
        if not self._clients.watched.wait(60.0):
            raise ConfigError("nobody watched this channel for 60 s: is 'ptychopinn live' running on it?")
        time.sleep(_SETTLED)

    def frame(self, number: int, frame: NDArray[Any]) -> None:
        self._pv.post(ndarray_value(frame, number))

    def end(self) -> None:
        self._pv.post(ndarray_value(np.zeros(self._shape, np.uint16), 0, {"last": True}))
        # What is under way arrives before the server goes: whoever reads the end leaves.
        self._clients.left.wait(_LEAVING)
        self._server.stop()
