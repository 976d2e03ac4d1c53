"""All figures for one reconstruction against one reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation.alignment import Aligned, align, inner_rectangle
from ptycho_torch.evaluation.frc import crossing, fourier_ring_correlation
from ptycho_torch.evaluation.metrics import complex_correlation, ms_ssim, psnr, ssim
from ptycho_torch.evaluation.reference import Reference, as_reference
from ptycho_torch.result import Reconstruction

__all__ = ["evaluate"]

_FLAT = 1e-4
"""Range (of the mean amplitude, or radians) below which a reference has no structure to score."""


def evaluate(
    reconstruction: Reconstruction | Reference,
    reference: Reconstruction | Reference | NDArray[Any],
    *,
    register: bool = False,
    region: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Scores a reconstruction against a reference; plain values, ready for JSON.

    Both are cropped to what they have in common and aligned (:func:`~ptycho_torch.evaluation.align`).
    ``register`` also moves the reconstruction by a sub-pixel shift. ``region``: (H, W) bool on the
    reconstruction's canvas, to score a part. An array as reference lies at the reconstruction's origin when it has
    its shape, else at (0, 0) like a scan's object.

    Keys: ``amplitude`` and ``phase``, each with ``ssim``, ``ms_ssim``, ``psnr`` (dB), ``frc50`` and ``frc_1_7``
    (see :func:`~ptycho_torch.evaluation.crossing`); ``complex_correlation``; ``alignment``; ``region``;
    ``notes``, which say why a figure is None. SSIM and PSNR are over the region, with the reference's
    range there as data range; MS-SSIM and FRC over the largest rectangle inside it. Phases are taken about the
    reference's mean phase, the reconstruction's within pi of the reference's.

    Raises :class:`DataError` when there is nothing to compare.
    """
    ours, theirs = as_reference(reconstruction), as_reference(reference)
    if not theirs.placed and theirs.object.shape == ours.object.shape:
        theirs = dataclasses.replace(theirs, origin_xy=ours.origin_xy)
    both = align(ours, theirs, register=register, region=region)
    rows, columns = inner_rectangle(both.region)
    x, y = both.origin_xy
    notes: list[str] = []
    amplitude = (np.abs(both.image), np.abs(both.reference))
    level = float(amplitude[1][both.region].mean())
    return {
        "amplitude": _scores("amplitude", *amplitude, both, (rows, columns), _FLAT * level, notes),
        "phase": _scores("phase", *_phases(both), both, (rows, columns), _FLAT, notes),
        "complex_correlation": complex_correlation(both.image, both.reference, both.region),
        "alignment": dataclasses.asdict(both.alignment),
        "region": {
            "pixels": int(both.region.sum()),
            "rectangle_xywh": [
                x + columns.start,
                y + rows.start,
                columns.stop - columns.start,
                rows.stop - rows.start,
            ],
        },
        "notes": notes,
    }


def _phases(both: Aligned) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Phases of image and reference about the reference's mean phase, without jumps between them."""
    mean = np.sum(both.reference[both.region])
    reference = np.angle(both.reference * np.conj(mean))
    return reference + np.angle(both.image * both.reference.conj()), reference


def _scores(
    name: str,
    image: NDArray[np.float64],
    reference: NDArray[np.float64],
    both: Aligned,
    rectangle: tuple[slice, slice],
    flat: float,
    notes: list[str],
) -> dict[str, Any]:
    keys = ("ssim", "ms_ssim", "psnr", "frc50", "frc_1_7")
    scores: dict[str, Any] = dict.fromkeys(keys)
    inside = reference[both.region]
    span = float(inside.max() - inside.min())
    if span <= flat:
        difference = float(np.sqrt(np.mean(np.square(image[both.region] - inside))))
        notes.append(
            f"{name}: the reference is constant, so there is no structure to score; rms difference {difference:.3g}"
        )
        return scores

    def attempt(key: str, measure: Callable[[], Any]) -> None:
        try:
            scores[key] = measure()
        except DataError as reason:  # too small for this one figure: said, and the others go on
            notes.append(f"{name}: {key}: {reason}")

    scores["psnr"] = psnr(image, reference, span, both.region)
    attempt("ssim", lambda: ssim(image, reference, span, both.region))
    try:
        attempt("ms_ssim", lambda: ms_ssim(image[rectangle], reference[rectangle], span))
    except ImportError as reason:
        notes.append(f"{name}: ms_ssim: needs torch and torchmetrics: {reason}")

    def rings() -> None:
        curve = fourier_ring_correlation(image[rectangle], reference[rectangle])
        scores["frc50"], scores["frc_1_7"] = crossing(curve, 0.5), crossing(curve, 1 / 7)

    try:
        rings()
    except DataError as reason:
        notes.append(f"{name}: frc50, frc_1_7: {reason}")
    return scores
