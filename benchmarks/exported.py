"""The shipped solver as ONNX: how far onnxruntime, without torch, is from torch.

python benchmarks/exported.py --output benchmarks/results
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import harness
from ptycho_torch.config.exporting import ExportOptions
from ptycho_torch.export import export_onnx, onnxfile


def rows_of(about: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each output: the largest difference, and for the object both errors from float64."""
    certificate, options = about["certificate"], about["options"]
    case = {key: options[key] for key in ("iterations", "subsets", "region")}
    rounding = certificate["rounding"] or {}
    return [
        {
            **case,
            "frames": certificate["frames"],
            "output": name,
            "largest difference / largest value": value,
            **{
                f"{measure} from float64, {who}": values.get(key) if name == "object" else None
                for measure, values in (("rms", rounding), ("largest", rounding.get("largest", {})))
                for who, key in (("file", "onnx"), ("torch", "torch"))
            },
        }
        for name, value in certificate["largest_difference"].items()
    ]


def main() -> None:
    made: argparse.ArgumentParser = harness.parser(__doc__, shared=False)
    made.add_argument("--iterations", type=int, nargs="+", default=[10])
    arguments = made.parse_args()
    rows: list[dict[str, Any]] = []
    onnxfile.TOLERANCE = (
        0.0  # so that the certificate measures both errors from float64, however small they are
    )
    with tempfile.TemporaryDirectory() as folder:
        for iterations in arguments.iterations:
            options = ExportOptions(iterations=1 if arguments.quick else iterations)
            rows += rows_of(export_onnx(Path(folder) / "solver.onnx", None, options))
    print(harness.table(rows))
    print(harness.keep("exported", arguments, {"rows": rows}))


if __name__ == "__main__":
    main()
