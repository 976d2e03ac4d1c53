"""Small pictures and tables for notebooks, with numpy alone: nothing to wait for where an object is only shown."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import one_line

__all__ = ["gray", "html_card", "png", "wheel"]

_WIDTH = 256


def png(image: NDArray[np.uint8]) -> bytes:
    """Return an image as PNG.

    Parameters
    ----------
    image : (H, W) or (H, W, 3) uint8 array
        Gray, or red, green, blue.

    Examples
    --------
    >>> png(np.zeros((2, 3), np.uint8))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    height, width = image.shape[:2]
    rows = np.ascontiguousarray(image).reshape(height, -1)
    raw = np.hstack(
        [np.zeros((height, 1), np.uint8), rows]
    ).tobytes()  # each row begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if image.ndim == 2 else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def gray(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return (H, W) real values as gray, the outermost half per cent cut off; what is not finite is black.

    Examples
    --------
    >>> gray(np.array([[0.0, 0.5, 1.0]])).tolist()
    [[0, 127, 255]]
    """
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, (0.5, 99.5)) if known.size > 200 else (known.min(), known.max())
    shown = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-30)
    return (255 * np.clip(shown, 0, 1)).astype(np.uint8)


def wheel(values: NDArray[np.complexfloating]) -> NDArray[np.uint8]:
    """Return (H, W) complex values in colour: phase as hue, amplitude as brightness; (H, W, 3)."""
    amplitude = np.abs(values)
    top = np.percentile(amplitude, 99.5) or 1.0
    turn = np.angle(values)[..., None] - 2 * np.pi * np.arange(3) / 3
    colour = (0.5 + 0.5 * np.cos(turn)) * np.clip(amplitude / top, 0, 1)[..., None]
    return (255 * colour).astype(np.uint8)


def html_card(title: str, rows: Mapping[str, Any], images: Mapping[str, NDArray[np.uint8]]) -> str:
    """Return a table with pictures beside it, as HTML that needs nothing from elsewhere.

    Parameters
    ----------
    title : str
    rows : dict
        Name to value; None is left out. Texts may come out of files: they are escaped.
    images : dict
        Caption to picture, as :func:`png` takes it.
    """
    cells = "".join(
        f"<tr><th style='text-align:left'>{_text(key)}</th><td style='text-align:left'>{_text(value)}</td></tr>"
        for key, value in rows.items()
        if value is not None
    )
    figures = "".join(
        f"<figure style='margin:0'><img alt='{_text(caption)}' width='{min(_WIDTH, 4 * image.shape[1])}' "
        f"style='image-rendering:pixelated' src='data:image/png;base64,{base64.b64encode(png(image)).decode()}'>"
        f"<figcaption>{_text(caption)}</figcaption></figure>"
        for caption, image in images.items()
    )
    return (
        f"<div><b>{_text(title)}</b><div style='display:flex;gap:1em;flex-wrap:wrap;align-items:flex-start'>"
        f"<table>{cells}</table>{figures}</div></div>"
    )


def _text(value: Any) -> str:
    return html.escape(one_line(f"{value:.4g}" if isinstance(value, float) else value, 200), quote=True)
