"""All figures for one reconstruction against one reference."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation.alignment import Aligned, align
from ptycho_torch.evaluation.frc import FrcCurve, crossing, fourier_ring_correlation
from ptycho_torch.evaluation.metrics import complex_correlation, correlation, ms_ssim, nrmse, psnr, ssim
from ptycho_torch.evaluation.rectangle import inner_rectangle
from ptycho_torch.evaluation.reference import Reference, as_reference
from ptycho_torch.result import Reconstruction

__all__ = ["aligned", "evaluate", "ring_correlations", "score"]

_FLAT = 1e-4
"""Range (of the mean amplitude, or radians) below which a reference has no structure to score."""
_RINGS = ("frc_half_bit", "frc_1_7", "frc50")


def evaluate(
    reconstruction: Reconstruction | Reference,
    reference: Reconstruction | Reference | NDArray[Any],
    *,
    keep: Collection[str] = (),
    region: NDArray[np.bool_] | None = None,
    register: bool | None = None,
) -> dict[str, Any]:
    """Score a reconstruction against a reference; plain values, ready for JSON.

    Parameters
    ----------
    reconstruction : Reconstruction or Reference
    reference : Reconstruction, Reference or (H, W) array
        An array lies at the reconstruction's origin when it has its shape, else at (0, 0) like a scan's object.
    keep : collection of str
        Which of "ramp", "phase", "scale" and "shift" are not taken off first.
    region : (H, W) bool array, optional
        Part of the reconstruction's canvas to score.
    register : bool, optional
        Of earlier versions, which moved nothing unless asked to: True changes nothing, False keeps the shift.

    Returns
    -------
    dict
        As :func:`score` gives it.

    Raises
    ------
    DataError
        When there is nothing to compare.

    Examples
    --------
    >>> known = np.exp(1j * np.random.default_rng(0).normal(size=(40, 40)))
    >>> ramp = np.exp(0.1j * np.arange(40))
    >>> found = evaluate(as_reference(known * ramp), known)
    >>> round(found["complex_correlation"], 4), round(found["alignment"]["ramp_xy"][0], 4)
    (1.0, -0.1)
    """
    if register is not None:
        warnings.warn(
            "register: the shift is removed anyway; use keep=('shift',)", DeprecationWarning, stacklevel=2
        )
        keep = (*keep, "shift") if not register else keep
    return score(aligned(reconstruction, reference, keep=keep, region=region))


def aligned(
    reconstruction: Reconstruction | Reference,
    reference: Reconstruction | Reference | NDArray[Any],
    *,
    keep: Collection[str] = (),
    region: NDArray[np.bool_] | None = None,
) -> Aligned:
    """Return both in one frame and gauge; arguments as for :func:`evaluate`."""
    ours, theirs = as_reference(reconstruction), as_reference(reference)
    if not theirs.placed and theirs.object.shape == ours.object.shape:
        theirs = dataclasses.replace(theirs, origin_xy=ours.origin_xy)
    return align(ours, theirs, keep=keep, region=region)


def score(both: Aligned) -> dict[str, Any]:
    """Return every score of an aligned pair.

    Returns
    -------
    dict
        ``amplitude`` and ``phase``, each with ``ssim``, ``ms_ssim``, ``psnr`` (dB), ``correlation`` (mean-free),
        ``nrmse`` (of the reference's standard deviation), ``frc_half_bit``, ``frc_1_7`` and ``frc50`` (see
        :func:`~ptycho_torch.evaluation.crossing`); ``complex_correlation``; ``complex``, with ``nrmse`` (of the
        reference's root mean square) and the three ring correlations of the complex objects; ``frc``, how those were
        made; ``alignment``; ``region``; ``notes``, which say why a figure is None. Most are over the region, SSIM and
        PSNR with the reference's range there as data range; MS-SSIM and FRC over the largest rectangle inside it.
        Phases are about the reference's mean phase, the reconstruction's within pi of the reference's.
    """
    rows, columns = inner_rectangle(both.region)
    x, y = both.origin_xy
    notes: list[str] = []
    curves = ring_correlations(both, notes)
    result: dict[str, Any] = {
        name: _scores(name, *pair, both.region, (rows, columns), notes)
        for name, pair in _views(both).items()
        if name != "complex"
    }
    result["complex_correlation"] = complex_correlation(both.image, both.reference, both.region)
    result["complex"] = {"nrmse": nrmse(both.image, both.reference, both.region, mean_free=False)}
    for name in ("amplitude", "phase", "complex"):
        result[name] |= _crossings(curves.get(name))
    return result | {
        "frc": {
            "window": "Tukey, a cosine over half of each side",
            "smoothed_rings": 5,
            "thresholds": "half a bit by the effective pixels of each ring, 1/7, 1/2",
        },
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


def ring_correlations(both: Aligned, notes: list[str] | None = None) -> dict[str, FrcCurve]:
    """Return the ring correlations of amplitude, phase and the complex objects, those that there are.

    Over the largest rectangle inside the region. To ``notes`` is added why one is missing.
    """
    part = inner_rectangle(both.region)
    curves = {}
    for name, (image, reference) in _views(both).items():
        if _is_flat(name, reference[both.region]):
            continue  # which is in the notes of the other scores
        try:
            curves[name] = fourier_ring_correlation(image[part], reference[part])
        except DataError as reason:
            if notes is not None:
                notes.append(f"{name}: {', '.join(_RINGS)}: {reason}")
    return curves


def _views(both: Aligned) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    return {
        "amplitude": (np.abs(both.image), np.abs(both.reference)),
        "phase": _phases(both),
        "complex": (both.image, both.reference),
    }


def _phases(both: Aligned) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Phases of image and reference about the reference's mean phase, without jumps between them."""
    mean = np.sum(both.reference[both.region])
    reference = np.angle(both.reference * np.conj(mean))
    return reference + np.angle(both.image * both.reference.conj()), reference


def _is_flat(name: str, inside: NDArray[Any]) -> bool:
    level = 1.0 if name == "phase" else float(np.abs(inside).mean())
    spread = np.abs(inside - inside.mean()).max() if np.iscomplexobj(inside) else np.ptp(inside)
    return bool(spread <= _FLAT * level)


def _crossings(curve: FrcCurve | None) -> dict[str, Any]:
    if curve is None:
        return dict.fromkeys(_RINGS)
    return dict(zip(_RINGS, (crossing(curve, t) for t in (curve.half_bit(), 1 / 7, 1 / 2)), strict=True))


def _scores(
    name: str,
    image: NDArray[np.float64],
    reference: NDArray[np.float64],
    region: NDArray[np.bool_],
    rectangle: tuple[slice, slice],
    notes: list[str],
) -> dict[str, Any]:
    """All but the ring correlations of amplitude or phase."""
    scores: dict[str, Any] = dict.fromkeys(("ssim", "ms_ssim", "psnr", "correlation", "nrmse"))
    inside = reference[region]
    span = float(np.ptp(inside))
    if _is_flat(name, inside):
        difference = float(np.sqrt(np.mean(np.square(image[region] - inside))))
        notes.append(
            f"{name}: the reference is constant, so there is no structure to score; rms difference {difference:.3g}"
        )
        return scores
    measures: dict[str, Callable[[], float]] = {
        "ssim": lambda: ssim(image, reference, span, region),
        "ms_ssim": lambda: ms_ssim(image[rectangle], reference[rectangle], span),
        "psnr": lambda: psnr(image, reference, span, region),
        "correlation": lambda: correlation(image, reference, region),
        "nrmse": lambda: nrmse(image, reference, region, mean_free=True),
    }
    for key, measure in measures.items():
        try:
            scores[key] = measure()
        except DataError as reason:  # too small or flat for this one figure: said, and the others go on
            notes.append(f"{name}: {key}: {reason}")
    return scores
