"""Reconstruction as a whole job: from a bundle and a scan to a folder with the object, pictures and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_torch.config import ExecutionConfig, InferenceConfig, validate
from ptycho_torch.device import device_of
from ptycho_torch.errors import DataError
from ptycho_torch.files import ensure_output_dir, write_bytes_atomic, write_text_atomic
from ptycho_torch.model_manager import load_torch_bundle
from ptycho_torch.reconstruction.predict import reconstruct
from ptycho_torch.report.figures import figure_png, reconstruction_figure, scan_figure
from ptycho_torch.report.html import Section, write_report
from ptycho_torch.report.tables import json_text
from ptycho_torch.result import Reconstruction, save_reconstruction
from ptycho_torch.scan import Geometry, Scan, open_scan
from ptycho_torch.scan.product import Product, write_product
from ptycho_torch.solvers.epie import refine_reconstruction, residual
from ptycho_torch.solvers.ptychi import check_engine, refine_with_ptychi
from ptycho_torch.training.prepare import subsample
from ptycho_torch.workflows.training import described

__all__ = ["ReconstructionOutputs", "reconstruct_to"]


@dataclass
class ReconstructionOutputs:
    """A reconstruction, all files by name, and what ``metrics.json`` says."""

    reconstruction: Reconstruction
    files: dict[str, Path]
    metrics: dict[str, Any]


def reconstruct_to(
    output_dir: str | Path,
    bundle: str | Path,
    scan: Scan | str | Path,
    config: InferenceConfig | None = None,
    execution: ExecutionConfig | None = None,
    *,
    refine: int = 0,
    refine_minutes: float | None = None,
    refine_positions: bool = False,
    engine: str | None = None,
    product: bool | Geometry = False,
    on_groups: Callable[[int, int], None] | None = None,
    on_sweep: Callable[[int, float], None] | None = None,
) -> ReconstructionOutputs:
    """Reconstructs a scan with a bundle's model and keeps the result in ``output_dir``.

    Writes ``reconstruction.npz``, ``reconstruction.png``, ``metrics.json`` and ``report.html``.
    ``refine``: sweeps of iterative refinement over all frames after the network, ``refine_minutes`` at
    most, ``refine_positions``: of the positions, too, ``engine``: by one of pty-chi's engines, default our own. ``product``: also write
    ``product.h5``, which ptychodus opens, with the scan's geometry or the one given. ``on_groups`` is
    called with groups done and in all, ``on_sweep`` with sweep and residual. Raises errors of
    :mod:`ptycho_torch.errors`; nothing is written then.
    """
    config, execution = config or InferenceConfig(), execution or ExecutionConfig()
    validate(config)
    validate(execution, "execution.")
    device = device_of(execution.accelerator)
    model, _ = load_torch_bundle(bundle, device=device)
    scan = scan if isinstance(scan, Scan) else open_scan(scan, require_probe=False)
    scan = subsample(scan, config.n_subsample, config.subsample_seed or config.seed)
    geometry = product if isinstance(product, Geometry) else scan.geometry
    if product and geometry is None:
        raise DataError(
            f"{described(scan).get('name', 'scan')}: a product is in metres: expected a scan that says its pixel size, found one in pixels; "
            "give pixel size, energy and distance"
        )
    if engine is not None:
        check_engine(engine)
    folder = ensure_output_dir(output_dir)
    if execution.threads is not None:
        import torch

        torch.set_num_threads(execution.threads)
    result = reconstruct(
        model,
        scan,
        batch_size=config.batch_size,
        n_groups=config.n_groups,
        neighbor_count=config.neighbor_count,
        seed=config.seed,
        bf16=execution.precision == "bf16",
        progress=on_groups,
    )
    result.info["bundle"] = Path(bundle).name
    result.info["residual"] = residual(result, scan, device=device)
    if refine:
        before = result.info["residual"]
        if engine is None:
            result = refine_reconstruction(
                result,
                scan,
                sweeps=refine,
                minutes=refine_minutes,
                update_positions=refine_positions,
                device=device,
                progress=on_sweep,
            )
        else:
            result = refine_with_ptychi(
                result,
                scan,
                engine=engine,
                epochs=refine,
                update_positions=refine_positions,
                device=device,
                progress=on_sweep,
            )
        result.info |= {
            "residual": residual(result, scan, device=device),
            "residual_before_refinement": before,
        }
    metrics = {**result.info, "scan": described(scan), "shape": list(result.object.shape)}
    files = {
        "reconstruction": folder / "reconstruction.npz",
        "figure": folder / "reconstruction.png",
        "metrics": folder / "metrics.json",
        "report": folder / "report.html",
    }
    name = str(described(scan).get("name", "scan"))
    picture = figure_png(reconstruction_figure(result, f"{name}, {scan.n_frames} frames"))
    save_reconstruction(result, files["reconstruction"])
    write_bytes_atomic(files["figure"], picture)
    if product and geometry is not None:
        files["product"] = folder / "product.h5"
        parts = result.object, result.origin_xy, result.positions, result.probe
        write_product(Product.of(*parts, geometry, name, json_text(metrics)), files["product"])
    write_text_atomic(files["metrics"], json_text(metrics))
    write_report(
        files["report"],
        f"Reconstruction of {name}",
        [
            Section(
                "Object", "", metrics, [("Amplitude and phase, masked where nothing was measured", picture)]
            ),
            Section("Scan", "", {}, [("Positions, mean frame, probe guess", figure_png(scan_figure(scan)))]),
        ],
    )
    return ReconstructionOutputs(result, files, metrics)
