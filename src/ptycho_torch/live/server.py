"""The page: the growing object in a browser, from one small server that loads nothing from elsewhere. Needs no torch.

The server reads copies and holds no lock while it encodes; viewers share what was encoded. Without the token in
the address nothing is answered.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import json
import logging
import secrets
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ConfigError, OutputError
from ptycho_torch.live.canvas import GrowingCanvas
from ptycho_torch.live.sources.base import needed

if TYPE_CHECKING:
    from ptycho_torch.live.session import Session

__all__ = ["Page", "encoded_image"]

logger = logging.getLogger(__name__)
_EDGE: Final = (16, 1024)
"""Least and most pixels a side that a viewer may ask for."""
_FRESH: Final = 0.2
"""Seconds for which an encoded image serves."""
_KEPT: Final = 8
_AGAIN: Final = 0.5
_DARK: Final = 0.02
"""Part of the largest light below which the object is not shown."""
_POSITIONS: Final = 20_000
_FULL: Final = 65535
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:;"
        " connect-src 'self'"
    ),
}


def encoded_image(canvas: GrowingCanvas, edge: int, region: tuple[int, int, int, int] | None = None) -> bytes:
    """Return amplitude and phase as a browser draws them.

    Parameters
    ----------
    canvas : GrowingCanvas
    edge : int
        Pixels a side at most; a larger object is averaged over blocks.
    region : tuple of int, optional
        (x0, y0, x1, y1) in scan coordinates; default: all of it.

    Returns
    -------
    bytes
        Length of the header (uint32, little-endian), the header (JSON: ``shape``, ``origin``, ``block``, ``extent``
        of the whole object, ``peak``, ``low``, ``high``, ``version``, ``sigma``), amplitude and phase (uint16: 0 where
        nothing is, else 1 to 65535 for 0 to ``peak`` and -pi to pi); then, if ``sigma`` holds their two peaks, their
        error bars, 1 to 65535 for 0 to these.
    """
    obj, light, origin, version = canvas.snapshot()
    whole = [int(origin[0]), int(origin[1]), int(origin[0] + obj.shape[1]), int(origin[1] + obj.shape[0])]
    lit = light > _DARK * light.max(initial=0)
    sigma = canvas.error_bars(version)
    if region is not None:
        x0, y0, x1, y1 = (int(v) for v in region)
        rows = slice(max(0, y0 - whole[1]), max(0, y1 - whole[1]))
        columns = slice(max(0, x0 - whole[0]), max(0, x1 - whole[0]))
        obj, lit = obj[rows, columns], lit[rows, columns]
        sigma = None if sigma is None else sigma[:, rows, columns]
        origin = np.array([max(x0, whole[0]), max(y0, whole[1])])
    block = max(1, -(-max(obj.shape) // edge)) if obj.size else 1
    bars = (
        [] if sigma is None else [_blocks(np.where(np.isfinite(s), s, 0), lit, block)[0].real for s in sigma]
    )
    obj, lit = _blocks(obj, lit, block)
    most = [float(np.quantile(part[lit], 0.995)) if lit.any() else 1.0 for part in bars]
    amplitude = np.abs(obj)
    seen = amplitude[lit]
    peak = float(seen.max(initial=0)) or 1.0
    low, high = (float(v) for v in np.quantile(seen, (0.005, 0.995))) if seen.size else (0.0, 1.0)
    head = {
        "shape": list(obj.shape),
        "origin": origin.tolist(),
        "block": block,
        "extent": whole,
        "peak": peak,
        "low": low,
        "high": high,
        "version": version,
        "sigma": most or None,
    }
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 4)
    parts = [amplitude / peak, np.angle(obj) / (2 * np.pi) + 0.5]
    parts += [np.clip(part / (high or 1.0), 0, 1) for part, high in zip(bars, most, strict=True)]
    coded = [np.where(lit, np.rint(1 + part * (_FULL - 1)), 0).astype("<u2").tobytes() for part in parts]
    return struct.pack("<I", len(text)) + text + b"".join(coded)


def _blocks(
    obj: NDArray[np.complex64], lit: NDArray[np.bool_], block: int
) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    """Means over blocks of pixels of what is lit."""
    if block == 1 or not obj.size:
        return obj, lit
    rows, columns = (edge // block for edge in obj.shape)
    window = np.s_[: rows * block, : columns * block]
    split = (rows, block, columns, block)
    count = lit[window].reshape(split).sum((1, 3))
    total = np.where(lit, obj, 0)[window].reshape(split).sum((1, 3))
    return (total / np.maximum(count, 1)).astype(np.complex64), 2 * count > block**2


class Page:
    """The server, in a thread of its own; one that ends is begun anew.

    Parameters
    ----------
    session : Session
    host : str
        ``127.0.0.1`` unless others are to see it.
    port : int
        0: one that is free.
    token : str, optional
        Default: a random one.

    Raises
    ------
    OutputError
        When the port is taken.
    DependencyError
        Without starlette and uvicorn.
    """

    def __init__(
        self, session: Session, host: str = "127.0.0.1", port: int = 0, token: str | None = None
    ) -> None:
        self.session, self.host = session, host
        self.token = token or secrets.token_urlsafe(16)
        self._images: OrderedDict[Any, tuple[float, bytes]] = OrderedDict()
        self._encoding = threading.Lock()
        self._uvicorn = needed("uvicorn")
        self._app = self._made()
        self._socket = self._bound(port)
        self.port = int(self._socket.getsockname()[1])
        self._closing = False
        self._server: Any = None
        self._thread = threading.Thread(target=self._serve, name="page", daemon=True)
        self.seen = 0.0
        """When a viewer last asked (``time.monotonic``), 0 before the first."""

    @property
    def url(self) -> str:
        """Address with the token."""
        host = "localhost" if self.host in ("127.0.0.1", "::1") else self.host
        return f"http://{host}:{self.port}/?token={self.token}"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the server; requests in work are answered."""
        self._closing = True
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(5.0)
        self._socket.close()

    def _bound(self, port: int) -> Any:
        import socket

        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        made = socket.socket(family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((self.host, port))
            made.listen(128)
        except (OSError, OverflowError) as error:
            made.close()
            raise OutputError(
                f"page: {self.host}:{port} cannot be served: {error}; give another --port, or 0"
            ) from error
        return made

    def _serve(self) -> None:
        while not self._closing:
            config = self._uvicorn.Config(
                self._app, log_level="error", access_log=False, lifespan="off", timeout_graceful_shutdown=2
            )
            self._server = self._uvicorn.Server(config)
            why = "it ended"
            try:
                asyncio.run(self._server.serve(sockets=[self._socket.dup()]))  # it closes what it is given
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                logger.debug("server failed", exc_info=True)
            if not self._closing:
                self.session.intake.say(f"page: the server is begun anew: {why}")
                time.sleep(_AGAIN)

    # ---- what it answers

    def _made(self) -> Any:
        applications, routing = needed("starlette.applications"), needed("starlette.routing")
        responses = needed("starlette.responses")
        self._threadpool = needed("starlette.concurrency").run_in_threadpool
        self._response = responses.Response
        page = resources.files("ptycho_torch.live").joinpath("page.html").read_bytes()

        async def index(_: Any) -> Any:
            return self._answer(page, "text/html; charset=utf-8")

        routes = [
            routing.Route("/", self._guarded(index)),
            routing.Route("/state", self._guarded(self._state)),
            routing.Route("/image", self._guarded(self._image)),
            routing.Route("/positions", self._guarded(self._positions)),
            routing.Route("/download", self._guarded(self._download)),
            routing.Route("/control", self._guarded(self._control), methods=["POST"]),
        ]
        return applications.Starlette(routes=routes)

    def _answer(self, body: bytes, kind: str, status: int = 200, more: dict[str, str] | None = None) -> Any:
        return self._response(body, status, {**_HEADERS, **(more or {})}, kind)

    def _guarded(self, answer: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def guarded(request: Any) -> Any:
            given = request.headers.get("x-token") or request.query_params.get("token") or ""
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                return self._answer(b"the address needs its token\n", "text/plain", 403)
            self.seen = time.monotonic()
            try:
                return await answer(request)
            except ConfigError as error:
                return self._answer(f"{error}\n".encode(), "text/plain", 400)

        return guarded

    async def _state(self, _: Any) -> Any:
        facts = await self._threadpool(self.session.facts)
        return self._answer(json.dumps(facts).encode(), "application/json")

    async def _image(self, request: Any) -> Any:
        edge, region = _asked(request.query_params)
        body = await self._threadpool(self._shared, edge, region)
        if body is None:
            return self._answer(b"", "application/octet-stream", 204)
        return self._answer(body, "application/octet-stream")

    def _shared(self, edge: int, region: tuple[int, int, int, int] | None) -> bytes | None:
        """An image, encoded once for all who ask for the same."""
        canvas = self.session.growing.canvas
        if canvas.version == 0:
            return None
        with self._encoding:
            at, body = self._images.pop((edge, region), (0.0, b""))
            if not body or time.monotonic() - at > _FRESH:
                at, body = time.monotonic(), encoded_image(canvas, edge, region)
            self._images[edge, region] = at, body
            while len(self._images) > _KEPT:
                self._images.popitem(last=False)
            return body

    async def _positions(self, request: Any) -> Any:
        known = self.session.growing.positions
        first = _number(request.query_params, "from", 0, 0, 1 << 31)
        body = known[first : first + _POSITIONS].astype("<f4").tobytes()
        return self._answer(body, "application/octet-stream")

    async def _download(self, _: Any) -> Any:
        body = await self._threadpool(self._npz)
        name = 'attachment; filename="live.npz"'
        return self._answer(body, "application/octet-stream", more={"Content-Disposition": name})

    def _npz(self) -> bytes:
        growing = self.session.growing
        obj, light, origin, version = growing.canvas.snapshot()
        arrays: dict[str, Any] = {
            "object": obj,
            "weight": light,
            "origin_xy": origin.astype(np.float64),
            "positions": growing.positions.copy(),
        }
        sigma = growing.canvas.error_bars(version)
        if sigma is not None:
            arrays["sigma_amplitude"], arrays["sigma_phase"] = sigma
        if growing.probe is not None:
            arrays["probe"] = growing.probe
        out = io.BytesIO()
        np.savez(out, **arrays)
        return out.getvalue()

    async def _control(self, request: Any) -> Any:
        asked = request.query_params.get("do")
        session = self.session
        if asked == "pause":
            session.solving.clear()
        elif asked == "go":
            session.solving.set()
        elif asked == "finish":
            session.intake.say("a viewer says that the scan is complete")
            session.finish.set()
        else:
            raise ConfigError("do: expected pause, go or finish")
        return self._answer(b"", "text/plain", 204)


def _number(asked: Any, name: str, default: int, low: int, high: int) -> int:
    text = asked.get(name, str(default))
    try:
        value = int(text[:12])
    except ValueError:
        raise ConfigError(f"{name}: expected a whole number") from None
    if not low <= value <= high:
        raise ConfigError(f"{name}: expected {low} to {high}")
    return value


def _asked(asked: Any) -> tuple[int, tuple[int, int, int, int] | None]:
    edge = _number(asked, "edge", 512, *_EDGE)
    if "x0" not in asked:
        return edge, None
    far = 1 << 30
    x0, y0, x1, y1 = (_number(asked, name, 0, -far, far) for name in ("x0", "y0", "x1", "y1"))
    if not (x1 > x0 and y1 > y0):
        raise ConfigError("region: expected x1 above x0 and y1 above y0")
    return edge, (x0, y0, x1, y1)
