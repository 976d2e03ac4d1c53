"""``ptychopinn simulate`` and ``ptychopinn demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptycho_torch.cli.console import Console, JsonFlag, QuietFlag, guarded

__all__ = ["add_to"]


@guarded
def simulate(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Scan file to write (NPZ); a picture is written beside it.")
    ],
    object: Annotated[
        str,
        typer.Option(
            "--object",
            metavar="lines|siemens|grf|FILE",
            help="Built-in object, or an image, NPY or NPZ file.",
        ),
    ] = "lines",
    probe: Annotated[
        str,
        typer.Option(
            "--probe", metavar="disk|gaussian|zoneplate|FILE", help="Built-in probe, or a file with one."
        ),
    ] = "disk",
    scan: Annotated[
        str, typer.Option("--scan", metavar="grid|random|spiral", help="Layout of the positions.")
    ] = "grid",
    size: Annotated[
        int, typer.Option("--size", min=16, help="Edge length of a built-in object, in pixels.")
    ] = 392,
    n: Annotated[
        int | None,
        typer.Option("--N", min=16, help="Frame size in pixels; default: 64, or that of the probe file."),
    ] = None,
    step: Annotated[
        float | None,
        typer.Option("--step", help="Spacing of the positions in pixels; default: 8.", show_default=False),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", min=1, help="Number of frames, instead of --step.", show_default=False),
    ] = None,
    photons: Annotated[float, typer.Option("--photons", help="Mean photons per frame.")] = 1e6,
    noise: Annotated[bool, typer.Option("--noise/--no-noise", help="Add photon noise.")] = True,
    jitter: Annotated[
        float,
        typer.Option("--jitter", help="Standard deviation of random shifts of the positions, in pixels."),
    ] = 0.0,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed for object, positions and noise.")
    ] = 0,
    measurement: Annotated[
        str, typer.Option("--measurement", metavar="amplitude|counts", help="What the file holds.")
    ] = "amplitude",
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Simulate a scan of a known object, with photon noise, and write it as NPZ."""
    console = Console(json, quiet)
    from ptycho_torch.files import require_new
    from ptycho_torch.files.memory import need_memory
    from ptycho_torch.scan import write_scan
    from ptycho_torch.simulation import OBJECT_NAMES, make_object, make_positions, make_probe, simulate_scan

    picture = output.with_name(output.name.removesuffix(".npz") + ".png")
    require_new([output, picture], object, probe)
    if object in OBJECT_NAMES:
        need_memory(200 * size**2, f"--size {size}", "give a smaller size")
    if n is not None:
        need_memory(64 * n**2, f"--N {n}", "give a smaller frame")
    obj, wave = make_object(object, size, seed), make_probe(probe, n)
    frame = wave.shape[-1]
    spacing = 8.0 if step is None and count is None else step
    if spacing is not None and spacing > 0:
        wanted = max(1, max(obj.shape) / spacing) ** 2
        need_memory(int(min(8 * wanted * frame**2, 1e30)), f"--step {spacing:g}", "give a larger step")
    elif count is not None:
        need_memory(8 * count * frame**2, f"--count {count}", "ask for fewer frames")
    positions = make_positions(scan, obj.shape, frame, step=spacing, count=count, jitter=jitter, seed=seed)
    made = simulate_scan(obj, wave, positions, photons=photons, seed=seed, noise=noise)
    write_scan(made, output, measurement=measurement)
    files = {"scan": output}
    with console.drawing(picture):
        from ptycho_torch.report.figures import save_figure, scan_figure

        save_figure(scan_figure(made), picture)
        files["figure"] = picture
    result = {
        "frames": made.n_frames,
        "N": made.N,
        "probe_modes": made.n_modes,
        "object_shape": list(obj.shape),
        "photons_per_frame": photons,
        "noise": noise,
        "seed": seed,
    }
    console.finish({**result, "files": {k: str(v) for k, v in files.items()}}, result, "Simulated")
    console.files(files)


@guarded
def demo(
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Output folder.")] = Path(
        "demo_output"
    ),
    minutes: Annotated[float, typer.Option("--minutes", min=0.05, help="Time of adaptation, minutes.")] = 1.0,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", min=1, help="Steps of adaptation instead of minutes: the same on every machine."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed for everything random.")
    ] = 0,
    measured: Annotated[
        Path | None,
        typer.Option("--measured", help="Measured scan to show as well.", show_default=False),
    ] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Reconstruct a simulated scan without training, after a minute of adaptation, and by iterative sweeps alone.

    All start from the same frames and probe guess. The adapted model is saved, and opened by a new process.
    """
    console = Console(json, quiet)
    from ptycho_torch.workflows.demo import run_demo

    with console.progress("probe") as probe, console.progress("demo") as work:
        done = run_demo(
            output_dir,
            minutes=minutes,
            steps=steps,
            seed=seed,
            measured=measured,
            show_progress=not console.silent,
            on_probe=lambda sweep, total, residual: probe(sweep, total, f"R {residual:.4f}"),
            on_stage=lambda number, total, text: work(number, total, text),
        )
    console.finish(done.metrics, done.table, "Demo")
    console.files(done.files)


def add_to(app: typer.Typer) -> None:
    app.command("demo")(demo)
    app.command("simulate")(simulate)
