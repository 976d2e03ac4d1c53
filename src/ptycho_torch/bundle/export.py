"""Weights and configuration of a bundle as a safetensors file, for other tools."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ptycho_torch.bundle.container.sidecar import readable
from ptycho_torch.bundle.container.writer import replace_file
from ptycho_torch.bundle.contents import read_bundle
from ptycho_torch.errors import DependencyError, brief
from ptycho_torch.files import require_new

__all__ = ["export_safetensors"]


def export_safetensors(
    base_path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    model_name: str = "diffraction_to_obj",
) -> Path:
    """Write the weights of one model as a safetensors file, whole or not at all.

    Tensor names are those of the state dict. The file's metadata holds ``format`` ('pt'), ``version``,
    ``model`` and ``params`` (JSON; arrays described, the probe being among the weights).

    Parameters
    ----------
    base_path : path
        The bundle.
    target : path
        The file to write.
    model_name : str
        One of the manifest's models.

    Returns
    -------
    Path

    Raises
    ------
    BundleError
        When the bundle cannot be read.
    OutputError
        When the file cannot be written.
    DependencyError
        Without torch or safetensors.

    Examples
    --------
    >>> from ptycho_torch.bundle.shipped import shipped_bundle
    >>> export_safetensors(shipped_bundle(), "weights.safetensors").name
    'weights.safetensors'
    """
    try:
        from safetensors.torch import load, save

        from ptycho_torch.bundle.rebuild import load_model
    except ImportError as error:
        raise DependencyError(
            f"export needs torch and safetensors ({error}): pip install torch safetensors"
        ) from error
    with read_bundle(base_path) as bundle:
        if model_name not in bundle.models:
            raise bundle.error(
                None, f"no model {brief(model_name, 200)}; there is: {', '.join(bundle.models)}"
            )
        if bundle.backend != "pytorch":
            raise bundle.error(None, "an archive of the TensorFlow program; convert it to a bundle first")
        require_new([target], bundle.path)
        loaded = load_model(bundle, model_name)
        params = json.dumps(readable(loaded.params), sort_keys=True)
        metadata = {"format": "pt", "version": bundle.version, "model": model_name, "params": params}
    tensors = {name: value.contiguous().clone() for name, value in loaded.module.state_dict().items()}
    parts: Sequence[bytes] = [save(tensors, metadata)]

    def check(written: Path) -> None:
        load(written.read_bytes())

    return replace_file(Path(target), parts, check)
