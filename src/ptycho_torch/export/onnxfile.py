"""From a bundle to a file for other runtimes: capture, write, compare, and only then put in place."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from ptycho_torch._version import __version__
from ptycho_torch.bundle.contents import read_bundle
from ptycho_torch.bundle.rebuild import load_model
from ptycho_torch.bundle.shipped import shipped_bundle
from ptycho_torch.config import validate
from ptycho_torch.config.exporting import ExportOptions
from ptycho_torch.errors import ConfigError, DependencyError, TrainingError, brief
from ptycho_torch.export.forms import Form, form_of
from ptycho_torch.export.lowering import lower
from ptycho_torch.export.onnxwriter import OPSET, Pair, Writer, need_onnx
from ptycho_torch.files import require_new, write_bytes_atomic

__all__ = ["FRAMES", "TOLERANCE", "export_onnx", "export_program"]

FRAMES = 1000
"""Frames over which an exported file is compared with torch."""
TOLERANCE = 1e-5
"""Largest difference from torch, relative to the largest value, with which a file is written."""
_ROUNDING = 3.0
"""How much further from float64 than torch a file may be: products with a transform's matrix round more than an FFT."""
_AT_ONCE = 250

Say = Callable[[str], None]


def export_onnx(
    target: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | None = None,
    options: ExportOptions | None = None,
    *,
    frames: int = FRAMES,
    say: Say | None = None,
) -> dict[str, Any]:
    """Write a model as ONNX, compared with torch before it is put in place.

    Parameters
    ----------
    target : path
        File to write, whole or not at all.
    bundle : path, optional
        Default: the one that ships with the package.
    options : ExportOptions, optional
    frames : int
        How many the comparison takes.
    say : callable, optional
        Told what is being done.

    Returns
    -------
    dict
        The file's metadata: ``form``, ``inputs``, ``outputs``, ``notes``, ``model``, ``versions``, ``certificate``.

    Raises
    ------
    ConfigError
        For options out of range, or an operator that ONNX cannot express.
    BundleError
        When the bundle cannot be opened.
    DependencyError
        Without onnx or onnxruntime.
    TrainingError
        When the file's results differ from torch's by more than :data:`TOLERANCE`, and are more than three
        times as far from float64 as torch's are; nothing is written.
    """
    need_onnx()
    say = say or (lambda text: None)
    form, about = _opened(bundle, options, target)
    say("capturing the model; this takes a minute or more")
    program = _captured(form)
    say("writing ONNX")
    model, names = _written(form, program)
    say(f"comparing with torch over {frames} frames")
    about["opset"] = OPSET
    about["certificate"] = _certificate(form, model, names, frames)
    _describe(model, about)
    write_bytes_atomic(target, model.SerializeToString())
    return about


def export_program(
    target: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | None = None,
    options: ExportOptions | None = None,
    *,
    say: Say | None = None,
) -> dict[str, Any]:
    """Write a model as a program of ``torch.export`` (.pt2), which torch runs without this package.

    Arguments, result and errors are those of :func:`export_onnx`; nothing is compared, since it is torch that
    runs it, and complex numbers stay complex inside.
    """
    say = say or (lambda text: None)
    form, about = _opened(bundle, options, target)
    say("capturing the model; this takes a minute or more")
    stream = io.BytesIO()
    with _quiet():
        torch.export.save(_captured(form), stream, extra_files={"ptychopinn.json": json.dumps(about)})
    write_bytes_atomic(target, stream.getvalue())
    return about


def _opened(
    bundle: str | os.PathLike[str] | None, options: ExportOptions | None, target: str | os.PathLike[str]
) -> tuple[Form, dict[str, Any]]:
    """What is exported, and what is said of it in the file."""
    options = options or ExportOptions()
    validate(options)
    with read_bundle(shipped_bundle() if bundle is None else bundle) as opened:
        if opened.backend != "pytorch":
            raise opened.error(None, "an archive of the TensorFlow program; convert it to a bundle first")
        require_new([target], opened.path)
        core = load_model(opened, "diffraction_to_obj").module.core
        path, version = Path(opened.path), opened.version
    form = form_of(core, options)  # type: ignore[arg-type]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return form, {
        "format": "ptychopinn-export/1",
        "form": form.name,
        "inputs": form.inputs,
        "outputs": form.outputs,
        "optional": sorted(form.defaults),
        "notes": form.notes,
        "options": asdict(options),
        "model": {"bundle": path.name, "sha256": digest, "version": version},
        "versions": {
            "ptychopinn": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export says much that is of no use to users, on standard error and as warnings."""
    import logging
    import warnings

    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _captured(form: Form) -> ExportedProgram:
    count = 3 * 8 + 1  # not a size of anything else, so that torch cannot mistake one for the other
    example = form.example(count, 0)
    dims: dict[str, Any] = {}
    shapes = tuple(
        {form.open[name][0]: dims.setdefault(form.open[name][1], Dim(form.open[name][1], min=form.least))}
        if name in form.open
        else None
        for name in form.inputs
    )
    with torch.no_grad(), _quiet():
        try:
            return torch.export.export(form.module, example, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # whatever torch meets in a model of somebody else's
            raise ConfigError(
                f"this model cannot be captured by torch.export: {brief(error, 400)}"
            ) from error


def _written(form: Form, program: ExportedProgram) -> tuple[Any, list[str]]:
    """The model, and its inputs' names."""
    writer = Writer()
    values: dict[str, Any] = {}
    inputs: list[tuple[str, torch.dtype, list[int | str]]] = []
    fakes = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    names = iter(form.inputs)
    for spec in program.graph_signature.input_specs:
        key = spec.arg.name
        if spec.kind is InputKind.USER_INPUT:
            name, fake = next(names), fakes[key]
            axis, size = form.open.get(name, (-1, ""))
            shape: list[int | str] = [size if i == axis else int(n) for i, n in enumerate(fake.shape)]
            values[key] = writer.input(name)
            inputs.append((name, fake.dtype, shape))
        else:
            held = program.state_dict if spec.target in program.state_dict else program.constants
            values[key] = held[str(spec.target)]
    found = lower(program.graph, values, writer)
    results = next(node for node in program.graph.nodes if node.op == "output").args[0]
    outputs = []
    for name, value, node in zip(form.outputs, found, results, strict=True):
        if isinstance(value, Pair | Tensor):
            raise ConfigError(
                f"{name}: a result that is complex, or the same for all frames, cannot be exported"
            )
        shape = [int(n) if isinstance(n, int) else form_size(form) for n in node.meta["val"].shape]
        outputs.append((writer.output(name, value), node.meta["val"].dtype, shape))
    return writer.model(inputs, outputs, form.defaults), list(form.inputs)


def form_size(form: Form) -> str:
    """Return the name of the size that callers choose."""
    return next(iter(form.open.values()))[1]


def _describe(model: Any, about: Mapping[str, Any]) -> None:
    """Put the metadata into a model: one JSON text, and what people look for under a name of its own."""
    onnx = need_onnx()
    shown = {
        "ptychopinn": json.dumps(about),
        "form": about["form"],
        "orientation": about["notes"]["orientation"],
    }
    onnx.helper.set_model_props(model, shown)


def _certificate(form: Form, model: Any, names: list[str], frames: int) -> dict[str, Any]:
    """Compare with torch in a process without torch, and return what was found; raises as :func:`export_onnx`."""
    members = form.example(1, 0)[0].shape[1] if form.name == "groups" else 1
    counts = [_AT_ONCE // members] * (frames // _AT_ONCE) or [max(form.least, frames // members)]
    cases = [form.example(count, seed + 1) for seed, count in enumerate(counts)]
    with torch.inference_mode():
        expected = [form.module(*case) for case in cases]
    data = model.SerializeToString()
    found = _replayed(data, names, cases)
    worst: dict[str, float] = {}
    for number, wanted in enumerate(expected):
        for name, value in zip(form.outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            difference = _difference(found[f"{number}/{name}"], value.numpy())
            worst[name] = max(worst.get(name, 0.0), difference)
    rounding = None
    if not max(worst.values()) <= TOLERANCE:
        rounding = _rounding(form, cases, [found[f"{number}/object"] for number in range(len(cases))])
        if not rounding["onnx"] <= _ROUNDING * rounding["torch"]:
            raise TrainingError(
                f"the exported file differs from torch by {max(worst.values()):.1e} of the largest value, more than"
                f" {TOLERANCE:g} and than torch's own rounding; nothing was written"
            )
    return {
        "compared_with": "the same module in torch, float32, frames in the same subsets",
        "frames": sum(counts) * members,
        "cases": len(counts),
        "seeds": [seed + 1 for seed in range(len(counts))],
        "largest_difference": worst,
        "measure": "largest absolute difference over all pixels / largest absolute value",
        "tolerance": TOLERANCE,
        "within_tolerance": rounding is None,
        "rounding": rounding,
        "graph_sha256": hashlib.sha256(data).hexdigest(),
        "onnxruntime": str(found["onnxruntime"]),
        "torch": torch.__version__,
        "torch_importable": False,
        "machine": platform.machine(),
    }


def _rounding(form: Form, cases: list[tuple[Tensor, ...]], found: list[NDArray[Any]]) -> dict[str, Any]:
    """How far onnxruntime and torch in float32 are from torch in float64: root mean square and largest difference.

    Where a model is asked for the phase of a field that is nearly zero, rounding decides, whoever computes.
    """
    exact = copy.deepcopy(form.module).double()
    wrong, largest = {"onnx": 0.0, "torch": 0.0}, {"onnx": 0.0, "torch": 0.0}
    power = 0.0
    with torch.inference_mode():
        for case, seen in zip(cases, found, strict=True):
            wide = [value.double() if value.is_floating_point() else value for value in case]
            objects = [module(*given) for module, given in ((exact, wide), (form.module, case))]
            wanted, single = (o[0] if isinstance(o, tuple) else o for o in objects)
            power += float(wanted.square().sum())
            for name, got in (("onnx", torch.from_numpy(seen)), ("torch", single)):
                wrong[name] += float((got - wanted).square().sum())
                share = float((got - wanted).abs().max() / wanted.abs().max())
                largest[name] = max(largest[name], share)
    return {
        **{name: math.sqrt(value / power) for name, value in wrong.items()},
        "of": "object, root mean square of the difference from float64 / of the object",
        "largest": largest,
    }


def _difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _replayed(data: bytes, names: list[str], cases: list[tuple[Tensor, ...]]) -> dict[str, NDArray[Any]]:
    """Outputs of the exported file from onnxruntime, in a process where torch cannot be imported."""
    with tempfile.TemporaryDirectory() as folder:
        model, given, results = (Path(folder) / name for name in ("model.onnx", "cases.npz", "outputs.npz"))
        model.write_bytes(data)
        stored = {
            f"{number}/{name}": value.numpy()
            for number, case in enumerate(cases)
            for name, value in zip(names, case, strict=True)
        }
        np.savez(given, **stored)  # type: ignore[arg-type]
        line = [
            sys.executable,
            "-I",
            str(Path(__file__).with_name("replay.py")),
            str(model),
            str(given),
            str(results),
        ]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = brief(
                done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode, 400
            )
            if "onnxruntime" in reason and "ModuleNotFound" in reason:
                raise DependencyError(
                    f"comparing needs onnxruntime ({reason}): pip install 'ptychopinn[onnx]'"
                )
            raise TrainingError(f"onnxruntime does not run the exported file: {reason}")
        with np.load(results) as outputs:
            return {key: outputs[key] for key in outputs}
