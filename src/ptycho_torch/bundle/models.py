"""The models handed to ``save_torch_bundle``: checked, and as the bytes of their ``model.pth``.

A value is a torch module or a ``{'_sentinel': ...}`` dictionary that stands for one. Modules may be
anybody's: whatever their own code raises becomes the caller's error. Imports without torch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ptycho_torch.bundle.container.zipwriter import Buffer
from ptycho_torch.bundle.scale import LOG_SCALE, Fail
from ptycho_torch.bundle.tensors import weights_parts
from ptycho_torch.errors import BundleError, brief, printable

if TYPE_CHECKING:
    from ptycho_torch.bundle.rebuild import Builder

__all__ = [
    "asked",
    "check_models",
    "describes_itself",
    "installed_torch",
    "is_module",
    "main_model",
    "pack_models",
    "warn_if_foreign",
]

T = TypeVar("T")
_EXPECTED: Final = frozenset({"autoencoder", "diffraction_to_obj"})


def installed_torch() -> Any:
    """torch, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def _is_sentinel(value: Any) -> bool:
    return isinstance(value, Mapping) and "_sentinel" in value


def is_module(value: Any) -> bool:
    """Whether ``value`` is a torch module; never without torch."""
    torch = installed_torch()
    return torch is not None and isinstance(value, torch.nn.Module)


def asked(call: Callable[[], T], what: str, fail: Callable[[str], BundleError]) -> T:
    """What somebody else's code returns; whatever it raises becomes the error that ``fail`` makes."""
    try:
        return call()
    except BundleError:
        raise
    except Exception as error:
        raise fail(f"{what} ({type(error).__name__}: {printable(error)})") from error


def check_models(models: Mapping[str, Any], fail: Fail) -> None:
    """Raise for what is no set of models; warn of a set with other names than the usual two."""
    if not isinstance(models, Mapping):
        raise fail(None, f"models: expected a dictionary of modules, found {type(models).__name__}")
    if not models:
        raise fail(None, "models: empty; expected 'autoencoder' and 'diffraction_to_obj'")
    for name, value in models.items():
        if type(name) is not str:
            raise fail(None, f"models: name {brief(name)} is not text")
        if not (_is_sentinel(value) or is_module(value)):
            raise fail(
                None, f"models: {printable(name)}: expected a torch module, found {type(value).__name__}"
            )
    missing, more = _EXPECTED - set(models), set(models) - _EXPECTED
    if missing or more:
        parts = [f"missing {', '.join(sorted(missing))}"] if missing else []
        parts += [f"extra {', '.join(sorted(map(printable, more)))}"] if more else []
        warnings.warn(f"unusual set of models for a bundle: {'; '.join(parts)}", UserWarning, stacklevel=3)


def main_model(models: Mapping[str, Any]) -> Any:
    """The module whose scale and probe the params hold: inference's, or the first; None without one."""
    names = ("diffraction_to_obj", *sorted(models))
    return next((models[n] for n in names if n in models and not _is_sentinel(models[n])), None)


def describes_itself(value: Any) -> bool:
    """Whether a value is a model of this package, which knows the parameters that it was built from."""
    return is_module(value) and callable(getattr(type(value), "bundle_params", None))


def pack_models(models: Mapping[str, Any], scale: float | None, fail: Fail) -> dict[str, list[Buffer]]:
    """The ``model.pth`` of each model, as buffers to be written in order.

    Parameters
    ----------
    models
        As :func:`check_models` passed them.
    scale
        The intensity scale to write into the weights of this package's models in place of their own,
        or None. The models themselves are left as they are.
    fail
        Makes the error from a member's name and a reason.
    """
    packed: dict[str, list[Buffer]] = {}
    known: list[tuple[Any, list[Buffer]]] = []
    for name in sorted(models):
        value, member_fail = models[name], partial(fail, f"{name}/model.pth")
        if _is_sentinel(value):
            packed[name] = weights_parts(dict(value), member_fail)
            continue
        state = asked(partial(_state_dict, value), "its state_dict cannot be read", member_fail)
        if "_sentinel" in state:
            raise member_fail("'_sentinel' is no name for a tensor: it marks a placeholder")
        if scale is not None and describes_itself(value) and LOG_SCALE in state:
            state[LOG_SCALE] = state[LOG_SCALE].new_full((), math.log(scale))
        parts = asked(
            partial(_packed, state, known, scale, member_fail), "its tensors cannot be read", member_fail
        )
        packed[name] = parts
    return packed


def _state_dict(module: Any) -> dict[str, Any]:
    return dict(module.state_dict())


def _packed(
    state: dict[str, Any],
    known: list[tuple[Any, list[Buffer]]],
    scale: float | None,
    fail: Callable[[str], BundleError],
) -> list[Buffer]:
    """The bytes of ``state``; two views of one core hold the same tensors and are packed once."""
    key = {k: _identity(v) for k, v in state.items() if scale is None or k != LOG_SCALE}
    for other, parts in known:
        if other == key:
            return parts
    parts = weights_parts(state, fail)
    known.append((key, parts))
    return parts


def _identity(value: Any) -> Any:
    """What two names of the same tensor have in common; other values are themselves."""
    torch = installed_torch()
    if not isinstance(value, torch.Tensor):
        return id(value)
    return value.data_ptr(), value.shape, value.dtype, value.stride()


def warn_if_foreign(
    models: Mapping[str, Any], params: dict[str, Any], builder: Builder | None, fail: Fail
) -> None:
    """A model of this package must be what ``params`` describe; another one is written with a warning."""
    modules = {name: value for name, value in sorted(models.items()) if is_module(value)}
    if not modules:
        return
    from ptycho_torch.bundle.rebuild import build_shapes, check_against, state_shapes

    pair = build_shapes(params, builder)
    for name, module in modules.items():
        member_fail = partial(fail, f"{name}/model.pth")
        try:
            shapes = asked(partial(state_shapes, module), "its state_dict cannot be read", member_fail)
            check_against(params, name, shapes, member_fail, builder, pair)
        except BundleError as error:
            if describes_itself(module):
                raise
            text = str(error).removesuffix("; nothing was written")
            warnings.warn(f"load_torch_bundle will refuse this bundle: {text}", UserWarning, stacklevel=3)
