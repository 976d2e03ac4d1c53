"""What a bundle is and where it comes from, as plain data for a person or a program. Needs no torch."""

from __future__ import annotations

import os
from typing import Any

from ptycho_torch.bundle.container.sidecar import readable
from ptycho_torch.bundle.contents import read_bundle

__all__ = ["inspect_bundle"]


def inspect_bundle(base_path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe a bundle. Manifest and params are checked on the way, weights are not read.

    Parameters
    ----------
    base_path : path

    Returns
    -------
    dict
        What ``json.dumps`` takes: ``path``, ``version``, ``backend`` ('pytorch' | 'tensorflow'), ``format_version``
        (None without ``bundle.json``), ``models`` (list), ``members`` (name -> size in bytes), ``params`` (of the
        model that inference uses; arrays as text), ``intensity_scale`` (value and source), ``provenance``,
        ``self_test`` (model and tolerance, or None).

    Raises
    ------
    BundleError
        When it cannot be read.

    Examples
    --------
    >>> from ptycho_torch.bundle.shipped import shipped_bundle
    >>> inspect_bundle(shipped_bundle())["models"]
    ['autoencoder', 'diffraction_to_obj']
    """
    with read_bundle(base_path) as bundle:
        side = bundle.sidecar or {}
        model = "diffraction_to_obj" if "diffraction_to_obj" in bundle.models else bundle.models[0]
        params = bundle.params[model]
        test, origin = side.get("self_test"), side.get("provenance") or {}
        scale = side.get("intensity_scale") or {"value": params.get("intensity_scale"), "source": None}
        return {
            "path": bundle.path,
            "version": bundle.version,
            "backend": bundle.backend,
            "format_version": side.get("format_version"),
            "models": list(bundle.models),
            "members": {name: bundle.archive.size(name) for name in sorted(bundle.archive.names)},
            "params": readable(dict(sorted(params.items()))),
            "intensity_scale": scale,
            "provenance": origin if isinstance(origin, dict) else {"found": origin},
            "self_test": {k: test.get(k) for k in ("model", "tolerance")} if isinstance(test, dict) else None,
        }
