"""``ptychopinn inspect``, ``verify`` and ``convert``: what concerns the bundle alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptycho_torch.cli.console import Console, JsonFlag, QuietFlag, fail, guarded

__all__ = ["add_to"]

BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Bundle wts.h5.zip, or a folder that holds one.")
]


@guarded
def inspect(bundle: BundleArgument, json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Show what a bundle is and where it comes from. Needs no torch; nothing in the file is run."""
    console = Console(json, quiet)
    from ptycho_torch.bundle import inspect_bundle

    about = inspect_bundle(bundle)
    rows = {k: v for k, v in about.items() if k not in ("params", "members", "provenance")}
    rows |= {f"provenance: {k}": v for k, v in about["provenance"].items()}
    rows |= {f"member: {k}": f"{v} bytes" for k, v in about["members"].items()}
    rows |= {f"params: {k}": v for k, v in about["params"].items()}
    console.finish(about, rows, "Bundle")


@guarded
def verify(bundle: BundleArgument, json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Check a bundle: integrity, then its self-test.

    Exit status: 0 good, 3 damaged, 4 the self-test failed; 2 where there is no bundle.
    """
    console = Console(json, quiet)
    from ptycho_torch.bundle import verify_bundle

    report = verify_bundle(bundle)
    console.finish(report.as_dict(), {c.name: f"{c.status}: {c.text}" for c in report.checks}, report.path)
    if quiet:
        for check in report.checks:
            if check.status == "failed":
                fail(f"{check.name}: {check.text}", "Check", json=False)
    raise typer.Exit(report.exit_status)


@guarded
def convert(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Archive of the TensorFlow program.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Bundle to write, or its path without .zip.")],
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a TensorFlow archive out as a bundle of this package's format. Needs no TensorFlow."""
    console = Console(json, quiet)
    from dataclasses import asdict

    from ptycho_torch.bundle.keras.tensorflow import convert as convert_archive

    report = asdict(convert_archive(old, new))
    rows = {k: v for k, v in report.items() if k not in ("origin", "not_carried")}
    rows |= {f"origin: {k}": v for k, v in report["origin"].items()}
    rows |= {f"not carried over {number}": text for number, text in enumerate(report["not_carried"], 1)}
    console.finish(report, rows, "Converted")


def add_to(app: typer.Typer) -> None:
    app.command("inspect")(inspect)
    app.command("verify")(verify)
    app.command("convert")(convert)
