"""``save_torch_bundle``: models, params, provenance and self-test in one file, whole or not at all.

Imports without torch; then structure can be written from sentinel dicts. The archive is described in
docs/bundle-format.md.
"""

from __future__ import annotations

import hashlib
import os
import platform
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ptycho_torch import legacy
from ptycho_torch._version import __version__
from ptycho_torch.bundle.container.archive import bundle_file
from ptycho_torch.bundle.container.sidecar import SIDECAR, SelfTest, make_sidecar
from ptycho_torch.bundle.container.writer import replace_file
from ptycho_torch.bundle.container.zipwriter import Buffer, Member, zip_parts
from ptycho_torch.bundle.contents import MANIFEST, read_zip
from ptycho_torch.bundle.params import check_params, make_snapshot
from ptycho_torch.bundle.pickles.encoder import encode
from ptycho_torch.bundle.tensors import weights_parts
from ptycho_torch.errors import BundleError, brief, printable

if TYPE_CHECKING:
    from ptycho_torch.bundle.rebuild import Builder
    from ptycho_torch.bundle.selftest import Group

__all__ = ["save_torch_bundle"]

VERSION: Final = "2.0-pytorch"
_EXPECTED: Final = frozenset({"autoencoder", "diffraction_to_obj"})


def _torch() -> Any:
    """torch, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def save_torch_bundle(
    models_dict: Mapping[str, Any],
    base_path: str | os.PathLike[str],
    config: Any,
    intensity_scale: float | None = None,
    *,
    provenance: Mapping[str, Any] | None = None,
    self_test: Group | bool | None = None,
    builder: Builder | None = None,
) -> None:
    """Writes ``{base_path}.zip``, whole or not at all.

    Parameters: ``models_dict`` ``{'autoencoder': module, 'diffraction_to_obj': module}``; other sets of
    names give a ``UserWarning``; a value may be a ``{'_sentinel': ...}`` dict. ``base_path``: a path
    that ends in ``.zip`` is the file itself; parent folders are made. ``config``: a configuration
    dataclass (or flat mapping) for the params snapshot. ``intensity_scale``: first that exists of this
    argument, the model's trained value, the global ``params.cfg``, 1.0. ``provenance``: anything readable
    about where the weights come from. ``self_test``: ``(frames, offsets)`` of one group (float32
    (1, C, N, N) in sqrt(counts), (1, C, 1, 2) pixels); None: a synthetic group; False: none.
    ``builder``: what makes the pair of models from params, for tests.

    Raises ``ValueError`` for an empty ``models_dict``, :class:`~ptycho_torch.errors.BundleError` for
    anything that the loader would refuse (with its name), :class:`~ptycho_torch.errors.OutputError` when the
    file cannot be written. On every error the old file stays as it was.
    """
    target = bundle_file(base_path)
    fail = partial(_refused, str(target))
    _check_models(models_dict, fail)
    names = sorted(models_dict)
    main = next(
        (
            models_dict[n]
            for n in ("diffraction_to_obj", *names)
            if not _is_sentinel(models_dict.get(n, {"_sentinel": 0}))
        ),
        None,
    )
    scale, source = _intensity_scale(intensity_scale, main, fail)
    extra = dict(main.bundle_params()) if main is not None and hasattr(main, "bundle_params") else {}
    params = make_snapshot(config, {k: _as_array(v) for k, v in extra.items()}, scale, VERSION)
    params_fail = partial(fail, "params.dill")
    check_params(params, params_fail)

    encoded = [encode(params, params_fail)]
    members = [
        Member(
            MANIFEST, [encode({"models": names, "version": VERSION}, partial(fail, MANIFEST))], deflate=True
        )
    ]
    states: list[tuple[Any, list[Buffer]]] = []
    pair: dict[str, Any] = {}
    for name in names:
        value = models_dict[name]
        state = dict(value) if _is_sentinel(value) else dict(value.state_dict())
        if _is_module(value):
            pair = pair or _shapes(params, builder)
            _warn_if_foreign(name, value, params, pair, builder, partial(fail, f"{name}/model.pth"))
        members.append(
            Member(f"{name}/model.pth", _weights(state, states, partial(fail, f"{name}/model.pth")))
        )
        members.append(Member(f"{name}/params.dill", encoded, deflate=True))
    test = _self_test(self_test, models_dict, params)
    sums = _checksums(members)
    side = make_sidecar(
        sums,
        params,
        models={n: type(models_dict[n]).__name__ for n in names},
        scale_source=source,
        provenance={**_versions(), **(provenance or {})},
        self_test=test,
    )
    members.append(Member(SIDECAR, [side], deflate=True))
    parts, _ = zip_parts(members)
    replace_file(target, parts, lambda written: _read_back(written, sums, fail))


def _refused(path: str, member: str | None, reason: str) -> BundleError:
    shown = f"{printable(path, 1000)}: {printable(member)}: " if member else f"{printable(path, 1000)}: "
    return BundleError(f"{shown}{reason}; nothing was written")


def _is_sentinel(value: Any) -> bool:
    return isinstance(value, Mapping) and "_sentinel" in value


def _is_module(value: Any) -> bool:
    torch = _torch()
    return torch is not None and isinstance(value, torch.nn.Module)


def _check_models(models: Mapping[str, Any], fail: Any) -> None:
    if not isinstance(models, Mapping):
        raise fail(None, f"models: expected a dictionary of modules, found {type(models).__name__}")
    if not models:
        raise fail(None, "models: empty; expected 'autoencoder' and 'diffraction_to_obj'")
    for name, value in models.items():
        if type(name) is not str:
            raise fail(None, f"models: name {brief(name)} is not text")
        if not (_is_sentinel(value) or _is_module(value)):
            raise fail(
                None, f"models: {printable(name)}: expected a torch module, found {type(value).__name__}"
            )
    missing, more = _EXPECTED - set(models), set(models) - _EXPECTED
    if missing or more:
        parts = [f"missing {', '.join(sorted(missing))}"] if missing else []
        parts += [f"extra {', '.join(sorted(map(printable, more)))}"] if more else []
        warnings.warn(f"unusual set of models for a bundle: {'; '.join(parts)}", UserWarning, stacklevel=3)


def _intensity_scale(argument: float | None, model: Any, fail: Any) -> tuple[float, str]:
    """The first value that exists, and where it came from."""
    for source, value in (
        ("argument", argument),
        ("model", getattr(model, "intensity_scale", None)),
        ("global", legacy.cfg.get("intensity_scale")),
        ("default", 1.0),
    ):
        if value is None:
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise fail(
                "params.dill", f"intensity_scale ({source}): expected a number, found {type(value).__name__}"
            ) from None
        if not (np.isfinite(number) and number > 0):
            raise fail(
                "params.dill",
                f"intensity_scale ({source}): expected a positive finite number, found {number}",
            )
        return number, source
    raise AssertionError("the default always exists")


def _as_array(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def _weights(state: dict[str, Any], known: list[tuple[Any, list[Buffer]]], fail: Any) -> list[Buffer]:
    """The bytes of ``state``; two views of one core hold the same tensors and are packed once."""
    key = {
        k: (id(v), None) if k.startswith("_") else (v.data_ptr(), v.shape, v.dtype, v.stride())
        for k, v in state.items()
    }
    for other, parts in known:
        if other == key:
            return parts
    parts = weights_parts(state, fail)
    known.append((key, parts))
    return parts


def _shapes(params: dict[str, Any], builder: Builder | None) -> dict[str, Any]:
    from ptycho_torch.bundle.rebuild import build_shapes

    return build_shapes(params, builder)


def _warn_if_foreign(
    name: str, module: Any, params: dict[str, Any], pair: dict[str, Any], builder: Builder | None, fail: Any
) -> None:
    """A model of this package must be what params describe; another one is written with a warning."""
    from ptycho_torch.bundle.rebuild import check_against, state_shapes

    try:
        check_against(params, name, state_shapes(module), fail, builder, pair)
    except BundleError as error:
        if hasattr(module, "bundle_params"):
            raise
        text = str(error).removesuffix("; nothing was written")
        warnings.warn(f"load_torch_bundle will refuse this bundle: {text}", UserWarning, stacklevel=3)


def _self_test(given: Any, models: Mapping[str, Any], params: dict[str, Any]) -> SelfTest | None:
    model = models.get("diffraction_to_obj")
    if given is False or model is None or not hasattr(model, "bundle_params"):
        return None
    from ptycho_torch.bundle.selftest import is_group, make_self_test, synthetic_frames

    # A measured group may be of frames that do not overlap at all, which no reader takes for a test.
    measured = given is not None and given is not True and is_group(*given)
    frames = given if measured else synthetic_frames(params)
    return None if frames is None else make_self_test("diffraction_to_obj", model, frames)


def _versions() -> dict[str, str]:
    torch = _torch()
    versions = {"package": __version__, "python": platform.python_version(), "numpy": np.__version__}
    return versions | ({"torch": str(torch.__version__)} if torch is not None else {})


def _checksums(members: list[Member]) -> dict[str, tuple[str, int]]:
    known: dict[int, tuple[str, int]] = {}
    sums = {}
    for member in members:
        if id(member.parts) not in known:
            digest, size = hashlib.sha256(), 0
            for part in member.parts:
                digest.update(part)
                size += len(part)
            known[id(member.parts)] = digest.hexdigest(), size
        sums[member.name] = known[id(member.parts)]
    return sums


def _read_back(written: Path, sums: dict[str, tuple[str, int]], fail: Any) -> None:
    """Reads the new file with the loader's own steps, all weights included, before it takes its place."""
    with read_zip(written) as bundle:
        if bundle.sidecar is None or set(bundle.sidecar["members"]) != set(sums):
            raise fail(None, "reading back what was written gave something else")
        checked: set[str] = set()
        for model in bundle.models:
            member = bundle.weights_member(model)
            if sums[member][0] in checked:  # same bytes: the checksum alone has to be right
                bundle.release(bundle.read(member))
                continue
            data = bundle.read(member)
            bundle.decode_weights(model, data).check_values()
            bundle.release(data)
            checked.add(sums[member][0])
