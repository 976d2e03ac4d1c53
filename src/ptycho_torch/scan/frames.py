"""Where frames come from: one interface for arrays in memory, files and whatever comes later.

A :class:`FrameSource` gives amplitudes, sqrt(counts), whatever is stored: it cuts and bins the
detector, sets untrusted pixels to 0 and takes square roots of counts when frames are asked for, so that
integers stay integers until then. What has to be known of all frames is measured in one pass and kept.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike, NDArray

from ptycho_torch.errors import DataError
from ptycho_torch.files.memory import need_memory
from ptycho_torch.scan.facts import Cut, FrameFacts
from ptycho_torch.scan.prefetch import one_ahead, stretches

__all__ = ["ArrayFrames", "FrameSource", "as_source"]

Index = NDArray[np.int64]

_READ_BYTES: Final = 4 << 20
"""Bytes of float32 frames in one chunk; two are held at once, and measuring makes a few copies."""


class FrameSource(NDArrayOperatorsMixin, ABC):
    """Frames (M, N, N) float32, amplitudes with the zero frequency at pixel [N//2, N//2].

    Indexing reads: ``source[3]`` is one frame, ``source[2:9]`` and ``source[[4, 1]]`` are several.
    :meth:`chunks` goes through all of them in bounded memory. :meth:`select` reads nothing. Arithmetic and
    ``numpy.asarray`` read everything at once.

    A subclass says how stored values are read (:meth:`stored`); everything else follows. Frames that are
    read are the caller's own only where the source says so: do not write into them.

    Parameters
    ----------
    count
        Number of frames M.
    cut
        The part of the detector to use; its size is N.
    counts
        What is stored are counts; amplitudes are stored otherwise.
    good
        (N, N) bool; other pixels read as 0 and are not measured. None trusts all.

    Examples
    --------
    >>> frames = ArrayFrames(np.full((3, 4, 4), 9, np.uint16), counts=True)
    >>> frames[0, 0, 0], frames.select([2, 0]).shape, frames.mean_power
    (np.float32(3.0), (2, 4, 4), 144.0)
    """

    dtype = np.dtype(np.float32)
    ndim = 3
    files: tuple[Path, ...] = ()
    """Files that frames lie in."""

    def __init__(
        self, count: int, cut: Cut, counts: bool = False, good: NDArray[np.bool_] | None = None
    ) -> None:
        self.cut, self.counts, self.good = cut, counts, good
        self.shape = (count, cut.size, cut.size)
        self._facts: FrameFacts | None = None

    @abstractmethod
    def stored(self, which: slice | Index) -> NDArray[Any]:
        """Return stored values (K, H, W) of some frames, cut but not binned, in any real type.

        ``which``: a slice with step 1, or indices from 0 to M - 1 in any order.
        """

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of what is stored."""
        return self.stored(slice(0, 1)).dtype

    @property
    def chunk(self) -> int:
        """Frames that are read at once; files override it to read whole chunks of theirs."""
        return max(1, _READ_BYTES // max(1, 4 * self.shape[1] ** 2 * self.cut.bin**2))

    def read(self, which: slice | Index) -> NDArray[np.float32]:
        """Return amplitudes (K, N, N) of some frames; ``which`` as in :meth:`stored`."""
        values = self.stored(which)
        keep = self.kept
        if keep is None and not self.counts and self.cut.bin == 1:
            return np.asarray(values, dtype=np.float32)
        with np.errstate(over="ignore"):
            frames = values.astype(np.float32)
        if keep is not None:
            frames[:, ~keep] = 0
        if self.cut.bin > 1:
            edge, bins = self.shape[1], self.cut.bin
            powers = frames if self.counts else np.square(frames)
            frames = powers.reshape(-1, edge, bins, edge, bins).sum((2, 4))
            return np.sqrt(frames, out=frames)
        with np.errstate(invalid="ignore"):
            return np.sqrt(frames, out=frames) if self.counts else frames

    def __getitem__(self, index: Any) -> Any:
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) and index else (index, ())
        if first is Ellipsis:
            return self.read(slice(0, len(self)))[index]
        if isinstance(first, slice) and first.step in (None, 1):
            start, stop, _ = first.indices(len(self))
            frames = self.read(slice(start, max(start, stop)))
            return frames[(slice(None), *rest)] if rest else frames
        which = np.arange(len(self))[first]
        frames = self.read(np.atleast_1d(which).reshape(-1)).reshape(*which.shape, *self.shape[1:])
        return frames[(*(slice(None),) * which.ndim, *rest)] if rest else frames

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        arrays = (np.asarray(value) if isinstance(value, FrameSource) else value for value in inputs)
        return getattr(ufunc, method)(*arrays, **kwargs)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        need_memory(4 * math.prod(self.shape), "frames", "take some of them, or go through all with chunks()")
        frames = self.read(slice(0, len(self)))
        return np.array(frames, dtype=dtype) if copy else np.asarray(frames, dtype=dtype)

    def astype(self, dtype: DTypeLike) -> NDArray[Any]:
        """Return all frames at once as an array of another type."""
        return np.asarray(self, dtype=dtype)

    def chunks(self, size: int | None = None) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield all frames in order, ``size`` at a time with their place, one chunk read ahead."""
        yield from one_ahead(lambda part: (part, self.read(part)), stretches(len(self), size or self.chunk))

    def select(self, index: Any) -> FrameSource:
        """Return some frames as a view: nothing is read or copied, and what was measured is kept."""
        which = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        return _Selection(self, which.astype(np.int64))

    def masked(self, good: NDArray[np.bool_]) -> FrameSource:
        """Return the same frames with pixels 0 where ``good`` (N, N) is False."""
        merged = np.asarray(good, dtype=bool) if self.good is None else self.good & good
        if self.good is not None and np.array_equal(merged, self.good):
            return self
        return self._with(good=merged, _facts=None)

    def recut(self, cut: Cut) -> FrameSource:
        """Return another part of the detector of the same frames, nothing masked."""
        return self._with(cut=cut, shape=(len(self), cut.size, cut.size), good=None, _facts=None)

    def as_counts(self) -> FrameSource:
        """Return the same frames, with what is stored taken as counts; what was measured is kept."""
        return self._with(counts=True)

    def measured(self, facts: FrameFacts) -> FrameSource:
        """Return the same frames with what another process has measured of them: they are not read for it again."""
        if len(facts.total) != len(self):
            raise DataError(f"frames: expected facts of {len(self)} frames, found {len(facts.total)}")
        return self._with(_facts=facts)

    @property
    def whole(self) -> FrameSource:
        """All frames of which these were selected."""
        return self

    def _with(self, **changes: Any) -> FrameSource:
        changed = copy.copy(self)
        changed.__dict__.update(changes)
        return changed

    @property
    def kept(self) -> NDArray[np.bool_] | None:
        """Trusted pixels as stored, before binning."""
        if self.good is None or self.cut.bin == 1:
            return self.good
        return np.repeat(np.repeat(self.good, self.cut.bin, 0), self.cut.bin, 1)

    # ---- what is known of all frames

    @property
    def facts(self) -> FrameFacts:
        """What one pass over all frames found; the pass is made when it is first asked for."""
        if self._facts is None:
            keep = self.kept
            parts = stretches(len(self), self.chunk)
            self._facts = FrameFacts.joined(
                list(one_ahead(lambda part: FrameFacts.of(self.stored(part), keep), parts))
            )
        return self._facts

    @property
    def power(self) -> NDArray[np.float64]:
        """(M,) sum of squared amplitudes of each frame, its counts where those are known."""
        return self.facts.total if self.counts else self.facts.squares

    @property
    def mean_power(self) -> float:
        """Mean over frames of :attr:`power`. Raises :class:`DataError` when there is no signal."""
        if not len(self):
            raise DataError("frames: there are none")
        if not self.power.sum() > 0:
            raise DataError(f"frames: all {len(self)} are zero everywhere")
        return float(self.power.mean())

    @property
    def normalisation(self) -> float:
        """Factor from amplitudes to normalised ones, whose mean power is (N/2)^2."""
        return float(self.shape[-1] / 2 / np.sqrt(self.mean_power))

    @property
    def counts_known(self) -> bool:
        """Whether squared amplitudes are whole numbers, so that they are photon counts."""
        return bool(self.facts.whole.all()) if self.counts else self.facts.squares_whole


class ArrayFrames(FrameSource):
    """Frames of an array, or of anything with ``shape``, ``dtype`` and ``__getitem__``, in the type they have.

    Parameters
    ----------
    values
        (M, H, W) real numbers as stored; the array is kept, not copied.
    cut, counts, good
        As in :class:`FrameSource`; ``cut`` None takes (M, N, N) as it is.
    """

    def __init__(
        self,
        values: Any,
        cut: Cut | None = None,
        counts: bool = False,
        good: NDArray[np.bool_] | None = None,
    ) -> None:
        shape = tuple(values.shape)
        cut = cut or Cut(slice(0, shape[1]), slice(0, shape[2]))
        super().__init__(shape[0], cut, counts, good)
        self.values = values

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        return np.dtype(self.values.dtype)

    def stored(self, which: slice | Index) -> NDArray[Any]:
        return np.asarray(self.values[which])[:, self.cut.rows, self.cut.columns]


class _Selection(FrameSource):
    """Some frames of another source."""

    def __init__(self, base: FrameSource, which: Index) -> None:
        if isinstance(base, _Selection):
            which, base = base.which[which], base.base
        super().__init__(len(which), base.cut, base.counts, base.good)
        self.base: FrameSource = base
        self.files = base.files
        self.which: Index = which

    def stored(self, which: slice | Index) -> NDArray[Any]:
        return self.base.stored(_as_slice(self.which[which]))

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        return self.base.stored_dtype

    @property
    def chunk(self) -> int:
        return self.base.chunk

    @property
    def whole(self) -> FrameSource:
        return self.base

    @property
    def facts(self) -> FrameFacts:
        if self._facts is None and self.base._facts is not None and self.good is self.base.good:
            self._facts = self.base._facts.take(self.which)
        return super().facts


def _as_slice(which: Index) -> slice | Index:
    """Indices that follow each other, as a slice: an array then gives a view, and a file one piece."""
    if len(which) and which[-1] - which[0] == len(which) - 1 and (np.diff(which) == 1).all():
        return slice(int(which[0]), int(which[-1]) + 1)
    return which


def as_source(frames: Any) -> FrameSource:
    """Return frames as a :class:`FrameSource`: itself, or an array of amplitudes (M, N, N) wrapped in one."""
    return frames if isinstance(frames, FrameSource) else ArrayFrames(frames)
