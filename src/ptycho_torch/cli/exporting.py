"""``ptychopinn export``: a bundle as a file for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ptycho_torch.cli.console import Console, JsonFlag, QuietFlag, guarded
from ptycho_torch.cli.options import apply_flags, with_fields
from ptycho_torch.config.exporting import ExportOptions
from ptycho_torch.errors import ConfigError

__all__ = ["add_to"]


@guarded
@with_fields((ExportOptions, "ONNX and torch.export", ()))
def export(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE",
            help="Bundle wts.h5.zip, or a folder that holds one; default: the one that ships with the package.",
            show_default=False,
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option("--onnx", help="ONNX file to write; compared with torch first.", show_default=False),
    ] = None,
    program: Annotated[
        Path | None,
        typer.Option("--torch-export", help="torch.export program (.pt2) to write.", show_default=False),
    ] = None,
    safetensors: Annotated[
        Path | None,
        typer.Option("--safetensors", help="File to write weights and configuration to.", show_default=False),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="With --safetensors: which of the bundle's models.")
    ] = "diffraction_to_obj",
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    flags: Any = None,
) -> None:
    """Write a bundle's model for other tools: as ONNX, as a torch.export program, or its weights as safetensors.

    An ONNX file takes frames, positions or offsets, and a probe, and gives an object, all as real numbers; it needs
    neither torch nor this package. It is written when onnxruntime, without torch, gives torch's results.
    """
    console = Console(json, quiet)
    if onnx is None and program is None and safetensors is None:
        raise ConfigError("name a file to write: --onnx FILE, --torch-export FILE or --safetensors FILE")
    options = ExportOptions()
    apply_flags(options, flags)
    files: dict[str, Path] = {}
    result: dict[str, Any] = {}
    if safetensors is not None:
        from ptycho_torch.bundle import export_safetensors
        from ptycho_torch.bundle.shipped import shipped_bundle

        path = export_safetensors(shipped_bundle() if bundle is None else bundle, safetensors, model)
        result |= {"file": str(path), "model": model, "bytes": path.stat().st_size}
    table = dict(result)
    if onnx is not None or program is not None:
        from ptycho_torch.export import export_onnx, export_program

        for target, make in ((program, export_program), (onnx, export_onnx)):
            if target is not None:
                about = make(target, bundle, options, say=None if console.silent else _say)
                name = "onnx" if make is export_onnx else "torch_export"
                files[name] = target
                result[name] = about
                table |= {"form": about["form"], **_compared(about)}
    console.finish({**result, "files": {k: str(v) for k, v in files.items()}}, table, "Exported")
    console.files(files)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _compared(about: dict[str, Any]) -> dict[str, Any]:
    certificate = about.get("certificate")
    if certificate is None:
        return {}
    worst, rounding = max(certificate["largest_difference"].values()), certificate["rounding"]
    shown = {
        "difference from torch": f"{worst:.1e} of the largest value, over {certificate['frames']} frames"
    }
    if rounding is not None:
        text = f"{rounding['onnx']:.1e} in the file, {rounding['torch']:.1e} in torch"
        shown["rounding decides in this model"] = text
    return shown


def add_to(app: typer.Typer) -> None:
    app.command("export")(export)
