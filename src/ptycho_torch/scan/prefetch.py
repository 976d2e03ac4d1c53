"""Reading one part ahead of the one that is in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["one_ahead", "stretches"]

T = TypeVar("T")


def one_ahead(read: Callable[[slice], T], parts: Iterable[slice]) -> Iterator[T]:
    """Yield ``read`` of each part in order; the next one is read in a thread while this one is in use.

    Parameters
    ----------
    read
        Called in the thread, with one part at a time.
    parts
        Two results at most are held at once.

    Examples
    --------
    >>> list(one_ahead(lambda part: part.stop, stretches(5, 2)))
    [2, 4, 5]
    """
    with ThreadPoolExecutor(1, thread_name_prefix="frames") as reader:
        waiting: Future[T] | None = None
        for part in parts:
            coming = reader.submit(read, part)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def stretches(count: int, size: int) -> Iterator[slice]:
    """Yield slices of at most ``size`` that cover ``range(count)`` in order."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
