"""Models for other runtimes: ONNX, and programs of ``torch.export``.

A file takes frames, positions or offsets, and a probe, and gives an object, all as real tensors; what the numbers
mean is in its metadata, with a certificate of how far it was from torch when it was written.
"""

from __future__ import annotations

from ptycho_torch.config.exporting import ExportOptions
from ptycho_torch.export.onnxfile import export_onnx, export_program

__all__ = ["ExportOptions", "export_onnx", "export_program"]
