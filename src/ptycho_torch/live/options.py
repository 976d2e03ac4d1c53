"""Settings of a live session, each with its help text, range and default. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ptycho_torch.config import opt
from ptycho_torch.errors import ConfigError, brief

__all__ = ["LiveConfig"]

_UNITS: Final = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "nm": 1e-9}


@dataclass
class LiveConfig:
    """How a stream is read, paired, shown and ended."""

    source: str | None = opt(
        None,
        "protocol of SOURCE: swmr, simplon1, simplon2, pva or folder; found from the address where that says it",
    )
    positions: str | None = opt(
        None,
        "where positions come from, if not with the frames: tcp://HOST:PORT (PandA messages), or a growing HDF5 file",
    )
    samples_per_frame: int = opt(1, "encoder samples of a frame, which are averaged", ge=1, le=10_000)
    position_keys: str | None = opt(
        None, "names of x and y: 'X,Y', data sets, attributes or channels of the encoder"
    )
    position_unit: Literal["px", "m", "mm", "um", "nm"] = opt(
        "px", "unit of the positions; all but px require --pixel-size"
    )
    frames_key: str | None = opt(None, "data set of the frames, in HDF5 files")
    numbers_key: str | None = opt(None, "data set of the frame numbers, in HDF5 files")
    first_number: int = opt(0, "number that the detector gives to the frame of position 0", ge=0)
    crop: int | None = opt(
        None, "width of the square of detector pixels to keep around the zero frequency", ge=2, le=65536
    )
    centre: str | None = opt(None, "zero frequency on the detector, 'ROW,COLUMN'; default: the middle")
    orientation: str = opt(
        "auto",
        "how frames lie: as-is, mirror-x, mirror-y, turn-180, swap, swap-mirror-x, swap-mirror-y, swap-turn-180;"
        " 'auto' takes what explains the first hundred frames",
    )
    solving: bool = opt(True, "solve while frames arrive; without it the page shows where there is light")
    frames: int | None = opt(None, "number of frames in the whole scan; default: as the sender says", ge=1)
    patience: float = opt(
        10.0, "seconds to wait for missing halves after the sender has ended the scan", ge=0
    )
    silence: float = opt(30.0, "seconds without anything new after which a scan is complete; 0: never", ge=0)
    max_message: int = opt(256, "largest message and largest frame, MiB", ge=1, le=16384)
    max_waiting: int = opt(262_144, "frames, and positions, that may wait for their other half", ge=1)
    page: bool = opt(True, "serve the page")
    host: str = opt("127.0.0.1", "address that the page is served on; 0.0.0.0 lets other machines see it")
    port: int = opt(0, "port of the page; 0: one that is free", ge=0, le=65535)
    linger: float = opt(5.0, "seconds for which the page is served after the end", ge=0)
    to_zmq: str | None = opt(None, "also publish the object on this ZeroMQ address")
    to_pva: str | None = opt(None, "also serve the object as NTNDArrays: pva://CHANNEL")
    to_hdf5: bool = opt(False, "also write the growing object to live.h5 (SWMR)")
    interval: float = opt(1.0, "seconds between objects that are published", ge=0.05)
    uncertainty: bool = opt(
        False,
        "at the end, also give each pixel's error bars, and show them on the page; takes about six times as long",
    )
    save_scan: bool = opt(False, "also write frames and positions as scan.npz")

    def keys(self) -> tuple[str, str] | None:
        """Names of x and of y, if given."""
        return None if self.position_keys is None else _pair("--position-keys", self.position_keys)

    def middle(self) -> tuple[int, int] | None:
        """Row and column of the zero frequency, if given."""
        if self.centre is None:
            return None
        row, column = _pair("--centre", self.centre)
        try:
            return int(row), int(column)
        except ValueError:
            raise ConfigError(f"--centre: expected ROW,COLUMN, found {brief(self.centre)}") from None

    def scale(self, pixel_size: float | None) -> float:
        """Object pixels for a unit of the positions."""
        if self.position_unit == "px":
            return 1.0
        if pixel_size is None:
            raise ConfigError(
                f"--position-unit {self.position_unit} requires --pixel-size, which turns it into pixels"
            )
        return _UNITS[self.position_unit] / pixel_size


def _pair(flag: str, text: str) -> tuple[str, str]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(parts):
        raise ConfigError(f"{flag}: expected two, separated by a comma, found {brief(text)}")
    return parts[0], parts[1]
