"""``ptycho_train`` and ``ptycho_inference``: the older program's commands and flags, over the same functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ptycho_torch.cli.console import Console, QuietFlag, guarded
from ptycho_torch.cli.usage import OneLineCommand
from ptycho_torch.config import ExecutionConfig, InferenceConfig, TrainingConfig

__all__ = ["inference", "inference_main", "train", "train_main"]

ConfigFlag = Annotated[Path | None, typer.Option("--config", help="YAML file; flags win over it.")]
GroupsFlag = Annotated[int | None, typer.Option("--n_groups", min=1, help="Groups of frames to use.")]
ImagesFlag = Annotated[int | None, typer.Option("--n_images", min=1, help="Deprecated: --n_groups.")]
SubsampleFlag = Annotated[int | None, typer.Option("--n_subsample", min=1, help="Use only so many frames.")]
SeedFlag = Annotated[int | None, typer.Option("--subsample_seed", min=0, help="Seed of that choice.")]
NeighborFlag = Annotated[int | None, typer.Option("--neighbor_count", min=1, help="Nearest neighbours.")]
BackendFlag = Annotated[str | None, typer.Option("--backend", help="'pytorch'.")]
AcceleratorFlag = Annotated[str | None, typer.Option("--accelerator", help="'auto', 'cpu' or 'gpu'.")]
WorkersFlag = Annotated[int | None, typer.Option("--num-workers", min=0, help="Processes that load data.")]
InferenceBatchFlag = Annotated[
    int | None, typer.Option("--inference-batch-size", min=1, help="Groups per step of inference.")
]


def _given(config: Any, **values: Any) -> None:
    """Sets the fields that have a value; ``n_images`` says that it is deprecated."""
    from ptycho_torch.config import set_field

    images = values.pop("n_images", None)
    if images is not None:
        typer.echo("warning: --n_images is deprecated; use --n_groups", err=True)
        if values.get("n_groups") is None:
            values["n_groups"] = images
    for name, value in values.items():
        if value is not None:
            set_field(config, name.replace("__", "."), value, "--")


def _from_file(config: Any, path: Path | None) -> None:
    if path is not None:
        from ptycho_torch.config import load_yaml

        load_yaml(type(config), path, config)


@guarded
def train(
    train_data_file: Annotated[
        Path | None, typer.Option("--train_data_file", help="Scan to train on.", show_default=False)
    ] = None,
    test_data_file: Annotated[Path | None, typer.Option("--test_data_file", help="Scan to test on.")] = None,
    output_dir: Annotated[Path | None, typer.Option("--output_dir", help="Folder for all outputs.")] = None,
    config: ConfigFlag = None,
    n_groups: GroupsFlag = None,
    n_images: ImagesFlag = None,
    n_subsample: SubsampleFlag = None,
    subsample_seed: SeedFlag = None,
    gridsize: Annotated[int | None, typer.Option("--gridsize", min=1, help="Group edge, frames.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch_size", min=1, help="Groups per step.")] = None,
    nepochs: Annotated[int | None, typer.Option("--nepochs", min=1, help="Epochs at most.")] = None,
    nphotons: Annotated[
        float | None, typer.Option("--nphotons", help="Photons per frame where counts are unknown.")
    ] = None,
    neighbor_count: NeighborFlag = None,
    backend: BackendFlag = None,
    accelerator: AcceleratorFlag = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Peak rate.")] = None,
    num_workers: WorkersFlag = None,
    inference_batch_size: InferenceBatchFlag = None,
    logger: Annotated[
        str, typer.Option("--logger", help="'csv' or 'none'; history.csv is written in any case.")
    ] = "csv",
    do_stitching: Annotated[
        bool, typer.Option("--do_stitching/--no-do_stitching", help="Reconstruct after training.")
    ] = False,
    quiet: QuietFlag = False,
) -> None:
    """Train with the older program's flags; writes what 'ptychopinn train' writes."""
    from ptycho_torch.errors import ConfigError

    console = Console(quiet=quiet)
    settings = TrainingConfig()
    settings.model.N = 0
    _from_file(settings, config)
    _given(
        settings, train_data_file=train_data_file, test_data_file=test_data_file, output_dir=output_dir,
        n_groups=n_groups, n_images=n_images, n_subsample=n_subsample, subsample_seed=subsample_seed,
        model__gridsize=gridsize, batch_size=batch_size, nepochs=nepochs, nphotons=nphotons,
        neighbor_count=neighbor_count, backend=backend, learning_rate=learning_rate,
    )  # fmt: skip
    execution = ExecutionConfig(progress=not quiet)
    _given(execution, accelerator=accelerator, num_workers=num_workers)
    if settings.train_data_file is None:
        raise ConfigError("--train_data_file is required: the scan to train on")
    if logger not in ("csv", "none"):
        typer.echo(f"warning: --logger {logger} is not there; losses are in history.csv", err=True)
    from ptycho_torch.compat.jobs import run_cdi_example_torch
    from ptycho_torch.scan import open_scan

    scan = open_scan(settings.train_data_file, require_probe=False)
    amplitude, phase, results = run_cdi_example_torch(
        scan,
        settings.test_data_file,
        settings,
        do_stitching=do_stitching,
        execution_config=execution,
        inference_batch_size=inference_batch_size,
    )
    files = results["files"]
    if amplitude is not None:
        from ptycho_torch.compat.pictures import save_outputs

        save_outputs(amplitude, phase, results, settings.output_dir)
    console.finish(
        {k: results["history"][k][-1] for k in ("loss", "val_loss") if results["history"][k]}, title="Trained"
    )
    console.files(files)


@guarded
def inference(
    model_path: Annotated[
        Path | None, typer.Option("--model_path", help="Bundle, or the folder that holds it.")
    ] = None,
    test_data: Annotated[Path | None, typer.Option("--test_data", help="Scan to reconstruct.")] = None,
    output_dir: Annotated[Path | None, typer.Option("--output_dir", help="Folder for all outputs.")] = None,
    config: ConfigFlag = None,
    n_groups: GroupsFlag = None,
    n_images: ImagesFlag = None,
    n_subsample: SubsampleFlag = None,
    subsample_seed: SeedFlag = None,
    neighbor_count: NeighborFlag = None,
    backend: BackendFlag = None,
    accelerator: AcceleratorFlag = None,
    num_workers: WorkersFlag = None,
    inference_batch_size: InferenceBatchFlag = None,
    quiet: QuietFlag = False,
) -> None:
    """Reconstruct with the older program's flags; writes what 'ptychopinn reconstruct' writes, and its two pictures."""
    import numpy as np

    from ptycho_torch.errors import ConfigError

    console = Console(quiet=quiet)
    settings = InferenceConfig()
    _from_file(settings, config)
    _given(
        settings, model_path=model_path, test_data_file=test_data, output_dir=output_dir, n_groups=n_groups,
        n_images=n_images, n_subsample=n_subsample, subsample_seed=subsample_seed, neighbor_count=neighbor_count,
        backend=backend, batch_size=inference_batch_size,
    )  # fmt: skip
    execution = ExecutionConfig(progress=not quiet)
    _given(execution, accelerator=accelerator, num_workers=num_workers)
    for flag, value in (("--model_path", settings.model_path), ("--test_data", settings.test_data_file)):
        if value is None:
            raise ConfigError(f"{flag} is required: a path")
    if settings.backend != "pytorch":
        raise ConfigError(
            "backend: expected 'pytorch', found 'tensorflow'; install the TensorFlow program PtychoPINN for that. "
            "Models that it trained are opened here as they are"
        )
    assert settings.model_path is not None
    assert settings.test_data_file is not None
    from ptycho_torch.compat.pictures import save_outputs
    from ptycho_torch.workflows.inference import Listeners, reconstruct_to

    with console.progress("reconstructing") as update:
        done = reconstruct_to(
            settings.output_dir,
            settings.test_data_file,
            settings.model_path,
            settings,
            execution,
            listeners=Listeners(update),
        )
    obj = done.reconstruction.object
    save_outputs(np.abs(obj), np.angle(obj).astype(np.float32), {}, settings.output_dir)
    console.finish(done.metrics, {k: done.metrics[k] for k in ("frames", "residual")}, "Reconstructed")
    console.files(done.files)


def train_main() -> None:
    """Entry point of ``ptycho_train``."""
    _alone("ptycho_train", train)()


def inference_main() -> None:
    """Entry point of ``ptycho_inference``."""
    _alone("ptycho_inference", inference)()


def _alone(name: str, command: Callable[..., None]) -> typer.Typer:
    """An application of one command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name, cls=OneLineCommand)(command)
    return app
