"""ZeroMQ sockets of sources and senders."""

from __future__ import annotations

import contextlib
import logging
import os
import socket as socket_module
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from ptycho_torch.errors import ConfigError, DataError, PtychoError, printable
from ptycho_torch.files.memory import memory_limit
from ptycho_torch.live.sources.base import Gathered, Peer, Receiver, needed

__all__ = ["Unread", "connected", "follow", "let_go", "patient_send", "series_name", "subscribed"]

logger = logging.getLogger(__name__)
_POLL_MS: Final = 50
_HIGH_WATER: Final = (8, 512)
"""Least and most messages that wait in a socket; its peer waits for us from there on."""
_WAITING_MEMORY: Final = 0.25
"""Part of the memory that messages of the largest size may take while they wait."""
_LOOK: Final = 0.05
"""Seconds between two looks at the state of a connection while messages come."""
_FRAMING: Final = 9
"""Bytes that ZeroMQ sends with a part, at most."""
_TCP_INFO: Final = struct.Struct("128xQ")
"""Where Linux keeps the bytes that a connection received."""
_HELD: Final = (1 << 20, 16 << 20)
"""Bytes of a message that is not whole which are of no concern, and bytes of systems' buffers on the way."""
_SHORT: Final = 0.5
"""Part of the memory that there was, below which a message that is not whole is given up."""
_LET_GO: Final = 6.0
_GIVEN_UP: Final = 0.5
"""Seconds after which a connection that ended and is not tried again is made anew."""
_EARLY: Final = 50
"""Milliseconds by which ZeroMQ may give up before its time, by its own clock."""
_BURST: Final = (64, 16 << 20)
"""Messages that are read at once, and bytes from which on no more are."""
_GATHER: Final = 0.006
"""Seconds for which messages gather."""
_PARTS: Final = 64
"""Parts that a message may have."""


def connected(address: str, kind: str, most_bytes: int | None = None, bind: bool = False) -> Any:
    """Return a socket of a kind such as ``PULL``.

    Parameters
    ----------
    address : str
        ``tcp://host:port``; a receiver of ``@tcp://...`` waits for its peer to connect. ``ipc://path`` is
        understood, too, but ZeroMQ loses what a receiver that is full had not read when its peer closes.
    kind : str
    most_bytes : int, optional
        Larger parts of a message end the connection.
    bind : bool
        Wait to be connected to.

    Raises
    ------
    ConfigError
        When the address is none.
    DependencyError
        Without pyzmq.
    """
    zmq = needed("zmq", "pyzmq")
    # A sender has a context of its own: only one that is terminated says that everything has gone out.
    context = zmq.Context.instance() if most_bytes is not None else zmq.Context()
    socket = context.socket(getattr(zmq, kind))
    socket.linger = 0 if most_bytes is not None else 5000
    least, most = _HIGH_WATER
    if most_bytes is not None:
        most = max(least, min(most, int(_WAITING_MEMORY * memory_limit()) // most_bytes))
        socket.setsockopt(zmq.MAXMSGSIZE, most_bytes)
    socket.set_hwm(most)
    if kind == "SUB":
        socket.setsockopt(zmq.SUBSCRIBE, b"")
    if kind == "XPUB":  # a subscriber that is slow is waited for
        socket.setsockopt(zmq.XPUB_NODROP, 1)
    if most_bytes is not None:
        socket.get_monitor_socket()  # before anything happens that it tells of
    bare = address.removeprefix("@")
    try:
        if bind or bare != address:
            _bound(zmq, socket, bare)
        else:
            socket.connect(bare)
    except zmq.ZMQError as error:
        socket.close()
        raise ConfigError(
            f"{printable(address)}: expected an address such as tcp://host:port, found: {error.strerror}"
        ) from error
    return socket


def _bound(zmq: Any, socket: Any, address: str) -> None:
    """Bind; an address that whoever had it before has not let go of yet is waited for."""
    until = time.monotonic() + _LET_GO
    while True:
        try:
            return socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE or time.monotonic() > until:
                raise
        time.sleep(0.1)


def follow(
    socket: Any,
    to: Receiver,
    stop: threading.Event,
    take: Callable[[list[bytes], Receiver], bool],
    name: str,
    kind: str = "frame",
    *,
    bound: bool = False,
) -> None:
    """Read messages until ``stop`` is set, or one is the last.

    Parameters
    ----------
    socket : zmq.Socket
    to : Receiver
    stop : threading.Event
    take : callable
        Gets the parts of a message and a receiver; returns whether it is the last. What it cannot understand is a
        :class:`DataError`, which is refused by its text up to the first colon.
    name : str
        Of the peer, for people.
    kind : {"frame", "position"}
        What messages hold, of which too many parts are refused.
    bound : bool
        The peer connects.
    """
    gathered = Gathered(to)
    for burst in _bursts(socket, to, stop, name, kind, bound):
        try:
            for parts in burst:
                try:
                    if take(parts, gathered):
                        return
                except DataError as error:
                    to.refuse(kind, str(error).partition(":")[0] or "malformed")
                except PtychoError:
                    raise
                except Exception as error:  # no message of a stranger ends a source
                    to.refuse(kind, f"malformed: {type(error).__name__}")
                    logger.debug("a message that was not understood", exc_info=True)
        finally:
            gathered.flush()


def _bursts(
    socket: Any, to: Receiver, stop: threading.Event, name: str, kind: str, bound: bool
) -> Iterator[list[list[bytes]]]:
    """Yield messages, each a list of parts, those together that are there at once, until ``stop`` is set.

    Where few come, some are let gather: to wake up for each would take longer than to read it.
    """
    peer = Peer(to, name)
    lost = _Lost(socket, to, name, kind, bound)
    few = max(1, socket.get_hwm() // 2)
    looked = time.monotonic()
    try:
        while not stop.is_set():
            found, refused, size = _there(socket)
            lost.read(size)
            for _ in range(refused):
                to.refuse(kind, "a message of too many parts")
            count = len(found) + refused
            if count:
                peer.heard()
            if found:
                yield found
            began = time.monotonic()
            if not count:
                if not socket.poll(_POLL_MS):
                    peer.silent()
            elif count < few:
                time.sleep(_GATHER)
            now = time.monotonic()
            to.waited(now - began)
            if now - looked > _LOOK:
                looked = now
                lost.look(quiet=not count and not socket.poll(0))
    finally:
        lost.look(quiet=False)  # what happened since the last look is said, too
        lost.close()
        socket.close()


def _there(socket: Any) -> tuple[list[list[bytes]], int, int]:
    """Messages that wait in a socket, a burst of them at most; how many more were of too many parts; bytes of all."""
    zmq = needed("zmq", "pyzmq")
    found: list[list[bytes]] = []
    refused = size = 0
    with contextlib.suppress(zmq.Again):
        while len(found) + refused < _BURST[0] and size < _BURST[1]:
            parts, count = [socket.recv(zmq.NOBLOCK)], 1
            size += len(parts[0]) + _FRAMING
            while socket.get(zmq.RCVMORE):
                part = socket.recv()
                size += len(part) + _FRAMING
                count += 1
                if count <= _PARTS:
                    parts.append(part)
            if count > _PARTS:
                refused += 1
            else:
                found.append(parts)
    return found, refused, size


class _Lost:
    """Tells of connections that end, and makes those anew that ZeroMQ gives up.

    A peer that goes away is waited for by ZeroMQ itself. One that sends a message above the limit, or what is not
    ZeroMQ, is given up without another attempt: that is counted as refused, and the connection made again.
    """

    def __init__(self, socket: Any, to: Receiver, name: str, kind: str, bound: bool) -> None:
        self._zmq = zmq = needed("zmq", "pyzmq")
        self._utils = needed("zmq.utils.monitor", "pyzmq")
        self.to, self.name, self.kind = to, name, kind
        self._socket = socket
        self._trying = zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CONNECT_DELAYED | zmq.EVENT_CONNECTED
        self._joined = zmq.EVENT_CONNECTED | zmq.EVENT_ACCEPTED
        self._monitor = socket.get_monitor_socket()  # the one that was opened with the socket
        self._ended = self._said = False
        self._given_up: float | None = None
        self._bound = bound
        self._endpoint = socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        self._unread = Unread(socket.get(zmq.MAXMSGSIZE))

    def read(self, size: int) -> None:
        """Note the size of messages that were read."""
        self._unread.read(size)

    def look(self, quiet: bool) -> None:
        """Say what happened since; ``quiet``: no message waits to be read."""
        zmq = self._zmq
        while self._monitor.poll(0):
            said = self._utils.recv_monitor_message(self._monitor)
            event = said["event"]
            if event & self._joined:
                self._unread.joined(int(said["value"]))
            if event == zmq.EVENT_DISCONNECTED:
                self._given_up = time.monotonic()
                self._ended = True
                self._unread.left(int(said["value"]))
            elif event & self._trying:
                self._given_up = None
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED and self._ended:
                self._say_ended()
                self._ended = self._said = False
                self.to.say(f"{self.name}: connected again")
        if quiet and self._unread.endless():
            self.to.refuse(self.kind, "an endless message: connection ended")
        if quiet and self._ended:  # what it sent before comes first
            self._say_ended()
        if quiet and self._given_up is not None and time.monotonic() - self._given_up > _GIVEN_UP:
            self._given_up = None
            self._again()

    def _say_ended(self) -> None:
        if not self._said:
            self.to.say(f"{self.name}: the connection ended; waiting for it to come back")
        self._said = True

    def _again(self) -> None:
        if self._bound:  # the peer connects, not we
            return
        self.to.refuse(self.kind, "a message above the limit, or not ZeroMQ: connection ended")
        with contextlib.suppress(self._zmq.ZMQError):  # that is gone already
            self._socket.disconnect(self._endpoint)
        self._socket.connect(self._endpoint)

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close()


class Unread:
    """Ends connections whose message has no end.

    ZeroMQ bounds the size of a part and how many messages wait, not the parts of one message, which it gathers until
    the last one came. The system knows how much a connection received; what of it was not read, though no message
    waits, belongs to one that is not whole. Where the system does not tell, nothing is ended.

    Parameters
    ----------
    most_bytes : int
        Of a message.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._memory = memory_limit()
        self._peers: dict[int, tuple[Any, int]] = {}  # handle: whose, and bytes that others account for
        self._read = self._before = 0

    def joined(self, handle: int) -> None:
        """Follow a connection."""
        found = _tcp(handle)
        if found is not None:
            self._peers[handle] = found[0], 0

    def left(self, handle: int) -> None:
        """Follow a connection no longer: what it left unread nobody will read."""
        self._peers.pop(handle, None)
        self._begin()

    def read(self, size: int) -> None:
        """Note bytes that were read."""
        self._read += size

    def endless(self) -> bool:
        """End the connection that holds too much of a message; return whether there was one."""
        unread = {}
        for handle, (whose, before) in list(self._peers.items()):
            found = _tcp(handle)
            if found is None or found[0] != whose:
                del self._peers[handle]
            else:
                unread[handle] = found[1] - before
        held = sum(unread.values()) - self._read
        still, self._before = self._read == self._before, self._read
        if held <= _HELD[0] or not still:  # what came a moment ago may be on its way
            return False
        # Empty parts take thirty times as much memory as they have bytes.
        if held <= self.most_bytes + _HELD[1] and memory_limit() > _SHORT * self._memory:
            return False
        worst = max(unread, key=lambda handle: unread[handle])
        _tcp(worst, end=True)
        del self._peers[worst]
        self._begin()
        return True

    def _begin(self) -> None:
        """Count anew."""
        self._read = 0
        for handle, (whose, _) in list(self._peers.items()):
            found = _tcp(handle)
            self._peers[handle] = whose, 0 if found is None else found[1]


def _tcp(handle: int, end: bool = False) -> tuple[Any, int] | None:
    """The peer of a connection of ZeroMQ's, and the bytes it sent; None where that is unknown. ``end``: end it."""
    asked = getattr(socket_module, "TCP_INFO", None)
    if asked is None:
        return None
    try:
        with socket_module.socket(fileno=os.dup(handle)) as copy:
            said = copy.getsockopt(socket_module.IPPROTO_TCP, asked, _TCP_INFO.size)
            peer = copy.getpeername()
            if end:  # at once, and not once the peer has been heard out
                copy.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_LINGER, struct.pack("ii", 1, 0))
                copy.shutdown(socket_module.SHUT_RDWR)
    except OSError:  # it is gone, or no TCP
        return None
    return (peer, int(_TCP_INFO.unpack(said)[0])) if len(said) == _TCP_INFO.size else None


def patient_send(socket: Any, parts: list[Any], seconds: float = 60.0) -> None:
    """Send a message; raise :class:`ConfigError` when nobody takes it for so long."""
    zmq = needed("zmq", "pyzmq")
    socket.sndtimeo = int(1000 * seconds)
    try:
        socket.send_multipart(parts)
    except zmq.Again:
        raise ConfigError(
            f"nobody received for {seconds:g} s: is 'ptychopinn live' running on this address?"
        ) from None


def series_name(said: Any) -> str:
    """Return the name of a series, a number or a short text.

    Raises
    ------
    DataError
        When it is none.

    Examples
    --------
    >>> series_name(7)
    '7'
    """
    if not (isinstance(said, str) and len(said) <= 200) and not (
        isinstance(said, int) and said.bit_length() <= 64
    ):
        raise DataError("malformed series: expected a number or a short text")
    return str(said)


def subscribed(socket: Any, seconds: float = 60.0) -> None:
    """Wait until somebody subscribes to an ``XPUB`` socket: what is published before nobody hears.

    Raises
    ------
    ConfigError
        When nobody does for so long.
    """
    if not socket.poll(int(1000 * seconds)):
        raise ConfigError(
            f"nobody subscribed for {seconds:g} s: is 'ptychopinn live' running on this address?"
        )
    socket.recv()


def let_go(socket: Any, seconds: float = 60.0) -> None:
    """Close a sender's socket once all that it was given has gone out.

    A process that ends before takes what waits in the socket with it.

    Raises
    ------
    ConfigError
        When the peer does not take it for so long.
    """
    began = time.monotonic()
    context = socket.context
    socket.close(linger=int(1000 * seconds) + _EARLY)
    context.term()
    if time.monotonic() - began >= seconds:
        raise ConfigError(f"the last messages were not taken for {seconds:g} s: does 'ptychopinn live' hang?")
