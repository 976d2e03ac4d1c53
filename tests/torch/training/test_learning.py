"""What training is for: an object that is right, from losses that mean what they say.

The losses are asked about known answers: a generator that says the truth must cost next to nothing, and
one that says the truth in the wrong place must not.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from answer import Answer
from small import QUIET, correlation, small_config, small_scan
from torch import Tensor

from ptycho_torch.config import TrainingConfig
from ptycho_torch.model import build_pair
from ptycho_torch.physics.units import amplitude_normalisation, intensity_scale_from_counts, normalise_probe
from ptycho_torch.reconstruction import reconstruct
from ptycho_torch.scan import Scan
from ptycho_torch.training.data import Batch, GroupData
from ptycho_torch.training.module import PtychoModule
from ptycho_torch.training.run import Trained, fit

SCAN = small_scan(step=5.0)
CLEAN = small_scan(step=5.0, noise=False)


def asked(config: TrainingConfig, scan: Scan = CLEAN) -> tuple[PtychoModule, Answer, Batch]:
    """Module, generator and one batch with labels, as training has them."""
    assert scan.probe is not None
    probe, scale = normalise_probe(scan.probe), intensity_scale_from_counts(scan.frames)
    autoencoder, _ = build_pair(dataclasses.replace(config.model, probe_modes=None), probe, scale)
    autoencoder.core.generator = answer = Answer(config.model)
    labelled = dataclasses.replace(config, realspace_mae_weight=1.0)
    data = GroupData(scan, labelled, QUIET, amplitude_normalisation(scan.frames))
    batch = next(iter(data.train_dataloader()))
    return PtychoModule(autoencoder, config, data.region), answer, batch


def in_the_probes_gauge(module: PtychoModule, labels: Tensor, x: Tensor) -> Tensor:
    """The true patches, (B C, 1, N, N), scaled to what the model's probe makes of them."""
    predicted = module.autoencoder.core.predict_amplitude(labels)
    return (labels * (predicted * x).sum() / predicted.square().sum()).flatten(0, 1).unsqueeze(1)


def known_part(trained: Trained, scan: Scan) -> float:
    """Correlation of the reconstruction with the truth where frames lie thick, both without their mean."""
    assert scan.object_guess is not None
    rec = reconstruct(trained.diffraction_to_obj, scan)
    x, y = (int(v) for v in rec.origin_xy)
    height, width = rec.object.shape
    around = 2 * scan.N
    truth = np.pad(scan.object_guess, around)[
        y + around : y + around + height, x + around : x + around + width
    ]
    lit = rec.weight > 0.3 * rec.weight.max()
    found, known = rec.object[lit], truth[lit]
    return correlation(found - found.mean(), known - known.mean())


def test_training_finds_the_object() -> None:
    """Untrained, the same network reaches 0.56; with merge offsets negated 0.71, with x and y swapped 0.81."""
    config = small_config(
        nepochs=1000, max_steps=150, n_groups=24, learning_rate=5e-3, frame_weight=0.0, val_fraction=0.0
    )
    config.model.unrolled_iterations = 2
    assert known_part(fit(SCAN, config, QUIET), SCAN) > 0.9


def test_the_truth_costs_nothing_and_the_truth_elsewhere_does() -> None:
    module, answer, batch = asked(small_config(batch_size=12))
    assert batch.labels is not None
    frames_alone = Batch(batch.x, batch.offsets, None)
    answer.answer = in_the_probes_gauge(module, batch.labels, batch.x)
    right = float(module.loss(frames_alone))
    assert right < 0.04 * float(batch.x.mean())
    for wrong in (-batch.offsets, batch.offsets.flip(-1)):
        assert float(module.loss(Batch(batch.x, wrong, None))) > 3 * right


def test_the_share_of_a_frames_own_patch_changes_nothing_where_all_are_right() -> None:
    whole, answer, batch = asked(small_config(batch_size=12))
    others, other_answer, _ = asked(small_config(batch_size=12, overlap_own=0.0, frame_weight=0.0))
    assert batch.labels is not None
    answer.answer = other_answer.answer = in_the_probes_gauge(whole, batch.labels, batch.x)
    right = float(others.loss(Batch(batch.x, batch.offsets, None)))
    assert right < 0.1 * float(batch.x.mean())
    assert float(others.loss(Batch(batch.x, -batch.offsets, None))) > 2 * right


def test_groups_are_solved_where_their_frames_lie() -> None:
    """The physics alone explains a group's frames, and only with each frame in its place."""
    config = small_config(gridsize=2, max_steps=1, nepochs=1, n_groups=8, batch_size=8, val_fraction=0.0)
    config.model.unrolled_iterations, config.model.unrolled_physics_steps = 1, 40
    assert fit(CLEAN, config, QUIET).history[-1]["loss"] < 0.012


def test_equivariance_moves_the_weights() -> None:
    """Its gradient reaches the network: with and without it, one step ends elsewhere."""
    quick = {"overlap": False, "max_steps": 1, "nepochs": 1, "mae_weight": 0.0, "warmup_steps": 0}
    with_it = fit(SCAN, small_config(equivariance_weight=1.0, **quick), QUIET)
    assert with_it.history[-1]["loss"] > 0
    start = with_it.autoencoder.core.generator
    fresh = small_config(equivariance_weight=1.0, **{**quick, "learning_rate": 1e-12})
    still = fit(SCAN, fresh, QUIET).autoencoder.core.generator
    moved = [float((a - b).abs().max()) for a, b in zip(start.parameters(), still.parameters(), strict=True)]
    assert max(moved) > 1e-4


def test_labels_are_what_lies_under_the_frames() -> None:
    """Through the probe they give the frames, so neither axis nor sign of a position is mistaken."""
    _, _, batch = asked(small_config(batch_size=12))
    assert batch.labels is not None
    assert CLEAN.probe is not None
    field = np.fft.fft2(batch.labels.numpy() * CLEAN.probe[0], norm="ortho")
    frames = np.abs(np.fft.fftshift(field, axes=(-2, -1)))
    x = batch.x.numpy()
    scale = np.sum(frames * x) / np.sum(frames**2)
    assert np.linalg.norm(scale * frames - x) / np.linalg.norm(x) < 0.02
