"""The `star` benchmark: single-shot reconstruction of the APS Siemens star, trained on half its frames.

    python benchmarks/star.py --minutes 8

There is no ground truth. The reference is an iterative reconstruction of all frames made here by a
plain numpy ePIE, independent of the package. The network is trained on the frames with y above the
median, from the file's probe guess, and applied to all frames, each on its own. `--peer` names the
Python of an environment with pty-chi (extra `iterative`): its LSQML then runs beside it, from the
same guess, and is timed, too, as are as many sweeps of `refine` without a network.
"""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import fft

from harness import keep, parser, table, whole
from ptycho_torch.config import ExecutionConfig, ModelConfig, TrainingConfig, set_field
from ptycho_torch.evaluation import crossing, evaluate, fourier_ring_correlation
from ptycho_torch.evaluation.alignment import align
from ptycho_torch.evaluation.rectangle import inner_rectangle
from ptycho_torch.evaluation.reference import Reference, as_reference
from ptycho_torch.reconstruction import Reconstruction, reconstruct
from ptycho_torch.result import load_reconstruction
from ptycho_torch.scan import Scan, open_scan
from ptycho_torch.solvers import RefineOptions
from ptycho_torch.solvers.epie import Epie
from ptycho_torch.solvers.residual import residual
from ptycho_torch.training.run import Watch, fit


def epie(scan: Scan, sweeps: int, seed: int = 0) -> tuple[Reference, list[float], float]:
    """Plain ePIE in numpy, one frame at a time, sub-pixel by shifting the probe; object, R, seconds."""
    assert scan.probe is not None
    began, size = time.monotonic(), scan.N
    whole = np.floor(scan.positions).astype(int)
    origin = whole.min(0) - size // 2
    width, height = whole.max(0) - whole.min(0) + size
    obj = np.ones((height, width), complex)
    amplitudes = fft.ifftshift(np.asarray(scan.frames), axes=(-2, -1)).astype(np.float32)
    probe = scan.probe[0].astype(complex)
    probe *= np.sqrt(np.mean(np.sum(amplitudes**2, axis=(1, 2))) / np.sum(np.abs(probe) ** 2))
    k = fft.fftfreq(size)
    rng, residuals = np.random.default_rng(seed), []
    for sweep in range(sweeps):
        error, step = 0.0, 1 / (1 + sweep / 10)  # a falling step averages the frames' photon noise
        for j in rng.permutation(scan.n_frames):
            dx, dy = scan.positions[j] - whole[j]
            ramp = np.exp(-2j * np.pi * (k[None, :] * dx + k[:, None] * dy))
            shifted = fft.ifft2(fft.fft2(probe) * ramp)
            x, y = whole[j] - origin - size // 2
            part = obj[y : y + size, x : x + size]
            field = fft.fft2(shifted * part, norm="ortho")
            modulus = np.abs(field)
            error += float(np.sum((modulus - amplitudes[j]) ** 2))
            change = fft.ifft2(field * (amplitudes[j] / np.maximum(modulus, 1e-9) - 1), norm="ortho")
            step_o = shifted.conj() * change / np.max(np.abs(shifted) ** 2) * step
            step_p = part.conj() * change / np.max(np.abs(part) ** 2) * step
            part += step_o
            if sweep >= 2:
                probe = probe + fft.ifft2(fft.fft2(step_p) * ramp.conj())
        residuals.append(error / float(np.sum(amplitudes.astype(float) ** 2)))
    weight = np.zeros(obj.shape, np.float32)
    for x, y in whole - origin - size // 2:
        weight[y : y + size, x : x + size] += np.abs(probe) ** 2
    found = Reference(obj.astype(np.complex64), weight, (float(origin[0]), float(origin[1])), source="ePIE")
    return found, residuals, time.monotonic() - began


def correlations(rec: Reconstruction, reference: Reference, border: float) -> dict[str, float]:
    """Complex correlation where the summed |P|^2 exceeds 0.3 of its maximum: trained half, held-out half, all."""
    bright = rec.weight > 0.3 * rec.weight.max()
    rows = rec.origin_xy[1] + np.arange(rec.object.shape[0])[:, None] + 0 * bright
    parts = {
        "trained half": bright & (rows > border),
        "held-out half": bright & (rows <= border),
        "all": bright,
    }
    return {k: evaluate(rec, reference, region=v)["complex_correlation"] for k, v in parts.items()}


def rings(model: Any, scan: Scan) -> dict[str, Any]:
    """FRC of two single-shot reconstructions from disjoint halves of the frames."""
    first, second = (reconstruct(model, half) for half in scan.halves())
    both = align(as_reference(first), as_reference(second), region=None)
    rows, columns = inner_rectangle(both.region)
    curve = fourier_ring_correlation(both.image[rows, columns], both.reference[rows, columns])
    return {"frc50": crossing(curve, 0.5), "frc_1_7": crossing(curve, 1 / 7)}


def lsqml(arguments: Any, scan_path: Path, every: int = 1) -> Reconstruction:
    """pty-chi's LSQML in an environment of its own, on every n-th frame."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "peer.npz"
        command = [
            str(arguments.peer),
            str(Path(__file__).with_name("star_peer.py")),
            str(scan_path),
            str(result),
        ]
        command += ["--epochs", str(arguments.epochs), "--seed", str(arguments.seed), "--every", str(every)]
        command += ["--threads", str(torch.get_num_threads())]
        subprocess.run(command, check=True)
        return load_reconstruction(result)


def peer(arguments: Any, scan_path: Path, reference: Reference, border: float) -> dict[str, Any]:
    """Figures of pty-chi's LSQML."""
    done = lsqml(arguments, scan_path)
    return {
        "epochs": arguments.epochs,
        "seconds": done.seconds,
        "residual": done.residual,
        "correlation": correlations(done, reference, border),
    }


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--minutes", type=float, default=8.0, help="training, probe refinement included")
    made.add_argument("--sweeps", type=int, default=60, help="of the reference")
    made.add_argument("--gridsize", type=int, default=1)
    made.add_argument("--peer", type=Path, help="Python with pty-chi, to run its LSQML beside")
    made.add_argument("--epochs", type=int, default=30, help="of the peer")
    made.add_argument("--refine", type=int, default=20, help="sweeps of refinement after the network")
    made.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    arguments = made.parse_args()
    if arguments.quick:
        arguments.minutes, arguments.sweeps = min(arguments.minutes, 0.7), min(arguments.sweeps, 15)
        arguments.epochs = min(arguments.epochs, 2)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    scan_path = arguments.shared / "data/siemens_star_aps.npz"
    scan = open_scan(scan_path)
    border = float(np.median(scan.positions[:, 1]))
    training = scan.select(scan.positions[:, 1] > border)
    reference, r_reference, t_reference = epie(scan, arguments.sweeps)
    print(
        f"reference: R {r_reference[-1]:.4f} after {arguments.sweeps} sweeps in {t_reference:.1f} s",
        flush=True,
    )

    config = TrainingConfig(
        init="scratch",
        model=ModelConfig(N=scan.N, gridsize=arguments.gridsize),
        max_minutes=arguments.minutes,
        nepochs=100_000,
        n_groups=256,
        seed=arguments.seed,
    )
    import yaml

    for assignment in arguments.set:
        name, value = assignment.split("=", 1)
        set_field(config, name, yaml.safe_load(value))
    execution = ExecutionConfig(progress=False, threads=arguments.threads)

    def row(history: list[dict[str, float]]) -> None:
        print({k: round(v, 5) for k, v in history[-1].items()}, flush=True)

    trained = whole(fit(training, config, execution, watch=Watch(on_row=row)))
    model = trained.diffraction_to_obj
    rec = reconstruct(model, scan)
    r_single = residual(rec, scan, frames=scan.n_frames)
    options = RefineOptions(sweeps=arguments.refine)
    refined = Epie().solve(scan, rec, options)
    flat = dataclasses.replace(rec, object=np.where(rec.weight > 0, 1, 0).astype(np.complex64))
    from_flat = Epie().solve(scan, flat, options)
    unlearned = Epie().solve(scan, options=RefineOptions(sweeps=arguments.epochs))
    results = {
        "gridsize": arguments.gridsize,
        "training_seconds": trained.seconds,
        "image_seconds": trained.seconds + rec.seconds + refined.seconds,
        "frames_per_second": scan.n_frames / rec.seconds,
        "correlation": correlations(rec, reference, border),
        "residual": r_single,
        "frc": rings(model, scan),
        "refined": {
            "correlation": correlations(refined, reference, border),
            "residuals": refined.residuals,
            "residuals_from_flat": from_flat.residuals,
            "seconds": refined.seconds,
        },
        "reference": {"sweeps": arguments.sweeps, "residual": r_reference[-1], "seconds": t_reference},
        "unlearned": {
            "sweeps": unlearned.sweeps,
            "seconds": unlearned.seconds,
            "residual": unlearned.residual,
            "correlation": correlations(unlearned, reference, border),
        },
        "peer": peer(arguments, scan_path, reference, border) if arguments.peer else None,
        "config": arguments.set,
    }
    label = f"star-gridsize{arguments.gridsize}"
    _figure(rec, refined, reference, results, arguments.output / f"{label}.png")
    print(keep(label, arguments, results))
    rows = [
        {"": name, **values, "R": r}
        for name, values, r in (
            ("network", results["correlation"], r_single),
            ("refined", results["refined"]["correlation"], refined.residual),
        )
    ]
    seconds = [trained.seconds + rec.seconds, results["image_seconds"]]
    others = [(f"refine without network, {arguments.epochs} sweeps", results["unlearned"])]
    if results["peer"]:
        others.append((f"pty-chi LSQML, {arguments.epochs} epochs", results["peer"]))
    for name, other in others:
        rows.append({"": name, **other["correlation"], "R": other["residual"]})
        seconds.append(other["seconds"])
    print(table([{**row, "seconds": s} for row, s in zip(rows, seconds, strict=True)]))


def _figure(
    rec: Reconstruction, refined: Reconstruction, reference: Reference, results: dict[str, Any], path: Path
) -> None:
    figure = Figure(figsize=(15, 8.4), layout="constrained")
    axes = figure.subplots(2, 4)

    def show(column: int, obj: NDArray[Any], title: str) -> None:
        middle = obj[obj.shape[0] // 4 : -obj.shape[0] // 4, obj.shape[1] // 4 : -obj.shape[1] // 4]
        turned = obj * np.exp(-1j * np.angle(middle.mean()))
        level = float(np.median(np.abs(middle)))
        cut = turned[60:-60, 60:-60]
        axes[0, column].imshow(np.abs(cut) / level, cmap="gray", vmin=0.5, vmax=1.5)
        axes[0, column].set(title=f"{title}, amplitude", xlabel="x (px)", ylabel="y (px)")
        axes[1, column].imshow(np.angle(cut), cmap="cividis", vmin=-0.8, vmax=0.6)
        axes[1, column].set(title=f"{title}, phase (rad)", xlabel="x (px)", ylabel="y (px)")

    show(0, rec.object, f"network, {results['correlation']['held-out half']:.4f} held out")
    show(1, refined.object, "refined")
    show(2, reference.object, "ePIE reference")
    parts = results["refined"]
    axes[0, 3].semilogy(parts["residuals_from_flat"], "k--", label="from a flat object")
    axes[0, 3].semilogy(parts["residuals"], "k-o", ms=3, label="from the network")
    axes[0, 3].set(title="refinement", xlabel="sweep", ylabel="R")
    axes[0, 3].legend(frameon=False)
    axes[1, 3].axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
