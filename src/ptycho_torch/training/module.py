"""The Lightning module: losses of single frames and of merged neighbours, optimiser, schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import lightning
import numpy as np
import torch
from torch import Tensor

from ptycho_torch.config import TrainingConfig
from ptycho_torch.errors import TrainingError
from ptycho_torch.model import Autoencoder
from ptycho_torch.physics.likelihood import amplitude_mae, poisson_nll, total_variation
from ptycho_torch.physics.patches import crop, merge, merged_under
from ptycho_torch.processes import current
from ptycho_torch.training.data import Batch

__all__ = ["PtychoModule"]


class PtychoModule(lightning.LightningModule):
    """Trains an :class:`~ptycho_torch.model.Autoencoder` on frames alone.

        loss = w_f L(A_hat(o_c), A_c) + w_o L(A_hat(crop(merge o, r_c)), A_c)

    The second term is there when a training group has several frames that are predicted one by one
    (gridsize 1 with ``overlap``): it is what makes neighbours agree. Without neighbours a term of
    equivariance takes its place. L is the weighted sum of
    amplitude error and Poisson likelihood. ``region``: side of a group's common region.
    """

    def __init__(
        self, autoencoder: Autoencoder, config: TrainingConfig, region: int, mask: Tensor | None = None
    ) -> None:
        super().__init__()
        self.autoencoder, self.config, self.region = autoencoder, config, region
        self.single = config.model.gridsize == 1
        self.data_scale = autoencoder.intensity_scale
        self.mask: Tensor | None
        self.register_buffer("mask", mask, persistent=False)
        core = autoencoder.core
        trains_probe = config.probe != "fixed" and config.probe_trainable and config.probe_learning_rate > 0
        core.probe_pairs.requires_grad_(trains_probe)
        core.log_scale.requires_grad_(config.intensity_scale_trainable and config.nll_weight > 0)
        self.steps_before = 0
        self.seconds_before = 0.0
        self.steps_planned = 1
        self.probe_peak = float(core.probe_pairs.detach().square().sum(-1).max().sqrt())
        self.last_good = "no step before it was kept"
        self._began = time.monotonic()
        self._last: tuple[Batch, Tensor] | None = None
        self._sum: Tensor | None = None
        self.batches = 0
        self._begun: tuple[Tensor | None, int] = None, 0
        self.group = current()
        self.heard: Callable[[], int] = lambda: 0
        self.stop: Callable[[int], None] = lambda number: None

    # ---------------------------------------------------------------- losses
    def misfit(self, patches: Tensor, x: Tensor) -> Tensor:
        """Weighted likelihood of frames under patches, both (B, C, N, N)."""
        config, core = self.config, self.autoencoder.core
        predicted = core.predict_amplitude(patches)
        loss = predicted.new_zeros(())
        if config.mae_weight:
            loss = loss + config.mae_weight * amplitude_mae(predicted, x, self.mask)
        if config.nll_weight:
            # Counts are data: they come from the scale that the data had, not from the trained one.
            counts = (x * self.data_scale).square()
            rate = (predicted * core.log_scale.exp()).square()
            loss = loss + config.nll_weight * poisson_nll(rate, counts, self.mask)
        return loss

    def loss(self, batch: Batch) -> Tensor:
        config, core = self.config, self.autoencoder.core
        x, offsets, labels = batch
        groups, members, size = x.shape[0], x.shape[1], x.shape[-1]
        if self.single:
            lone = torch.zeros(groups * members, 1, 1, 2, device=x.device)
            patches = core.propose(x.reshape(-1, 1, size, size), lone, self.mask).patches.view_as(x)
        else:
            patches = core.propose(x, offsets, self.mask, self.region).patches
        supervised = config.model.model_type == "supervised"
        loss = patches.real.new_zeros(())
        if not supervised and self.single and members > 1:
            power = core.probe.abs().square().sum(0)
            shifts = offsets[:, :, 0]
            assert config.overlap_own is not None  # chosen before training
            if config.overlap_own == 1:
                under = crop(merge(patches, power, shifts, self.region), shifts, size)
            else:
                under = merged_under(patches, power, shifts, self.region, config.overlap_own)
            loss = loss + config.overlap_weight * self.misfit(under, x)
            if config.frame_weight:
                loss = loss + config.frame_weight * self.misfit(patches, x)
        elif not supervised:
            loss = loss + self.misfit(patches, x)
        if config.equivariance_weight and self.single and not supervised:
            loss = loss + config.equivariance_weight * self._equivariance(patches.flatten(0, 1).unsqueeze(1))
        smoothness = config.realspace_weight + config.tv_weight
        if smoothness:
            loss = loss + smoothness * total_variation(patches)
        if labels is not None:
            weight = 1.0 if supervised else config.realspace_mae_weight
            loss = loss + weight * self._against(labels, patches)
        return loss

    def _equivariance(self, patches: Tensor) -> Tensor:
        """How differently a moved copy of each patch (B, 1, N, N) is predicted from its own frame.

            | f( |F(P T o)| ) - T o |,   T: a shift by up to N/8 and one of the square's eight symmetries

        Objects may lie anywhere and any way round, so T o is as good an object as o; but the probe lights
        it differently, and what the frame of o left open, that of T o may not.
        Source: D. Chen, J. Tachella and M. E. Davies, "Equivariant imaging", ICCV 2021.
        """
        core, size = self.autoencoder.core, patches.shape[-1]
        rng = np.random.default_rng([self.config.seed, self.steps_before + self.global_step])
        quarter, mirror = int(rng.integers(4)), bool(rng.integers(2))
        shift = rng.integers(-(size // 8), size // 8 + 1, 2)
        moved = torch.rot90(patches, quarter, (-2, -1))
        moved = moved.flip(-1) if mirror else moved
        moved = moved.roll((int(shift[0]), int(shift[1])), (-2, -1))
        frames = core.predict_amplitude(moved)
        lone = torch.zeros(len(moved), 1, 1, 2, device=moved.device)
        return self._against(moved, core.propose(frames, lone, self.mask).patches)

    def _against(self, labels: Tensor, patches: Tensor) -> Tensor:
        """Illumination-weighted |o e^{i phi} - label|, after the global phase of each patch."""
        power = self.autoencoder.core.probe.detach().abs().square().sum(0)
        overlap = (power * labels * patches.conj()).sum((-2, -1), keepdim=True)
        aligned = patches * (overlap / overlap.abs().clamp_min(1e-12)).detach()
        return (power * (aligned - labels).abs()).sum((-2, -1)).mean() / power.sum()

    # ---------------------------------------------------------------- steps
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch) * self.share(batch_idx, len(batch.x))
        self._last = batch, self.group.mean(loss.detach())
        return loss

    def share(self, batch: int, held: int) -> float:
        """What this process's mean over ``held`` groups counts for; gradients are averaged over processes."""
        if self.group.size == 1:
            return 1.0
        return float(self.trainer.datamodule.shares.share(batch, held))  # type: ignore[attr-defined]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse a step that would spoil the weights: loss and every gradient must be finite."""
        assert self._last is not None
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norms = torch.stack([g.norm() for g in gradients]).double()
        loss = self._last[1]
        if not math.isfinite(float(loss.double() + norms.square().sum())):
            self.not_finite("loss" if not math.isfinite(float(loss)) else "gradient of the loss")
        self._sum = loss if self._sum is None else self._sum + loss
        self.batches += 1

    def not_finite(self, what: str) -> NoReturn:
        """Raise the error that says at which step it was, and what there is to go on from."""
        raise TrainingError(
            f"{what}: not finite at step {self.steps_before + self.global_step + 1}; nothing of it is kept."
            f" {self.last_good[0].upper()}{self.last_good[1:]}. Try a lower --learning-rate, or check the"
            " frames for outliers"
        )

    @torch.no_grad()
    def check_weights(self) -> None:
        """Refuse weights that the last step has spoiled, seen by the loss of its batch under them."""
        if self._last is None:
            return
        if not math.isfinite(float(self.group.mean(self.loss(self._last[0]).double()))):
            self.not_finite("loss after the step")

    def begun(self, total: float, batches: int) -> None:
        """Go on in the middle of an epoch: losses and number of its batches so far."""
        self._begun = torch.tensor(total) if batches else None, batches

    def on_train_epoch_start(self) -> None:
        (self._sum, self.batches), self._begun = self._begun, (None, 0)
        if self._sum is not None:
            self._sum = self._sum.to(self.device)

    @property
    def epoch_sum(self) -> float:
        """Sum of the losses of the epoch so far."""
        return 0.0 if self._sum is None else float(self._sum)

    @property
    def epoch_loss(self) -> float | None:
        """Mean training loss of the epoch so far; None before its first step."""
        return None if self._sum is None else float(self._sum / self.batches)

    @torch.no_grad()
    def validation_loss(self, batches: Iterable[Batch]) -> float | None:
        """Mean loss of held-out groups; None where there are none. Also fit for an epoch cut short."""
        self.eval()
        losses = [self.loss(self.transfer_batch_to_device(batch, self.device, 0)) for batch in batches]
        self.train()
        return self.group.shared(lambda: float(torch.stack(losses).mean())) if losses else None

    # ---------------------------------------------------------------- optimiser and schedule
    def configure_optimizers(self) -> torch.optim.Optimizer:
        core, rate = self.autoencoder.core, self.config.learning_rate
        groups: list[dict[str, Any]] = [{"params": list(core.generator.parameters()), "scale": rate}]
        if core.probe_pairs.requires_grad:
            probe_rate = self.config.probe_learning_rate * self.probe_peak
            groups.append({"params": [core.probe_pairs], "scale": probe_rate})
        if core.log_scale.requires_grad:
            groups.append({"params": [core.log_scale], "scale": rate})
        return torch.optim.Adam([{**g, "lr": g["scale"]} for g in groups])

    def on_fit_start(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time so far, over all runs that this one resumes."""
        return self.seconds_before + time.monotonic() - self._began

    @property
    def progress(self) -> float:
        """Part of the budget that is used, 0 to 1: of steps or of time, whichever is further."""
        done = (self.steps_before + self.global_step) / self.steps_planned
        if self.config.max_minutes is not None:
            done = max(done, self.seconds / (60 * self.config.max_minutes))
        return min(done, 1.0)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:
        step = self.steps_before + self.global_step
        # Clocks differ, and a signal may reach one process alone: what the first one's clock says holds for all.
        progress, signal = self.progress, 0
        if self.group.size > 1:
            progress = self.group.shared(lambda: self.progress)
            signal = self.group.most(self.heard())
        if signal or (progress >= 1.0 and step > 0):
            self.stop(signal)
            self.trainer.should_stop = True
            return -1
        # A slow machine may have spent the whole budget on the probe: one step is taken all the same.
        factor = 0.5 * (1 + math.cos(math.pi * progress)) if step else 1.0
        if self.config.warmup_steps:
            factor *= min(1.0, (step + 1) / self.config.warmup_steps)
        for optimiser in self.trainer.optimizers:
            for group in optimiser.param_groups:
                group["lr"] = group["scale"] * factor
        return None
