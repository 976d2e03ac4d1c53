"""Several processes at work on one job, as ``torchrun`` starts them: which one this is, and what all wait for.

Nothing is started here, and nothing imports torch before there are several. ``torchrun``, ``srun torchrun`` and
``--processes`` say in the environment which process this is; one that was started by hand is alone. What is exchanged
goes by Gloo, and between GPUs by NCCL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ptycho_torch.errors import ProcessLost, PtychoError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ALONE", "Group", "current", "dealt", "joined", "noticing", "rank_of"]

T = TypeVar("T")
_PATIENCE: Final = timedelta(days=1)
"""A process that dies closes its connections and is noticed at once; this is for machines that fall silent."""


def rank_of() -> int:
    """Return the number of this process among those of its job, 0 where it is alone."""
    return int(os.environ.get("RANK", 0)) if int(os.environ.get("WORLD_SIZE", 1)) > 1 else 0


@dataclass(frozen=True)
class Group:
    """The processes of a job.

    Attributes
    ----------
    rank : int
        Number of this one.
    size : int
        How many there are.
    on_machine : int
        How many of them share this machine's memory.
    """

    rank: int = 0
    size: int = 1
    on_machine: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def shared(self, make: Callable[[], T]) -> T:
        """Return what the first process makes, on all of them; an error that it meets ends all.

        Raises
        ------
        ProcessLost
            Where the first process failed, which says why, or any has ended.
        """
        if self.size == 1:
            return make()
        box: list[Any] = [None, False]
        if self.first:
            try:
                box = [make(), True]
            finally:  # the others are told in any case, else they would wait
                self._tell(box)
            return box[0]  # type: ignore[no-any-return]
        self._tell(box)
        if not box[1]:
            raise ProcessLost("the first process of this job has failed; its own message says why")
        return box[0]  # type: ignore[no-any-return]

    def wait(self) -> None:
        """Wait until all processes are here. Raises :class:`ProcessLost` where one has ended."""
        if self.size > 1:
            import torch.distributed as dist

            with noticing():
                dist.barrier()

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over all processes of a tensor without gradient."""
        return value if self.size == 1 else self.total(value) / self.size

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over all processes of a tensor without gradient."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        total = value.detach().clone()
        with noticing():
            dist.all_reduce(total)
        return total

    def most(self, number: int) -> int:
        """Return the largest of the numbers of all processes."""
        if self.size == 1:
            return number
        import torch
        import torch.distributed as dist

        found = torch.tensor(number)
        with noticing():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def _tell(self, box: list[Any]) -> None:
        import torch.distributed as dist

        with noticing():
            dist.broadcast_object_list(box, src=0)


ALONE: Final = Group()
"""One process by itself."""


@contextlib.contextmanager
def noticing() -> Iterator[None]:
    """Take a broken connection for what it is: raise :class:`ProcessLost`."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, PtychoError):
            raise
        raise ProcessLost(
            "another process of this job has ended; what was done is kept, --resume goes on from it"
        ) from error


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """Give the group that the environment names, and leave it when the block ends.

    Each process of one machine takes a GPU of its own, where there are any.

    Examples
    --------
    >>> with joined() as group:
    ...     group.size
    1
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    local = int(os.environ.get("LOCAL_RANK", 0))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    with noticing():
        dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield current()
    finally:
        dist.destroy_process_group()


def current() -> Group:
    """Return the group that this process is in now; :data:`ALONE` outside :func:`joined`."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    size = dist.get_world_size()
    return Group(dist.get_rank(), size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))


def dealt(costs: Sequence[float], group: Group) -> list[int]:
    """Return which of some units are this process's, the dearest first: each goes to who has least to do.

    Parameters
    ----------
    costs : sequence of float
        What each unit costs, in any unit; the same on all processes.
    group : Group

    Examples
    --------
    >>> [dealt([1, 5, 2, 2], Group(rank, 2)) for rank in (0, 1)]
    [[1], [2, 3, 0]]
    """
    loads = [0.0] * group.size
    mine = []
    for unit in sorted(range(len(costs)), key=lambda unit: (-costs[unit], unit)):
        least = loads.index(min(loads))
        loads[least] += costs[unit]
        if least == group.rank:
            mine.append(unit)
    return mine
