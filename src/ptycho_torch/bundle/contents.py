"""A bundle read as far as that goes without torch: manifest, params, checksums, weights as views.

Everything refused is one :class:`~ptycho_torch.errors.BundleError` with the text
``path: member: reason``. Imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from ptycho_torch.bundle.container import limits
from ptycho_torch.bundle.container.archive import Archive, ZipArchive, open_archive
from ptycho_torch.bundle.container.sidecar import SIDECAR, check_member, parse_sidecar
from ptycho_torch.bundle.params import check_params
from ptycho_torch.bundle.pickles.decoder import decode
from ptycho_torch.bundle.tensors import Weights, read_weights
from ptycho_torch.compat.parameters import model_config_from_legacy
from ptycho_torch.config import ModelConfig
from ptycho_torch.errors import BundleError, brief, printable

__all__ = ["MANIFEST", "Bundle", "read_bundle", "read_manifest", "read_params", "read_zip"]

MANIFEST: Final = "manifest.dill"
_BACKENDS: Final = {"2.0-pytorch": ("pytorch", "model.pth"), "1.0": ("tensorflow", "model.keras")}
_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")


@dataclass
class Bundle:
    """An open bundle whose manifest and params have been read and checked.

    ``params`` holds one validated snapshot per model; ``sidecar`` is ``bundle.json`` or None. Close
    it, or use it in a ``with`` statement.
    """

    archive: Archive
    version: str
    backend: str
    models: tuple[str, ...]
    params: dict[str, dict[str, Any]]
    sidecar: dict[str, Any] | None

    @property
    def path(self) -> str:
        return self.archive.path

    def weights_member(self, model: str) -> str:
        return f"{model}/{_BACKENDS[self.version][1]}"

    def error(self, member: str | None, reason: str) -> BundleError:
        return self.archive.error(member, reason)

    def read(self, member: str) -> bytearray:
        """A member's bytes, checked against its CRC and, where there is one, against ``bundle.json``."""
        return _read(self.archive, self.sidecar, member)

    def weights(self, model: str) -> Weights:
        """The weights of one model, decoded and checked except for their values."""
        member = self.weights_member(model)
        return self.decode_weights(model, self.read(member))

    def decode_weights(self, model: str, data: bytearray) -> Weights:
        """The same from bytes that :meth:`read` gave."""
        return read_weights(data, partial(self.error, self.weights_member(model)), self.archive.budget)

    def release(self, data: bytearray) -> None:
        """Takes note that bytes which :meth:`read` gave are let go."""
        self.archive.budget.give_back(len(data))

    def check_listed(self) -> None:
        """Raises unless ``bundle.json``, where there is one, lists members that all exist."""
        for name in (self.sidecar or {"members": {}})["members"]:
            if name not in self.archive.names:
                raise self.error(name, f"listed in {SIDECAR} but missing")

    def close(self) -> None:
        self.archive.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fail(archive: Archive, member: str) -> Callable[[str], BundleError]:
    return partial(archive.error, member)


def _read(archive: Archive, sidecar: dict[str, Any] | None, member: str) -> bytearray:
    data = archive.read(member)
    if sidecar is not None:
        check_member(sidecar, member, data, _fail(archive, member))
    return data


def read_manifest(archive: Archive, sidecar: dict[str, Any] | None = None) -> tuple[str, tuple[str, ...]]:
    """Version and model names of a bundle."""
    fail = _fail(archive, MANIFEST)
    found = decode(_read(archive, sidecar, MANIFEST), fail, budget=archive.budget)
    if not isinstance(found, dict):
        raise fail(f"expected a dictionary, found {type(found).__name__}")
    version, models = found.get("version"), found.get("models")
    if type(version) is not str or version not in _BACKENDS:
        known = ", ".join(repr(v) for v in _BACKENDS)
        raise fail(f"version {brief(version)} is not known; known are {known}")
    backend = found.get("backend", _BACKENDS[version][0])  # optional: some writers of the contract add it
    if backend != _BACKENDS[version][0]:
        raise fail(f"backend {brief(backend)}, but version {version} is {_BACKENDS[version][0]}'s")
    if not isinstance(models, list | tuple) or not models:
        raise fail("models: expected a list of names")
    if len(models) > limits.MAX_MODELS:
        raise fail(f"models: {len(models)} names, at most {limits.MAX_MODELS} are read")
    for name in models:
        if type(name) is not str or not _MODEL_NAME.fullmatch(name) or ".." in name:
            raise fail(f"models: {brief(name, 80)} is not a plain name")
    if len({name.casefold() for name in models}) != len(models):
        raise fail("models: a name is given twice")
    return version, tuple(models)


def read_params(archive: Archive, model: str, sidecar: dict[str, Any] | None = None) -> dict[str, Any]:
    """One model's params snapshot, decoded and validated as a configuration."""
    member = f"{model}/params.dill"
    return _params_of(archive, member, _read(archive, sidecar, member))


def _params_of(archive: Archive, member: str, data: bytearray) -> dict[str, Any]:
    fail = _fail(archive, member)
    return check_params(decode(data, fail, budget=archive.budget), fail)


def _all_params(
    archive: Archive, models: tuple[str, ...], sidecar: dict[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """Snapshots by model. Models are views of one configuration, so equal bytes are decoded once."""
    params: dict[str, dict[str, Any]] = {}
    known: list[tuple[bytearray, dict[str, Any]]] = []
    for model in models:
        data = _read(archive, sidecar, f"{model}/params.dill")
        same = next((found for other, found in known if other == data), None)
        if same is None:
            same = _params_of(archive, f"{model}/params.dill", data)
            known.append((data, same))
        else:
            archive.budget.give_back(len(data))
        params[model] = same
    if len(known) > 1:
        _check_agreement(archive, params)
    return params


def read_bundle(base_path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle and check container, manifest and params; weights are not read yet.

    Parameters
    ----------
    base_path : path
        In any form of :func:`~ptycho_torch.bundle.container.archive.open_archive`.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        ``BundleNotFoundError`` where nothing is.

    Examples
    --------
    >>> from ptycho_torch.bundle.shipped import shipped_bundle
    >>> read_bundle(shipped_bundle()).models
    ('autoencoder', 'diffraction_to_obj')
    """
    return _read_and_keep(open_archive(base_path))


def read_zip(path: Path) -> Bundle:
    """The same for one zip file whose name does not matter."""
    return _read_and_keep(ZipArchive(str(path)))


def _read_and_keep(archive: Archive) -> Bundle:
    try:
        return _read_open(archive)
    except BaseException:
        archive.close()
        raise


def _read_open(archive: Archive) -> Bundle:
    names = set(archive.names)
    sidecar = None
    if MANIFEST not in names:
        raise archive.error(MANIFEST, "member is missing; not a model bundle")
    if SIDECAR in names:
        sidecar = parse_sidecar(archive.read(SIDECAR), _fail(archive, SIDECAR), archive.budget)
    version, models = read_manifest(archive, sidecar)
    backend, weights = _BACKENDS[version]
    if sidecar is not None and sidecar["backend"] != backend:
        raise archive.error(SIDECAR, f"backend {sidecar['backend']}, but the manifest's version is {version}")
    for model in models:
        for member in (f"{model}/{weights}", f"{model}/params.dill"):
            if member not in names:
                raise archive.error(member, f"member is missing, though the manifest lists {model}")
    for name in sorted(names):
        folder, _, last = name.partition("/")
        if last == weights and folder not in models:
            raise archive.error(MANIFEST, f"does not list {printable(folder)}, whose {weights} is there")
    params = _all_params(archive, models, sidecar)
    bundle = Bundle(archive, version, backend, models, params, sidecar)
    bundle.check_listed()
    return bundle


def _check_agreement(archive: Archive, params: dict[str, dict[str, Any]]) -> None:
    """All models of a bundle are views of one configuration; a bundle whose parts differ was put together."""
    configs: dict[str, ModelConfig] = {name: model_config_from_legacy(p) for name, p in params.items()}
    first = next(iter(configs))
    for name, config in configs.items():
        if config != configs[first]:
            differing = [k for k, v in vars(config).items() if v != getattr(configs[first], k)]
            raise archive.error(
                f"{name}/params.dill",
                f"differs from {first}'s in {', '.join(differing)}; they describe two models",
            )
