"""From a read bundle to a model with its weights: build, compare strictly, put in.

The model that the params describe is first built without memory (torch's ``meta`` device), so that a
file that asks for an enormous one is refused before anything is allocated.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from ptycho_torch.bundle.contents import Bundle
from ptycho_torch.bundle.params import MODEL_RECORD
from ptycho_torch.bundle.scale import LOG_SCALE, agree
from ptycho_torch.bundle.tensors import Weights
from ptycho_torch.compat.parameters import KEY_MAPPINGS
from ptycho_torch.config import ModelConfig
from ptycho_torch.errors import BundleError, PtychoError, brief, printable
from ptycho_torch.generators import available

__all__ = ["Builder", "Loaded", "build_shapes", "check_against", "load_model", "state_shapes"]

Builder = Callable[[int, int, Mapping[str, Any]], tuple[nn.Module, nn.Module]]
"""``(gridsize, N, params) -> (autoencoder, diffraction_to_obj)``."""

Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name -> (dtype, shape)."""

_NAMES: Final = ("autoencoder", "diffraction_to_obj")
_SHOWN: Final = 8
_PROBE_BYTES: Final = 64  # a pixel, while a standard probe is made and put in
_GUESSING_SECONDS: Final = 2.0


def _default_builder() -> Builder:
    from ptycho_torch.model import create_torch_model_with_gridsize

    return create_torch_model_with_gridsize


def _build(params: Mapping[str, Any], builder: Builder, device: str) -> dict[str, nn.Module]:
    """The pair by name. The random numbers drawn for fresh weights are given back."""
    if device == "meta" and params.get("probe") is None:
        # What stands in for a missing probe is computed in memory; for shapes alone one value does.
        side = int(params["N"])
        params = {**params, "probe": np.broadcast_to(np.complex64(1), (_modes(params), side, side))}
    with torch.random.fork_rng(devices=[]), torch.device(device):
        pair = builder(int(params["gridsize"]), int(params["N"]), params)
    return dict(zip(_NAMES, pair, strict=True))


def _modes(params: Mapping[str, Any]) -> int:
    return int(params.get(KEY_MAPPINGS.get("probe_modes", "probe_modes")) or 1)


def _count_probe(bundle: Bundle, name: str) -> None:
    """Count the probe that is made where the params hold none: it is as large as N and modes say."""
    params = bundle.params[name]
    if params.get("probe") is None:
        count = _PROBE_BYTES * int(params["N"]) ** 2 * _modes(params)
        bundle.archive.budget.take(count, f"{name}/params.dill: probe of N={params['N']}")


def build_shapes(params: Mapping[str, Any], builder: Builder | None = None) -> dict[str, nn.Module]:
    """The models that ``params`` describe, by name, without memory for their weights."""
    return _build(params, builder or _default_builder(), "meta")


def state_shapes(module: nn.Module) -> Shapes:
    """Type and shape of every tensor of a module's state dict; what else is there by its class's name."""
    return {
        name: (str(value.dtype).removeprefix("torch."), tuple(value.shape))
        if isinstance(value, torch.Tensor)
        else (type(value).__name__, ())
        for name, value in module.state_dict(keep_vars=True).items()
    }


def _found_shapes(weights: Weights) -> Shapes:
    return {name: (view.dtype, view.shape) for name, view in weights.tensors.items()}


def _problems(expected: Shapes, found: Shapes) -> list[str]:
    lines = [f"missing {printable(k)}" for k in expected if k not in found]
    lines += [f"unexpected {printable(k)}" for k in found if k not in expected]
    for key in expected:
        if key in found and found[key] != expected[key]:
            want, got = expected[key], found[key]
            kinds = want[0] != got[0]
            lines.append(
                f"{printable(key)}: expected {want[1]}{' ' + want[0] if kinds else ''}, "
                f"found {got[1]}{' ' + got[0] if kinds else ''}"
            )
    return lines


def _usual() -> dict[str, tuple[Any, ...]]:
    """Fields that decide shapes, in the order in which they are declared, and values worth trying for each."""
    declared = {f.name: f.metadata.get("usual", ()) for f in dataclasses.fields(ModelConfig)}
    return {name: values for name, values in {**declared, "architecture": available()}.items() if values}


def _hint(params: Mapping[str, Any], name: str, found: Shapes, now: int, builder: Builder) -> str:
    """Which single field, changed, makes the weights fit (or fit best)."""
    best, text = now, ""
    end = time.process_time() + _GUESSING_SECONDS  # not the clock: a busy machine guesses as far
    for field, values in _usual().items():
        key = KEY_MAPPINGS.get(field, field)
        for value in values:
            if params.get(key) == value or best == 0 or time.process_time() > end:
                continue
            other = {k: v for k, v in params.items() if k != "probe" or field not in ("N", "probe_modes")}
            try:
                model = _build({**other, key: value}, builder, "meta")[name]
            except (PtychoError, ImportError, RuntimeError):
                continue  # a combination that cannot be built is no explanation
            count = len(_problems(state_shapes(model), found))
            if count < best:
                best = count
                text = f"{key} is {brief(params.get(key), 40)} in params, but the weights fit {value!r}"
    if not text:
        return ""
    return f"; {text}" if best == 0 else f"; the field that most likely differs: {text} better"


def check_against(
    params: Mapping[str, Any],
    name: str,
    found: Shapes,
    fail: Callable[[str], BundleError],
    builder: Builder | None = None,
    pair: Mapping[str, nn.Module] | None = None,
) -> None:
    """Raises unless ``found`` are exactly the entries, shapes and types of the model that ``params`` describe.

    The error lists missing, unexpected and mismatched entries, and names the field that most likely
    differs. ``pair``: the models built from ``params``, if the caller has them.
    """
    builder = builder or _default_builder()
    models = pair or _build(params, builder, "meta")
    # Any other name holds weights of one of the two; inference's model is the first guess.
    role = name if name in models else "diffraction_to_obj"
    lines = _problems(state_shapes(models[role]), found)
    if lines and name not in models and not _problems(state_shapes(models["autoencoder"]), found):
        return
    if not lines:
        return
    shown = ", ".join(lines[:_SHOWN]) + (f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")
    hint = _hint(params, role, found, len(lines), builder)
    raise fail(f"weights do not fit the model that params describe: {shown}{hint}")


def _refuse_foreign(bundle: Bundle, weights: Mapping[str, Weights]) -> None:
    """One line for an archive of another program, instead of a list of all its tensors."""
    for model, part in weights.items():
        member = bundle.weights_member(model)
        ours = any(k.startswith("core.") for k in part.tensors)
        if part.sentinel is not None:
            others = [f"{m}: {len(w.tensors)} tensors" for m, w in weights.items() if w.tensors]
            raise bundle.error(
                member,
                f"holds only the placeholder {brief(part.sentinel)} and no weights"
                + (f" ({', '.join(others)}); " if others else "; ")
                + "written without torch, or by the older PyTorch program, whose network this package does not have",
            )
        if not ours and part.tensors and all(k.startswith("model.") for k in part.tensors):
            raise bundle.error(
                member,
                f"{len(part.tensors)} tensors under 'model.', as the older PyTorch program writes them; "
                "its network is another one and its weights cannot be used here: train again",
            )


@dataclass(frozen=True)
class Loaded:
    """A model with its weights and params in agreement. ``notes``: what could not be taken as it stood,
    each a warning's text."""

    module: nn.Module
    params: dict[str, Any]
    notes: tuple[str, ...] = ()


def load_model(bundle: Bundle, name: str, *, builder: Builder | None = None) -> Loaded:
    """The model ``name`` of a PyTorch bundle, on the CPU, in eval mode, with the file's weights.

    Every model of the bundle is read and compared, not only the one asked for: a file with one bad
    part is refused. Raises :class:`~ptycho_torch.errors.BundleError`.
    """
    builder = builder or _default_builder()
    params = bundle.params[name]
    _count_probe(bundle, name)
    try:
        shapes = _build(params, builder, "meta")
    except PtychoError as error:
        raise bundle.error(f"{name}/params.dill", str(error)) from None
    room = 4 * sum(v.numel() * v.element_size() for v in shapes[_NAMES[0]].state_dict().values()) + (4 << 20)
    chosen: Weights | None = None
    last: bytearray | None = None
    for model in sorted(bundle.models, key=lambda m: m == name):  # the one asked for comes last
        member = bundle.weights_member(model)
        if bundle.archive.size(member) > room:
            raise bundle.error(member, f"{bundle.archive.size(member)} bytes, far more than the model needs")
        data = bundle.read(member)
        # Two views of one core hold the same bytes, which are decoded once.
        known = chosen if data == last else None
        if last is not None:
            bundle.release(last)
        chosen, last = _checked_weights(bundle, model, data, known, shapes, builder), data
    assert chosen is not None
    module = _build(params, builder, "cpu")
    role = name if name in module else _role(module, chosen)
    state = {key: chosen.tensor(key) for key in chosen.tensors}
    module[role].load_state_dict(state)
    unconfirmed = _unconfirmed(bundle, name, role, chosen, builder)
    return _agreed(bundle, name, module[role].eval(), unconfirmed)


def _agreed(bundle: Bundle, name: str, module: nn.Module, notes: tuple[str, ...]) -> Loaded:
    """The module and its params with one intensity scale, where the bundle gives two."""
    params = dict(bundle.params[name])
    trained = getattr(module, "intensity_scale", None)
    if trained is None:
        return Loaded(module, params, notes)
    if not (math.isfinite(trained) and trained > 0):
        raise bundle.error(bundle.weights_member(name), f"{LOG_SCALE}: gives no finite intensity scale")
    found = agree(params, trained, bundle.sidecar)
    params["intensity_scale"] = found.scale
    if found.from_params:
        with torch.no_grad():
            module.get_parameter(LOG_SCALE).fill_(math.log(found.scale))
    return Loaded(module, params, notes if found.note is None else (*notes, found.note))


def _unconfirmed(bundle: Bundle, name: str, role: str, weights: Weights, builder: Builder) -> tuple[str, ...]:
    """A note on gridsize where nothing in the file can tell whether the params were changed. N is told
    by the probe among the weights."""
    params = bundle.params[name]
    if bundle.sidecar is not None or MODEL_RECORD in params:
        return ()
    try:
        other = _build({**params, "gridsize": params["gridsize"] % 16 + 1}, builder, "meta")[role]
    except PtychoError:
        return ()  # this network has no other
    if _problems(state_shapes(other), _found_shapes(weights)):
        return ()
    return (
        f"gridsize {params['gridsize']} is taken from params alone: the weights fit others as well, and there is "
        f"neither bundle.json nor {MODEL_RECORD} to compare with",
    )


def _role(module: Mapping[str, nn.Module], weights: Weights) -> str:
    fits = not _problems(state_shapes(module["diffraction_to_obj"]), _found_shapes(weights))
    return "diffraction_to_obj" if fits else "autoencoder"


def _checked_weights(
    bundle: Bundle,
    model: str,
    data: bytearray,
    known: Weights | None,
    shapes: Mapping[str, nn.Module],
    builder: Builder,
) -> Weights:
    weights = bundle.decode_weights(model, data) if known is None else known
    member = bundle.weights_member(model)
    if weights.sentinel is not None or not weights.tensors.keys() & state_shapes(shapes[_NAMES[0]]).keys():
        _refuse_foreign(bundle, _all_weights(bundle, model, weights))
    check_against(
        bundle.params[model],
        model,
        _found_shapes(weights),
        lambda r: bundle.error(member, r),
        builder,
        shapes,
    )
    if known is None:
        weights.check_values()
    return weights


def _all_weights(bundle: Bundle, model: str, weights: Weights) -> dict[str, Weights]:
    return {m: weights if m == model else bundle.weights(m) for m in bundle.models}
