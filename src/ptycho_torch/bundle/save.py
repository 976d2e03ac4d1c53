"""``save_torch_bundle``: models, params, provenance and self-test in one file, whole or not at all.

Imports without torch; then structure can be written from sentinel dicts. The archive is described in
docs/bundle-format.md.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ptycho_torch._version import __version__
from ptycho_torch.bundle.container.archive import bundle_file
from ptycho_torch.bundle.container.sidecar import SIDECAR, SelfTest, make_sidecar
from ptycho_torch.bundle.container.writer import replace_file
from ptycho_torch.bundle.container.zipwriter import Member, zip_parts
from ptycho_torch.bundle.contents import MANIFEST, read_zip
from ptycho_torch.bundle.models import (
    asked,
    check_models,
    describes_itself,
    installed_torch,
    main_model,
    pack_models,
    warn_if_foreign,
)
from ptycho_torch.bundle.params import flat_config, make_snapshot
from ptycho_torch.bundle.pickles.encoder import encode
from ptycho_torch.bundle.scale import Fail, same_scale, scale_to_write
from ptycho_torch.errors import BundleError, printable

if TYPE_CHECKING:
    from ptycho_torch.bundle.rebuild import Builder
    from ptycho_torch.bundle.selftest import Group

__all__ = ["save_torch_bundle"]

VERSION: Final = "2.0-pytorch"


def save_torch_bundle(
    models_dict: Mapping[str, Any],
    base_path: str | os.PathLike[str],
    config: Any,
    intensity_scale: float | None = None,
    *,
    provenance: Mapping[str, Any] | None = None,
    self_test: Group | SelfTest | bool | None = None,
    builder: Builder | None = None,
) -> None:
    """Write ``{base_path}.zip``, whole or not at all.

    Parameters
    ----------
    models_dict
        ``{'autoencoder': module, 'diffraction_to_obj': module}``; other sets of names give a
        ``UserWarning``. A value may be a ``{'_sentinel': ...}`` dictionary.
    base_path
        A path that ends in ``.zip`` is the file itself; parent folders are made.
    config
        A configuration dataclass or a flat mapping, for the params snapshot.
    intensity_scale
        Factor from normalised amplitude to sqrt(counts), in params and weights alike. Default: the
        first that exists of the model's trained value, the mapping's own, the global ``params.cfg``, 1.0.
        ``models_dict`` itself is never changed.
    provenance
        Anything readable about where the weights come from.
    self_test
        ``(frames, offsets)`` of one group, float32 (1, C, N, N) in sqrt(counts) and (1, C, 1, 2) pixels;
        or the self-test of the bundle that the model was loaded from; None: a synthetic group; False: none.
    builder
        What makes the pair of models from params, for tests.

    Raises
    ------
    BundleError
        A ``ValueError``: for an empty ``models_dict`` and for anything that the loader would refuse, with
        its name.
    OutputError
        When the file cannot be written. On every error the old file stays as it was.

    Examples
    --------
    >>> from ptycho_torch import TrainingConfig, load_torch_bundle
    >>> from ptycho_torch.model_manager import create_torch_model_with_gridsize
    >>> config = TrainingConfig()
    >>> pair = create_torch_model_with_gridsize(config.model.gridsize, config.model.N)
    >>> save_torch_bundle(dict(zip(("autoencoder", "diffraction_to_obj"), pair)), "run/wts.h5", config, 250.0)
    >>> round(load_torch_bundle("run")[0].intensity_scale, 3)
    250.0
    """
    target = bundle_file(base_path)
    fail = partial(_refused, str(target))
    check_models(models_dict, fail)
    main = main_model(models_dict)
    flat = flat_config(config)
    scale, source = scale_to_write(intensity_scale, main, flat, fail)
    trained = getattr(main, "intensity_scale", None) if describes_itself(main) else None
    changed = None if trained is None or source != "argument" or same_scale(scale, trained) else scale
    params = make_snapshot(flat, _own_params(main, fail), scale, VERSION, partial(fail, "params.dill"))

    members = _members(models_dict, params, changed, fail)
    warn_if_foreign(models_dict, params, builder, fail)
    test = _self_test(self_test, models_dict, params, changed)
    sums = _checksums(members)
    side = make_sidecar(
        sums,
        params,
        models={n: type(models_dict[n]).__name__ for n in sorted(models_dict)},
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


def _own_params(main: Any, fail: Fail) -> dict[str, Any]:
    """What a model of this package adds to the params: its probe and normalisation."""
    if not describes_itself(main):
        return {}
    extra = asked(
        lambda: dict(main.bundle_params()), "the model's own cannot be read", partial(fail, "params.dill")
    )
    return {k: v.detach().cpu().numpy() if hasattr(v, "detach") else v for k, v in extra.items()}


def _members(
    models: Mapping[str, Any], params: dict[str, Any], scale: float | None, fail: Fail
) -> list[Member]:
    """All members but ``bundle.json``, in the order of the file."""
    names = sorted(models)
    encoded = [encode(params, partial(fail, "params.dill"))]
    manifest = encode({"models": names, "version": VERSION}, partial(fail, MANIFEST))
    members = [Member(MANIFEST, [manifest], deflate=True)]
    weights = pack_models(models, scale, fail)
    for name in names:
        members.append(Member(f"{name}/model.pth", weights[name]))
        members.append(Member(f"{name}/params.dill", encoded, deflate=True))
    return members


def _self_test(
    given: Group | SelfTest | bool | None,
    models: Mapping[str, Any],
    params: dict[str, Any],
    scale: float | None,
) -> SelfTest | None:
    """The self-test to write. ``scale``: the one that replaces the model's own, or None."""
    model: Any = models.get("diffraction_to_obj")
    if given is False or not describes_itself(model):
        return None
    if isinstance(given, SelfTest):
        if scale is None and given.model == "diffraction_to_obj":
            return given  # what was measured then, so that a drift since then goes on being seen
        given = given.frames, given.offsets
    from ptycho_torch.bundle.selftest import is_group, make_self_test, synthetic_frames

    # A measured group may be of frames that do not overlap at all, which no reader takes for a test.
    measured = given if isinstance(given, tuple | list) and is_group(*given) else None
    frames = measured or synthetic_frames(params)
    return None if frames is None else make_self_test("diffraction_to_obj", model, frames, scale)


def _versions() -> dict[str, str]:
    torch = installed_torch()
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
