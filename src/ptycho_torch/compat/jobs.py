"""Training, loading and saving under the names, arguments and results that older scripts expect.

One implementation for both older programs: :func:`run_cdi_example` is the TensorFlow program's, which
leaves saving to ``save``; :func:`run_cdi_example_torch` the PyTorch one's, which writes to
``config.output_dir``.

Programs that begin a process for every image load a model here: what trains and draws is imported when it does.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ptycho_torch.bundle.container.sidecar import SIDECAR, read_self_test
from ptycho_torch.bundle.contents import read_bundle
from ptycho_torch.bundle.load import load_torch_bundle
from ptycho_torch.bundle.save import save_torch_bundle
from ptycho_torch.compat import parameters
from ptycho_torch.compat.predictor import Orientation, Predictor, stitched_as_older
from ptycho_torch.compat.raw_data import RawData
from ptycho_torch.config import ExecutionConfig, InferenceConfig, TrainingConfig, set_field
from ptycho_torch.errors import DataError, Interrupted, OutputError
from ptycho_torch.model import Autoencoder
from ptycho_torch.reconstruction.predict import reconstruct
from ptycho_torch.scan import Scan, open_scan

if TYPE_CHECKING:
    from ptycho_torch.training.run import Trained

__all__ = [
    "load_inference_bundle",
    "load_inference_bundle_torch",
    "run_cdi_example",
    "run_cdi_example_torch",
    "save",
    "train_cdi_model_torch",
]

Picture: TypeAlias = NDArray[np.float32]
Measurement: TypeAlias = Scan | RawData | str | Path
Results: TypeAlias = dict[str, Any]

_last: dict[str, Any] = {}
"""What :func:`save` writes: arguments of ``save_torch_bundle`` for the model last trained or loaded."""


def run_cdi_example(
    train_data: Measurement,
    test_data: Measurement | None,
    config: TrainingConfig,
    flip_x: bool = False,
    flip_y: bool = False,
    transpose: bool = False,
    M: int = 20,
    do_stitching: bool | None = None,
    execution_config: ExecutionConfig | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Picture | None, Picture | None, Results]:
    """Train, and reconstruct the test scan where there is one. Writes no file.

    Parameters
    ----------
    train_data, test_data
        A :class:`~ptycho_torch.scan.Scan`, a :class:`~ptycho_torch.compat.raw_data.RawData` or a path. Losses are
        also measured on ``test_data``.
    config
        How to train; it is left as it is.
    flip_x, flip_y, transpose
        Reconstruct with the sign of x or y of the group positions changed, or with transposed patches.
    M
        Kept for older scripts: patches are weighted by the illumination, not cut to their middle.
    do_stitching
        Whether to reconstruct; default: where there is a test scan. Without one, the training scan is.
    execution_config
        Where and how to run; default: without a progress bar.
    overrides
        Fields of ``config`` to replace, by name.

    Returns
    -------
    tuple
        Amplitude and phase, (H, W) float32 or None, and results: ``history`` (``train_loss``, ``val_loss``, and
        ``loss`` for the first), ``models``, ``trained``, ``train_container`` and ``test_container`` (the scans),
        ``intensity_scale``, ``provenance``, ``backend``; with stitching ``recon_amp``, ``recon_phase``,
        ``obj_tensor_full``. After success the global ``params.cfg`` holds the configuration and the trained
        scale, and :func:`save` writes this model.
    """
    execution = execution_config or ExecutionConfig(progress=False)
    config = _overridden(config, overrides)
    results = _trained_in_memory(_opened("train_data", train_data), _test(test_data), config, execution)
    if do_stitching is None:
        do_stitching = test_data is not None
    if not do_stitching:
        return None, None, results
    return _stitched(results, config, Orientation(flip_x, flip_y, transpose, M), None, execution)


def run_cdi_example_torch(
    train_data: Measurement,
    test_data: Measurement | None,
    config: TrainingConfig,
    flip_x: bool = False,
    flip_y: bool = False,
    transpose: bool = False,
    M: int = 20,
    do_stitching: bool = False,
    execution_config: ExecutionConfig | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    inference_batch_size: int | None = None,
) -> tuple[Picture | None, Picture | None, Results]:
    """Do what :func:`run_cdi_example` does, stitch only when asked, and write to ``config.output_dir``.

    There go the bundle and all that ``ptychopinn train`` writes, and with stitching, in ``inference/``, what
    ``ptychopinn reconstruct`` writes (not for a flipped or transposed picture). ``results`` also holds ``bundle``
    and ``files`` (paths). ``inference_batch_size``: groups per step of the reconstruction.
    """
    config = _overridden(config, overrides)
    results = train_cdi_model_torch(train_data, test_data, config, execution_config)
    if not do_stitching:
        return None, None, results
    orientation = Orientation(flip_x, flip_y, transpose, M)
    return _stitched(results, config, orientation, inference_batch_size, execution_config)


def train_cdi_model_torch(
    train_data: Measurement,
    test_data: Measurement | None,
    config: TrainingConfig,
    execution_config: ExecutionConfig | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Results:
    """Train, and save the bundle in ``config.output_dir``; an earlier run there is replaced.

    Arguments and results are those of :func:`run_cdi_example_torch`.
    """
    from ptycho_torch.workflows.training import train

    scan, test = _opened("train_data", train_data), _test(test_data)
    config = _overridden(config, overrides)
    done = train(scan, config.output_dir, config, execution_config, validation=test, force=True)
    if done.trained.signal is not None:
        raise Interrupted(done.trained.signal, f"interrupted: {done.bundle} holds what was learned so far")
    results = _results(done.trained, scan, test) | {"bundle": done.bundle, "files": done.files}
    _remember(models_dict=done.trained.models, config=done.trained.config, **_origin(done.bundle))
    return results


def load_inference_bundle(bundle_dir: str | Path) -> tuple[Predictor, dict[str, Any]]:
    """Load ``(model, params)``: ``model`` has ``predict`` on channels-last arrays; :func:`save` writes it again.

    ``bundle_dir``: as :func:`~ptycho_torch.bundle.load.load_torch_bundle` takes it; ``params.cfg`` is updated.
    """
    module: Any
    module, params = load_torch_bundle(bundle_dir)
    pair = {"autoencoder": Autoencoder(module.core, module.params), "diffraction_to_obj": module}
    _remember(models_dict=pair, config=params, **_origin(bundle_dir))
    return Predictor(module), params


def load_inference_bundle_torch(
    bundle_dir: str | Path, model_name: str = "diffraction_to_obj"
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a bundle's model, ready for inference, and its params: ``load_torch_bundle`` by its older name."""
    return load_torch_bundle(bundle_dir, model_name)


def save(out_prefix: str | Path) -> None:
    """Write the model last trained or loaded to ``{out_prefix}/wts.h5.zip``, with its provenance and self-test.

    Raises :class:`~ptycho_torch.errors.OutputError` where nothing was trained or loaded.
    """
    if not _last:
        raise OutputError(f"{out_prefix}: no model was trained or loaded in this process; nothing to save")
    save_torch_bundle(base_path=Path(out_prefix) / "wts.h5", **_last)


def _remember(**saved: Any) -> None:
    _last.clear()
    _last.update(saved)


def _origin(path: str | Path) -> dict[str, Any]:
    """Provenance and self-test of a bundle, for :func:`save`; nothing for one without ``bundle.json``."""
    with read_bundle(path) as bundle:
        if bundle.sidecar is None:
            return {}
        provenance = bundle.sidecar.get("provenance")
        test = read_self_test(bundle.sidecar, partial(bundle.error, SIDECAR), bundle.archive.budget)
    kept = provenance if isinstance(provenance, dict) else {}
    return {"provenance": kept, "self_test": False if test is None else test}


def _opened(name: str, data: Measurement) -> Scan:
    if isinstance(data, Scan):
        return data
    if isinstance(data, RawData):
        return data.scan
    if isinstance(data, str | os.PathLike):
        return open_scan(data, require_probe=False)
    raise DataError(f"{name}: expected a Scan, RawData or a path, found {type(data).__name__}")


def _test(data: Measurement | None) -> Scan | None:
    return None if data is None else _opened("test_data", data)


def _overridden(config: TrainingConfig, overrides: Mapping[str, Any] | None) -> TrainingConfig:
    config = dataclasses.replace(config, model=dataclasses.replace(config.model))
    for name, value in (overrides or {}).items():
        set_field(config, name, value, "overrides: ")
    return config


def _trained_in_memory(
    scan: Scan, test: Scan | None, config: TrainingConfig, execution: ExecutionConfig
) -> Results:
    from ptycho_torch.training.run import fit
    from ptycho_torch.workflows.training import first_group

    trained = fit(scan, config, execution, validation=test)
    results = _results(trained, scan, test)
    x, offsets = first_group(scan, trained.autoencoder, trained.config)
    _remember(
        models_dict=trained.models,
        config=trained.config,
        provenance=results["provenance"],
        self_test=(x * np.float32(trained.autoencoder.intensity_scale), offsets),
    )
    return results


def _results(trained: Trained, scan: Scan, test: Scan | None) -> Results:
    """What both programs return of a training; also tells ``params.cfg``."""
    from ptycho_torch.workflows.training import provenance_of

    scale = trained.autoencoder.intensity_scale
    parameters.update_legacy_dict(parameters.cfg, trained.config)
    parameters.cfg["intensity_scale"] = scale
    losses = [row["loss"] for row in trained.history]
    return {
        "trained": trained,
        "models": trained.models,
        "history": {
            "train_loss": losses,
            "val_loss": [row["val_loss"] for row in trained.history if "val_loss" in row],
            "loss": losses,
        },
        "train_container": scan,
        "test_container": test,
        "intensity_scale": scale,
        "backend": "pytorch",
        "provenance": provenance_of(scan, trained.config, trained.history, trained.seconds),
    }


def _stitched(
    results: Results,
    config: TrainingConfig,
    orientation: Orientation,
    batch_size: int | None,
    execution: ExecutionConfig | None,
) -> tuple[Picture, Picture, Results]:
    test: Scan | None = results["test_container"]
    scan: Scan = results["train_container"] if test is None else test
    model = results["trained"].diffraction_to_obj
    batch_size = batch_size or InferenceConfig().batch_size
    settings = InferenceConfig(neighbor_count=config.neighbor_count, seed=config.seed, batch_size=batch_size)
    more: Results = {}
    if orientation.changes:
        obj = stitched_as_older(model, scan, settings, orientation)
    elif "bundle" in results:
        from ptycho_torch.workflows.inference import reconstruct_to

        folder = Path(results["bundle"]).parent / "inference"
        done = reconstruct_to(folder, scan, results["bundle"], settings, execution)
        more |= {"reconstruction": done.reconstruction, "files": {**results["files"], **done.files}}
        obj = done.reconstruction.object
    else:
        more["reconstruction"] = reconstruct(
            model, scan, batch_size=batch_size, neighbor_count=settings.neighbor_count, seed=settings.seed
        )
        obj = more["reconstruction"].object
    amplitude, phase = np.abs(obj), np.angle(obj).astype(np.float32)
    more |= {"obj_tensor_full": obj, "recon_amp": amplitude, "recon_phase": phase}
    return amplitude, phase, results | more
