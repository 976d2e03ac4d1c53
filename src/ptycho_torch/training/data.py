"""Groups of frames for Lightning: drawn anew each epoch, reproducibly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ptycho_torch.config import ExecutionConfig, TrainingConfig
from ptycho_torch.errors import DataError
from ptycho_torch.physics.gauges import object_scale
from ptycho_torch.physics.patches import crop, region_size
from ptycho_torch.scan import Scan, group_neighbours, group_offsets, training_groups

__all__ = ["Batch", "FrameGroups", "GroupData"]

_GROUPS_PER_EPOCH = 2048
_LABELS_MEASURED = 64


class Batch(NamedTuple):
    """``x`` (B, C, N, N) normalised amplitude, ``offsets`` (B, C, 1, 2), ``labels`` complex like x or None."""

    x: Tensor
    offsets: Tensor
    labels: Tensor | None


class FrameGroups(Dataset[Batch]):
    """Groups of a scan's frames; fetched a whole batch at a time."""

    def __init__(
        self,
        scan: Scan,
        groups: NDArray[np.int64],
        normalisation: float,
        labels: bool = False,
        label_scale: float = 1.0,
    ) -> None:
        self.scan, self.groups, self.normalisation = scan, groups, np.float32(normalisation)
        self.offsets = group_offsets(scan.positions, groups)[0]
        self.labels, self.label_scale = labels, label_scale

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        members = self.groups[indices]
        unique, inverse = np.unique(members, return_inverse=True)
        frames = np.asarray(self.scan.frames[unique], dtype=np.float32) * self.normalisation
        x = torch.from_numpy(frames[inverse.reshape(members.shape)])
        offsets = torch.from_numpy(self.offsets[indices]).float().unsqueeze(2)
        return Batch(x, offsets, self._labels(members) if self.labels else None)

    def _labels(self, members: NDArray[np.int64]) -> Tensor:
        """Return the known object under each frame, (B, C, N, N) complex, times the scale of labels."""
        size, truth = self.scan.frames.shape[-1], self.scan.object_guess
        assert truth is not None
        positions = self.scan.positions[members.reshape(-1)]
        whole = np.floor(positions).astype(np.int64)
        span = np.arange(size + 4) - size // 2 - 2
        rows, columns = whole[:, 1, None] + span, whole[:, 0, None] + span
        rows, columns = rows.clip(0, truth.shape[0] - 1), columns.clip(0, truth.shape[1] - 1)
        window = torch.from_numpy(truth[rows[:, :, None], columns[:, None, :]].astype(np.complex64))
        fraction = torch.from_numpy((positions - whole).astype(np.float32)).unsqueeze(1)
        return self.label_scale * crop(window, fraction, size).view(*members.shape, size, size)


class GroupData(lightning.LightningDataModule):
    """Training and validation groups of one scan, or of two.

    Without a validation scan a part of the *frames* is held out, so no frame is in both. Training
    groups are drawn anew each epoch from ``seed`` and the epoch's number alone: a resumed run sees
    what an uninterrupted one would have seen.
    """

    def __init__(
        self,
        scan: Scan,
        config: TrainingConfig,
        execution: ExecutionConfig,
        normalisation: float,
        validation: Scan | None = None,
    ) -> None:
        super().__init__()
        self.config, self.execution, self.normalisation = config, execution, normalisation
        self.single = config.model.gridsize == 1
        self.members = self._members()
        self.want_labels = config.realspace_mae_weight > 0 or config.model.model_type == "supervised"
        if self.want_labels and scan.object_guess is None:
            raise DataError(
                "realspace_mae_weight, model_type: these need a scan with objectGuess to compare with;"
                " this one has none"
            )
        self.label_scale = 1.0
        self.first_epoch = 0
        self.batches_done = 0
        self.train_scan, self.val_scan = self._split(scan, validation)
        if len(self.train_scan.positions) < self.members:
            raise DataError(
                f"scan: expected at least {self.members} frames for a group, found {len(self.train_scan.positions)}"
            )
        self.val_groups = None if self.val_scan is None else self._groups(self.val_scan, config.seed, True)
        groups = [(self.train_scan, self._groups(self.train_scan, config.seed, False))]
        if self.val_scan is not None and self.val_groups is not None:
            groups.append((self.val_scan, self.val_groups))
        reach = max(float(np.abs(group_offsets(s.positions, g)[0]).max()) for s, g in groups)
        # Groups drawn in later epochs may reach a little further than the first epoch's.
        limit = self._distance() if self.single else reach * 1.25
        self.region = (
            region_size(torch.tensor(max(reach, limit)), config.model.N)
            if self.members > 1
            else config.model.N
        )

    def _members(self) -> int:
        config = self.config
        if not self.single:
            return config.model.gridsize**2
        return config.overlap_frames if config.overlap else 1

    def _distance(self) -> float:
        return self.config.overlap_distance or self.config.model.N / 4

    def _split(self, scan: Scan, validation: Scan | None) -> tuple[Scan, Scan | None]:
        count = round(self.config.val_fraction * len(scan.positions))
        if validation is not None or count < self.members:
            return scan, validation
        # A contiguous corner of the scan: held-out frames then have held-out neighbours.
        order = np.argsort(scan.positions @ np.array([1.0, 1.0]), kind="stable")
        return scan.select(np.sort(order[:-count])), scan.select(np.sort(order[-count:]))

    def _groups(self, scan: Scan, seed: int, fixed: bool) -> NDArray[np.int64]:
        config = self.config
        count = config.n_groups or min(len(scan.positions), _GROUPS_PER_EPOCH)
        if fixed:
            count = min(count, 64)
        if self.single and not config.overlap:
            order = np.random.default_rng(seed).permutation(len(scan.positions))
            return np.resize(order, count)[:, None].astype(np.int64)
        if self.single:
            return training_groups(
                scan.positions, self.members, self._distance(), count, seed, scan_index=scan.scan_index
            )
        return group_neighbours(
            scan.positions,
            config.model.gridsize,
            neighbor_count=config.neighbor_count,
            n_groups=count,
            seed=seed,
            scan_index=scan.scan_index,
        )

    def _loader(self, scan: Scan, groups: NDArray[np.int64]) -> DataLoader[Batch]:
        return DataLoader(
            FrameGroups(scan, groups, self.normalisation, self.want_labels, self.label_scale),
            batch_size=self.config.batch_size,
            num_workers=self.execution.num_workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available() and self.execution.accelerator != "cpu",
        )

    def fit_labels(self, probe: Tensor, mask: Tensor | None) -> None:
        """Bring labels into the gauge of normalised frames and the model's ``probe``, (modes, N, N)."""
        if not self.want_labels:
            return
        order = np.linspace(0, len(self.train_scan.positions) - 1, _LABELS_MEASURED)
        frames = FrameGroups(
            self.train_scan, np.unique(order.astype(np.int64))[:, None], self.normalisation, True
        )
        batch = frames.__getitems__(list(range(len(frames))))
        assert batch.labels is not None
        self.label_scale = object_scale(batch.x, batch.labels, probe, mask)

    @property
    def batches_per_epoch(self) -> int:
        """Steps of one epoch."""
        groups = self.config.n_groups or min(len(self.train_scan.positions), _GROUPS_PER_EPOCH)
        return -(-groups // self.config.batch_size)

    def train_dataloader(self) -> DataLoader[Batch]:
        now = self.trainer.current_epoch if self.trainer is not None else 0
        epoch = self.first_epoch + now
        seed = int(np.random.SeedSequence([self.config.seed, epoch]).generate_state(1)[0])
        groups = self._groups(self.train_scan, seed, False)
        groups = groups[np.random.default_rng(seed).permutation(len(groups))]
        if now == 0:  # an epoch that was begun before: the same groups in the same order, from where it stood
            groups = groups[self.batches_done * self.config.batch_size :]
        return self._loader(self.train_scan, groups)

    def val_batches(self) -> Iterable[Batch]:
        """Held-out groups, the same ones every time; nothing where none are held out."""
        if self.val_scan is None or self.val_groups is None:
            return ()
        return self._loader(self.val_scan, self.val_groups)


def _as_it_is(batch: Any) -> Any:
    return batch
