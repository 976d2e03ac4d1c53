"""Adding patches into one canvas: sub-pixel, weighted by the illumination, phases aligned.

    O = sum_k T_k(w) z_k T_k(o_k) / sum_k T_k(w),        w = sum_modes |P|^2,  |z_k| = 1

T_k samples a patch on the canvas's whole pixels by Keys' cubic convolution (a = -1/2, continued past
the edge as Keys does, so quadratics are exact up to the last pixel). Memory is the canvas, three
float32 planes, and one batch.

Source of the kernel: R. G. Keys, IEEE Trans. ASSP 29, 1153 (1981).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.errors import DataError
from ptycho_torch.files.memory import memory_limit
from ptycho_torch.physics.patches import cubic_kernel
from ptycho_torch.reconstruction.phases import overlap_edges, stragglers, synchronise

__all__ = ["Canvas"]

_OVERLAP = 0.05
"""Least overlap, as a part of a patch's overlap with itself, whose phase is trusted."""
_COHERENCE = 0.3
"""Least |sum conj(a) b| / sum |a||b| of an overlap whose phase is trusted."""
_AGREEING = math.cos(0.3)
"""Mean cosine of the phase between overlapping patches above which they count as agreeing."""
_OUTLIER = 0.5
"""Radians by which a single patch among agreeing ones must be off to be turned."""
_PRIOR = 2.0
"""Overlaps that count as having agreed before anything was seen."""
_MEMORY = 128.0
"""Overlaps over which agreement is averaged."""
_SETTLED = 32
"""Overlaps that must have been seen before patches of one batch are no longer compared with each other."""
_PART = 512
"""Most patches that are synchronised at once."""
_SNAP = 2.0**20
_FLOOR = 1e-3


@dataclass
class _Batch:
    """Patches on the canvas's grid: ``field`` (P, N, N) = w o, ``weight`` (P, N, N), ``base`` (P, 2) = x, y."""

    field: Tensor
    weight: Tensor
    base: NDArray[np.int64]
    index: Tensor


@dataclass
class _Links:
    """Compared nodes: ``pairs`` (E, 2), ``products`` (E,) sum conj(a) b, ``bounds`` (E,) sum |a||b|."""

    pairs: NDArray[np.int64]
    products: NDArray[np.complex128]
    bounds: NDArray[np.float64]

    @classmethod
    def none(cls) -> _Links:
        return cls(np.zeros((0, 2), np.int64), np.zeros(0, np.complex128), np.zeros(0))

    def and_also(self, other: _Links) -> _Links:
        return _Links(
            np.concatenate([self.pairs, other.pairs]),
            np.concatenate([self.products, other.products]),
            np.concatenate([self.bounds, other.bounds]),
        )

    @property
    def cosine(self) -> float:
        """Sum of the cosines of the phases between nodes, weighted by coherence."""
        return float((self.products.real / self.bounds).sum())

    @property
    def strength(self) -> float:
        """What :attr:`cosine` would be if all phases agreed."""
        return float((np.abs(self.products) / self.bounds).sum())


class Canvas:
    """The stitched object while it grows.

    ``positions``: (M, 2) float64, (x, y) pixels, of everything that will be added; they fix size and
    origin. ``size``: N. ``weight``: (N, N), not negative, usually ``|P|^2`` summed over modes; None
    weighs all pixels alike. Canvas pixel [i, j] lies at scan coordinate (origin_xy[0] + j,
    origin_xy[1] + i); a patch's pixel [N//2, N//2] lies at its position.

    Phases (``align``): each patch is known up to a global phase. As long as overlapping patches agree
    (mean cosine above 0.955) they are added as they are, since turning each one onto its neighbours
    would let errors pile up over a long scan; only a patch off by more than 0.5 rad is turned.
    When they do not agree, all patches of a batch are turned to fit the canvas and each other.
    Overlaps that are small or incoherent decide nothing. Patches should come in an order in which
    each batch overlaps what was added before; a part of the scan that joins the rest only later keeps the
    phase it had.

    Raises :class:`DataError` when positions are not finite, the canvas would not fit into memory, or
    the weight is unusable.
    """

    def __init__(
        self,
        positions: NDArray[Any] | Tensor,
        size: int,
        weight: Tensor | NDArray[Any] | None = None,
        *,
        device: torch.device | str = "cpu",
        align: bool = True,
    ) -> None:
        places = _positions(positions).reshape(-1, 2)
        if not len(places):
            raise DataError("positions: there are none")
        low, high = np.ceil(places.min(0)), np.ceil(places.max(0))
        width, height = (int(n) for n in high - low + size)
        if 12 * width * height > memory_limit():
            raise DataError(
                f"positions: expected a scan whose canvas fits into memory, found one of {height} x {width} pixels; "
                "check that positions are in pixels"
            )
        self.size, self.device, self.align = size, torch.device(device), align
        self.shape = (height, width)
        self.origin_xy: NDArray[np.float64] = low - size // 2
        given = torch.ones(size, size) if weight is None else torch.as_tensor(weight)
        self._weight = given.detach().to(self.device, torch.float32)
        if self._weight.shape != (size, size):
            raise DataError(f"weight: expected shape ({size}, {size}), found {tuple(self._weight.shape)}")
        least, most = (float(v) for v in torch.aminmax(self._weight))
        if not (least >= 0 and 0 < most < math.inf):
            raise DataError(
                f"weight: expected finite values of at least 0, not all 0; found {least} to {most}"
            )
        self._weight = self._weight / most
        self._peak = most
        # Planes: real and imaginary part of sum w o, and sum w.
        self._planes = torch.zeros(3 * height * width, device=self.device)
        self._table = _self_overlap(self._weight.cpu().double().numpy())
        self._agreed = self._compared = _PRIOR
        self._seen = 0

    def add(self, patches: Tensor, positions: NDArray[Any] | Tensor) -> None:
        """Adds patches (B, K, N, N) complex at positions (B, K, 2) = (x, y) pixels.

        Raises :class:`DataError` when shapes do not fit or a position lies outside those announced.
        """
        size = self.size
        places = _positions(positions)
        if patches.ndim != 4 or patches.shape[2:] != (size, size) or not patches.is_complex():
            raise DataError(f"patches: expected complex (B, K, {size}, {size}), found {tuple(patches.shape)}")
        if places.shape != (*patches.shape[:2], 2):
            raise DataError(f"positions: expected {(*patches.shape[:2], 2)}, found {places.shape}")
        flat, places = patches.detach().reshape(-1, size, size).to(self.device), places.reshape(-1, 2)
        for start in range(0, len(places), _PART):
            part = self._sample(flat[start : start + _PART], places[start : start + _PART])
            turn = self._turns(part) if self.align else None
            if turn is not None:
                part.field *= torch.from_numpy(turn).to(self.device, torch.complex64)[:, None, None]
            self._accumulate(part)

    def finish(self) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        """The object (H, W) complex64 and the summed weight (H, W) float32 in the unit given.

        The object is 0 where less than a thousandth of one patch's peak weight arrived. The canvas
        may go on growing afterwards.
        """
        real, imaginary, weight = self._planes.view(3, *self.shape)
        known = weight > _FLOOR
        scale = torch.where(known, 1 / torch.where(known, weight, 1), 0)
        obj = torch.complex(real * scale, imaginary * scale)
        return obj.cpu().numpy(), (weight * self._peak).cpu().numpy()

    def _sample(self, patches: Tensor, places: NDArray[np.float64]) -> _Batch:
        """Patches at the whole canvas pixels that their window covers."""
        size, (height, width) = self.size, self.shape
        corner = np.ceil(places)
        base = (corner - size // 2 - self.origin_xy).astype(np.int64)
        if (base < 0).any() or (base > (width - size, height - size)).any():
            raise DataError("positions: expected those that the canvas was made for, found one outside them")
        late = torch.from_numpy((corner - places).astype(np.float32)).to(self.device)
        x, y = _matrices(late[:, 0], size), _matrices(late[:, 1], size)
        stack = torch.stack([patches.real, patches.imag, self._weight.expand_as(patches.real)], 1).float()
        stack = y[:, None] @ stack @ x.mT[:, None]
        # The kernel's negative lobes may dip below zero beside a sharp edge.
        weight = stack[:, 2].clamp_min(0)
        field = torch.complex(stack[:, 0] * weight, stack[:, 1] * weight)
        first = torch.from_numpy(base[:, 1] * width + base[:, 0]).to(self.device)
        step = torch.arange(size, device=self.device)
        index = first[:, None, None] + (step[:, None] * width + step)
        return _Batch(field, weight, base, index)

    def _accumulate(self, part: _Batch) -> None:
        plane = self.shape[0] * self.shape[1]
        index = torch.cat([part.index.reshape(-1) + k * plane for k in range(3)])
        values = torch.cat(
            [part.field.real.reshape(-1), part.field.imag.reshape(-1), part.weight.reshape(-1)]
        )
        self._planes.index_add_(0, index, values)

    def _turns(self, part: _Batch) -> NDArray[np.complex128] | None:
        """Rotation of each patch, or None when all are to stay as they are."""
        links = self._canvas_links(part)
        settled = self._seen >= _SETTLED and self._agreed >= _AGREEING * self._compared
        if not (settled and links.cosine >= _AGREEING * links.strength):
            links = links.and_also(self._inner_links(part))
        self._seen += len(links.pairs)
        kept = math.exp(-len(links.pairs) / _MEMORY)
        self._agreed = kept * self._agreed + links.cosine
        self._compared = kept * self._compared + links.strength
        turns = synchronise(len(part.base) + 1, links.pairs, links.products)
        if self._agreed < _AGREEING * self._compared:
            return turns[1:]
        turns = stragglers(turns, links.pairs, links.products, _OUTLIER)[1:]
        return turns if (turns != 1).any() else None

    def _canvas_links(self, part: _Batch) -> _Links:
        """Products of the canvas (node 0) with the patches (nodes 1 ...) that really overlap it."""
        rough = self._stride
        index = part.index[:, ::rough, ::rough]
        real, imaginary, weight = self._planes.view(3, -1)[:, index.reshape(-1)].view(3, *index.shape)
        field, own = part.field[:, ::rough, ::rough], part.weight[:, ::rough, ::rough]
        canvas = torch.complex(real, imaginary)
        product = (canvas.conj() * field).sum((1, 2))
        bound = (canvas.abs() * field.abs()).sum((1, 2))
        overlap = (weight * own).sum((1, 2)) / own.square().sum((1, 2)).clamp_min(1e-30)
        nodes = np.arange(1, len(part.base) + 1)
        return _believed(product, bound, overlap, np.stack([np.zeros_like(nodes), nodes], 1))

    def _inner_links(self, part: _Batch) -> _Links:
        """Products of pairs of patches of one batch, which are nodes 1 ... as above."""
        size, rough = self.size, self._stride
        shift = part.base[:, None] - part.base[None]
        near = (np.abs(shift) < size).all(-1)
        clipped = np.clip(shift, 1 - size, size - 1) + size - 1
        pairs = overlap_edges(np.where(near, self._table[clipped[..., 1], clipped[..., 0]], 0), _OVERLAP)
        flat = part.field.reshape(len(part.base), -1)
        step = torch.arange(0, size, rough, device=self.device)
        found = _Links.none()
        for start in range(0, len(pairs), _PART):
            some = pairs[start : start + _PART]
            i, j = torch.from_numpy(some.T).to(self.device)
            # Pixel r of patch i is pixel r - d of patch j.
            d = torch.from_numpy(part.base[some[:, 1]] - part.base[some[:, 0]]).to(self.device)
            column, row = step - d[:, 0, None], step - d[:, 1, None]
            inside = ((row >= 0) & (row < size))[:, :, None] & ((column >= 0) & (column < size))[:, None, :]
            index = row.clamp(0, size - 1)[:, :, None] * size + column.clamp(0, size - 1)[:, None, :]
            other = flat[j].gather(1, index.flatten(1)).view(index.shape) * inside
            mine = part.field[i][:, ::rough, ::rough]
            product, bound = (mine.conj() * other).sum((1, 2)), (mine.abs() * other.abs()).sum((1, 2))
            found = found.and_also(_believed(product, bound, torch.ones_like(bound), some + 1))
        return found

    @property
    def _stride(self) -> int:
        """Every second pixel tells a patch's global phase as well as all of them."""
        return 2 if self.size >= 32 else 1


def _believed(product: Tensor, bound: Tensor, overlap: Tensor, pairs: NDArray[np.int64]) -> _Links:
    """The overlaps that are large and coherent enough."""
    values = torch.stack([product.real, product.imag, bound, overlap]).double().cpu().numpy()
    complex_, bounds = values[0] + 1j * values[1], values[2]
    good = (values[3] >= _OVERLAP) & (bounds > 0) & (np.abs(complex_) >= _COHERENCE * bounds)
    return _Links(pairs[good], complex_[good], bounds[good])


def _positions(positions: NDArray[Any] | Tensor) -> NDArray[np.float64]:
    raw = positions.detach().cpu().numpy() if isinstance(positions, Tensor) else positions
    places = np.asarray(raw, dtype=np.float64)
    if places.shape[-1:] != (2,) or not np.isfinite(places).all():
        raise DataError(f"positions: expected finite (x, y) on the last axis, found shape {places.shape}")
    # A whole number with rounding noise on it must not lose a row of the patch.
    return np.rint(places * _SNAP) / _SNAP


def _matrices(late: Tensor, size: int) -> Tensor:
    """(P, N, N) matrices; row t samples a line of N pixels at t + late, 0 <= late < 1.

    Rows that would leave the line, the last one unless ``late`` is 0, are zero.
    """
    if size < 3:
        raise DataError(f"patches: expected at least 3 pixels a side, found {size}")
    at = torch.arange(size, device=late.device, dtype=late.dtype)
    extended = cubic_kernel(
        (at[:, None] - (at[0] - 1 + torch.arange(size + 2, device=late.device))) + late[:, None, None]
    )
    matrix = extended[..., 1:-1].clone()
    # Keys' continuation past the ends: f[-1] = 3 f[0] - 3 f[1] + f[2], and mirrored.
    edge = torch.tensor([3.0, -3.0, 1.0], device=late.device, dtype=late.dtype)
    matrix[..., :3] += extended[..., :1] * edge
    matrix[..., -3:] += extended[..., -1:] * edge.flip(0)
    matrix[:, -1] *= (late == 0)[:, None]
    return matrix


def _self_overlap(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2N-1, 2N-1) autocorrelation of the weight over its value at zero shift, which is in the middle."""
    size = len(weight)
    spectrum = np.fft.rfft2(weight, (2 * size, 2 * size))
    full = np.fft.fftshift(np.fft.irfft2(np.abs(spectrum) ** 2, (2 * size, 2 * size)))[1:, 1:]
    return np.clip(full / full[size - 1, size - 1], 0, None)
