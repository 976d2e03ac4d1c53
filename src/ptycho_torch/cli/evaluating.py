"""``ptychopinn evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptycho_torch.cli.console import Console, JsonFlag, QuietFlag, guarded

__all__ = ["add_to"]


@guarded
def evaluate(
    reconstruction: Annotated[Path, typer.Argument(help="reconstruction.npz")],
    reference: Annotated[
        Path,
        typer.Argument(
            help="A reconstruction, a scan with objectGuess, or an NPY or NPZ file with an object."
        ),
    ],
    register: Annotated[
        bool, typer.Option("--register", help="Also find and apply a sub-pixel shift.")
    ] = False,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", "-o", help="Also write metrics.json and comparison.png here.", show_default=False
        ),
    ] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Score a reconstruction against a reference: SSIM, MS-SSIM, PSNR, FRC, complex correlation.

    Both are aligned first (global phase, amplitude scale, and a shift if asked); what was applied is reported.
    """
    console = Console(json, quiet)
    from ptycho_torch.evaluation import evaluate as score
    from ptycho_torch.evaluation import load_reference

    ours, theirs = load_reference(reconstruction), load_reference(reference)
    scores = score(ours, theirs, register=register)
    files: dict[str, Path] = {}
    if output_dir is not None:
        from ptycho_torch.files import ensure_output_dir, write_text_atomic
        from ptycho_torch.report.figures import comparison_figure, save_figure
        from ptycho_torch.report.tables import json_text
        from ptycho_torch.result import load_reconstruction

        rec = load_reconstruction(reconstruction)
        folder = ensure_output_dir(output_dir)
        files = {"metrics": folder / "metrics.json", "figure": folder / "comparison.png"}
        save_figure(comparison_figure(rec, theirs, register=register), files["figure"])
        write_text_atomic(files["metrics"], json_text(scores))
    console.finish({**scores, "files": {k: str(v) for k, v in files.items()}}, _table(scores), "Scores")
    console.files(files)


def _table(scores: dict[str, object]) -> dict[str, object]:
    rows: dict[str, object] = {}
    for part in ("amplitude", "phase"):
        figures = scores[part]
        assert isinstance(figures, dict)
        for key, value in figures.items():
            if isinstance(value, dict):
                value = ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in value.items())
            rows[f"{part} {key}"] = value
    rows["complex correlation"] = scores["complex_correlation"]
    alignment = scores["alignment"]
    assert isinstance(alignment, dict)
    rows |= {f"aligned: {k.replace('_', ' ')}": v for k, v in alignment.items()}
    notes = scores["notes"]
    assert isinstance(notes, list)
    rows |= {f"note {number}": text for number, text in enumerate(notes, 1)}
    return rows


def add_to(app: typer.Typer) -> None:
    app.command("evaluate")(evaluate)
