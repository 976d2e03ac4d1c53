"""``load_torch_bundle``: a model with its weights and params out of a bundle. Nothing in the file is executed.

Imports without torch; loading weights then says what is missing.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from ptycho_torch.bundle.contents import MANIFEST, read_bundle
from ptycho_torch.compat import parameters
from ptycho_torch.errors import ConfigError, DependencyError, brief, printable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ptycho_torch.bundle.rebuild import Builder

__all__ = ["load_torch_bundle"]


def load_torch_bundle(
    base_path: str | os.PathLike[str],
    model_name: str = "diffraction_to_obj",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    builder: Builder | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Read a model with its weights, and the params snapshot. Nothing in the file is executed.

    Parameters
    ----------
    base_path
        ``{base_path}``, ``{base_path}.zip``, a folder holding ``wts.h5.zip``, or a folder holding an unpacked
        bundle. Archives of the TensorFlow program are recognised and rebuilt.
    model_name
        One of the manifest's models.
    device
        Where the model is put; default: the CPU.
    dtype
        Floating type of its parameters; complex ones follow.
    builder
        What makes the pair of models from params, for tests.

    Returns
    -------
    tuple
        The model in eval mode, and its params. Both have one ``intensity_scale``: where the file holds two, the
        one given when saving, else the model's trained one, which a ``UserWarning`` says.
        After success the global ``params.cfg`` holds the params.

    Raises
    ------
    BundleError
        A ``ValueError`` (:class:`~ptycho_torch.errors.BundleNotFoundError` where there is no file) with the text
        ``path: member: reason``.
    DependencyError
        Without torch.

    Examples
    --------
    >>> from ptycho_torch.bundle.shipped import shipped_bundle
    >>> model, params = load_torch_bundle(shipped_bundle())
    >>> model.config.architecture, params["N"]
    ('unrolled', 64)
    """
    with read_bundle(base_path) as bundle:
        if model_name not in bundle.models:
            shown = ", ".join(bundle.models)
            raise bundle.error(MANIFEST, f"no model {brief(model_name, 80)}; there is: {shown}")
        _need_torch(bundle.path)
        from ptycho_torch.bundle.rebuild import Loaded, load_model

        if bundle.backend == "tensorflow":
            from ptycho_torch.bundle.keras.tensorflow import load_tensorflow_archive

            loaded = Loaded(*load_tensorflow_archive(bundle.archive, model_name))
        else:
            loaded = load_model(bundle, model_name, builder=builder)
        path = bundle.path
    module = _moved(loaded.module, device, dtype).eval()
    for note in loaded.notes:
        warnings.warn(f"{printable(path, 1000)}: {note}", UserWarning, stacklevel=2)
    parameters.cfg.update(loaded.params)
    return module, loaded.params


def _need_torch(path: str) -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise DependencyError(
            f"{printable(path, 1000)}: loading weights needs torch: pip install torch (manifest and params"
            " can be read without)"
        ) from None


def _moved(module: nn.Module, device: str | torch.device | None, dtype: torch.dtype | None) -> nn.Module:
    import torch

    if dtype is not None:
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ConfigError(
                f"dtype: expected a floating torch type such as torch.float32, found {printable(dtype)}"
            )
        wide = torch.complex128 if dtype == torch.float64 else torch.complex64
        module = module._apply(
            lambda t: t.to(wide) if t.is_complex() else t.to(dtype) if t.is_floating_point() else t
        )
    return module if device is None else module.to(device)
