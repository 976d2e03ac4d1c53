"""``ptychopinn evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptycho_torch.cli.console import Console, JsonFlag, QuietFlag, guarded

if TYPE_CHECKING:
    from ptycho_torch.evaluation import Aligned

__all__ = ["add_to"]

_PARTS = ("amplitude", "phase", "complex")
_NAMES = {
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "psnr": "PSNR (dB)",
    "correlation": "mean-free correlation",
    "nrmse": "NRMSE",
    "frc_half_bit": "FRC, half bit",
    "frc_1_7": "FRC, 1/7",
    "frc50": "FRC, 1/2",
}
_APPLIED = {
    "ramp": {"ramp_xy": "phase ramp (rad per px)", "ramp_detector_px": "the same (detector px)"},
    "shift": {"shift_xy": "shift (px)"},
    "phase": {"phase": "phase (rad)"},
    "scale": {"amplitude_scale": "factor on the amplitude"},
}


@guarded
def evaluate(
    reconstruction: Annotated[Path, typer.Argument(metavar="IMAGE", help="reconstruction.npz")],
    reference: Annotated[
        Path,
        typer.Argument(
            metavar="REFERENCE",
            help="A reconstruction, a scan with objectGuess, or an NPY or NPZ file with an object.",
        ),
    ],
    keep: Annotated[
        str,
        typer.Option(
            "--keep",
            help="Count these as errors instead of taking them off: ramp, phase, scale, shift; with commas between.",
            show_default=False,
        ),
    ] = "",
    register: Annotated[bool, typer.Option("--register", hidden=True)] = False,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            help="Also write metrics.json, comparison.png, frc.png and report.html here.",
            show_default=False,
        ),
    ] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Score a reconstruction against a reference: SSIM, PSNR, NRMSE, correlations, and resolution by FRC.

    What ptychography leaves open is taken off first: a linear phase ramp, the global phase, the amplitude's scale and
    a shift. What was taken off is reported.
    """
    console = Console(json, quiet)
    from ptycho_torch.evaluation import aligned, load_reference, score
    from ptycho_torch.files import require_new

    # The shift is looked for anyway, so --register of earlier commands has nothing left to ask for.
    del register
    words = [word.strip() for word in keep.split(",") if word.strip()]
    if output_dir is not None:
        outputs = ("metrics.json", "comparison.png", "frc.png", "report.html")
        require_new([output_dir / name for name in outputs], reconstruction, reference)
    both = aligned(load_reference(reconstruction), load_reference(reference), keep=words)
    scores = score(both)
    table = _table(scores)
    files = {} if output_dir is None else _write(output_dir, both, scores, table)
    console.finish({**scores, "files": {k: str(v) for k, v in files.items()}}, table, "Scores")
    console.files(files)


def _write(
    output_dir: Path, both: Aligned, scores: Mapping[str, Any], table: Mapping[str, Any]
) -> dict[str, Path]:
    from ptycho_torch.evaluation import ring_correlations
    from ptycho_torch.files import ensure_output_dir, write_text_atomic
    from ptycho_torch.report.figures import aligned_figure, save_figure
    from ptycho_torch.report.html import Section, write_report
    from ptycho_torch.report.rings import frc_figure
    from ptycho_torch.report.tables import json_text

    folder = ensure_output_dir(output_dir)
    names = {"metrics": "metrics.json", "figure": "comparison.png", "frc": "frc.png", "report": "report.html"}
    files = {name: folder / file for name, file in names.items()}
    comparison, rings = aligned_figure(both), frc_figure(ring_correlations(both))
    save_figure(comparison, files["figure"])
    save_figure(rings, files["frc"])
    figures = [
        ("Reconstruction and reference in one gauge, and their difference", comparison),
        ("Fourier ring correlation, its smoothed curve and thresholds", rings),
    ]
    write_report(
        files["report"], "Scores", [Section("Scores", table=table), Section("Figures", figures=figures)]
    )
    write_text_atomic(files["metrics"], json_text(scores))
    return files


def _table(scores: Mapping[str, Any]) -> dict[str, object]:
    rows: dict[str, object] = {"complex correlation": scores["complex_correlation"]}
    for part in _PARTS:
        for key, value in scores[part].items():
            name = _NAMES[key]
            rows[f"{part} {name}"] = _crossing(value) if isinstance(value, dict) else value
    alignment = scores["alignment"]
    for gauge, fields in _APPLIED.items():
        if gauge in alignment["kept"]:
            rows[f"kept: {gauge}"] = "counts as an error"
            continue
        for field, label in fields.items():
            value = alignment[field]
            if isinstance(value, tuple):
                value = f"x {value[0]:.4g}, y {value[1]:.4g}"
            if value is not None:
                rows[f"applied: {label}"] = value
    rows |= {f"note {number}": text for number, text in enumerate(scores["notes"], 1)}
    return rows


def _crossing(found: Mapping[str, Any]) -> str:
    if not found["crossed"]:
        return "not crossed"
    return f"{found['resolution_px']:.4g} px half period, {found['frequency']:.4g} cycles per px"


def add_to(app: typer.Typer) -> None:
    app.command("evaluate")(evaluate)
