"""``ptychopinn info``: what a file is, and what would be done with it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptycho_torch.cli.console import Console, JsonFlag, QuietFlag, guarded
from ptycho_torch.cli.options import with_fields
from ptycho_torch.cli.reading import ReadingConfig, reading_options
from ptycho_torch.cli.training import FormatOption, MeasurementOption, ProbeFileOption

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["add_to", "blocks"]


@guarded
@with_fields((ReadingConfig, "Scan file", ()))
def info(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Scan, bundle, reconstruction.npz, or a folder that holds one of the last two.",
        ),
    ],
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture",
            help="PNG to draw: positions, mean frame and probe, or the object.",
            show_default=False,
        ),
    ] = None,
    measurement: MeasurementOption = "auto",
    format: FormatOption = None,
    probe_file: ProbeFileOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    flags: Any = None,
) -> None:
    """Show what FILE is: a scan, a bundle or a result.

    For a scan: its shapes, whether it holds counts or amplitudes and why, photons per frame, overlap, and what
    'reconstruct' would do with it, with the seconds and the memory that this takes. Nothing is written but --picture.
    """
    console = Console(json, quiet)
    from ptycho_torch.files import require_new
    from ptycho_torch.workflows.describe import describe

    if picture is not None:
        require_new([picture], file)
    found = describe(file, format=format, measurement=measurement, probe=probe_file, **reading_options(flags))
    facts = dict(found.facts)
    if picture is not None and found.content is not None:
        from ptycho_torch.report.figures import reconstruction_figure, save_figure, scan_figure

        drawn: Any = found.content
        figure = scan_figure(drawn) if found.kind == "scan" else reconstruction_figure(drawn)
        save_figure(figure, picture)
        facts["files"] = {"figure": str(picture)}
    rows = {"scan": _scan_rows, "bundle": _bundle_rows, "result": _result_rows}[found.kind](facts)
    console.finish(facts, rows, f"{found.kind.capitalize()}: {file.name or file}")
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    if colours and not console.silent and found.content is not None:
        content: Any = found.content
        typer.echo(blocks(_image(content, found.kind)))
    console.files({"figure": picture} if "files" in facts and picture is not None else {})


def _scan_rows(facts: dict[str, Any]) -> dict[str, Any]:
    photons, overlap, plan = facts["photons_per_frame"], facts["overlap"], facts["plan"]
    width, height = facts["extent_xy"]
    rows: dict[str, Any] = {
        "format": facts["format"],
        "frames": f"{facts['frames']} of {facts['N']} x {facts['N']} pixels",
        "frames hold": f"{facts['stored_as']}. {facts['why']}",
        "photons per frame": "not known: amplitudes in a unit of their own"
        if photons is None
        else f"{photons:.3g}",
        "probe": f"{facts['probe_modes']} mode(s), {facts['probe_width']:.3g} pixels wide"
        if facts.get("probe_width")
        else "none in the file: a disk is tried; --probe-file gives one",
        "step": None if facts["step"] is None else f"{facts['step']:.3g} pixels to the nearest position",
        "overlap": None
        if overlap is None
        else f"{100 * overlap:.0f} % of the width of the {'probe' if facts.get('probe_width') else 'frame'}",
        "object": f"{width:.0f} x {height:.0f} pixels",
        "masked pixels": f"{100 * (1 - facts['good_pixels']):.2g} %",
    }
    if facts.get("pixel_m"):
        rows["pixel of the object"] = " x ".join(f"{1e9 * value:.4g} nm" for value in facts["pixel_m"])
    if facts["runs"]:
        rows["runs"] = ", ".join(f"{number}: {count} frames" for number, count in facts["runs"].items())
        rows["next"] = "choose a run with --runs K"
    if plan is not None:
        rows |= {
            "reconstruct would run": ", then ".join(plan["steps"]),
            "that takes": f"about {plan['seconds']:g} s on this processor and {plan['bytes'] / 1e9:.2g} GB of memory",
            "next": plan["command"],
        }
    return {key: value for key, value in rows.items() if value is not None}


def _bundle_rows(facts: dict[str, Any]) -> dict[str, Any]:
    params, origin = facts["params"], facts["provenance"]
    rows = {
        "made by": facts["backend"],
        "format": facts["version"],
        "models": ", ".join(facts["models"]),
        "architecture": params.get("architecture", "cnn"),
        "frames": f"{params.get('N')} x {params.get('N')} pixels, {int(params.get('gridsize', 1)) ** 2} in a group",
        "size": f"{sum(facts['members'].values()) / 1e6:.3g} MB",
        "self-test": "yes: 'ptychopinn verify' runs it" if facts["self_test"] else "none",
    }
    rows |= {f"provenance: {key}": value for key, value in list(origin.items())[:6]}
    return {**rows, "next": "ptychopinn inspect shows all of it; reconstruct SCAN --model uses it"}


def _result_rows(facts: dict[str, Any]) -> dict[str, Any]:
    height, width = facts["object_shape"]
    shown = {
        "object": f"{width} x {height} pixels, {100 * facts['measured_share']:.0f} % of them measured",
        "probe": f"{facts['probe_shape'][0]} mode(s) of {facts['probe_shape'][1]} x {facts['probe_shape'][2]} pixels",
        "frames": facts["frames"],
        "solver": facts.get("solver") or None,
        "sweeps": facts.get("sweeps"),
        "residual R": facts.get("residual"),
        "residual R of withheld frames": facts.get("residual_withheld"),
        "seconds": facts.get("seconds"),
        "scan": (facts.get("provenance") or {}).get("scan", {}).get("name"),
        "next": "ptychopinn evaluate IMAGE REFERENCE scores it",
    }
    return {key: value for key, value in shown.items() if value is not None}


def _image(content: Any, kind: str) -> NDArray[Any]:
    """What the terminal shows: phase or amplitude, whichever changes more; of a scan the mean frame's logarithm."""
    import numpy as np

    if kind == "result":
        measured = content.measured()
        turn = np.sum(content.object * content.weight)
        phase = np.angle(content.object * np.conj(turn))
        rows, columns = np.flatnonzero(measured.any(1)), np.flatnonzero(measured.any(0))
        return np.where(measured, phase, phase[measured].min())[
            rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1
        ]
    chosen = np.unique(np.linspace(0, content.n_frames - 1, min(16, content.n_frames)).astype(int))
    mean = np.square(np.asarray(content.frames[chosen], np.float64)).mean(0)
    return np.log10(mean + mean.max() * 1e-6)


def blocks(image: NDArray[Any], width: int = 48) -> str:
    """Return a real image (H, W) for a terminal of 256 colours: two rows of gray pixels a line.

    ``width``: columns at most. What is not finite is black.

    Examples
    --------
    >>> import numpy as np
    >>> blocks(np.array([[0.0], [1.0]]))
    '\\x1b[38;5;232;48;5;255m▀\\x1b[0m'
    """
    import numpy as np

    step = max(1, -(-image.shape[1] // width))
    height, across = (max(step, edge // step * step) for edge in image.shape)
    small = image[:height, :across].reshape(height // step, step, across // step, step).mean((1, 3))
    known = small[np.isfinite(small)]
    low, high = np.percentile(known, [1, 99]) if known.size else (0.0, 1.0)
    level = np.clip((np.nan_to_num(small, nan=low) - low) / max(high - low, 1e-30), 0, 1)
    gray = 232 + np.rint(23 * level).astype(int)  # the terminal's 24 grays
    if len(gray) % 2:
        gray = np.vstack([gray, np.full((1, gray.shape[1]), 232)])
    rows = zip(gray[::2], gray[1::2], strict=True)
    return "\n".join(
        "".join(f"\x1b[38;5;{t};48;5;{b}m▀" for t, b in zip(top, bottom, strict=True)) + "\x1b[0m"
        for top, bottom in rows
    )


def add_to(app: typer.Typer) -> None:
    app.command("info")(info)
