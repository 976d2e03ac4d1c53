"""Writes tests/data/bundle_v<n>_<generator>.zip, once per format version, generator and form.

    python tests/torch/bundle/keep_bundle.py

A file that exists is never written again: it stands for what a released version wrote.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from bundle_models import members, small_pair

from ptycho_torch.bundle.container.sidecar import FORMAT_VERSION
from ptycho_torch.bundle.container.zipwriter import Member, zip_parts
from ptycho_torch.generators import available
from ptycho_torch.model_manager import save_torch_bundle

DATA = Path(__file__).parents[2] / "data"


def keep(architecture: str, form: str | None = None) -> None:
    kind = architecture if form is None else f"{architecture}_{form}"
    target = DATA / f"bundle_v{FORMAT_VERSION}_{kind}.zip"
    if target.exists():
        return
    size = 64 if architecture == "cnn" else 32
    config, models = small_pair(
        seed=1, architecture=architecture, N=size, unrolled_width=4, unrolled_form=form
    )
    with torch.no_grad():  # few distinct values, so that the file in the repository is small
        for parameter in models["autoencoder"].parameters():
            if parameter.requires_grad:
                parameter.copy_((parameter * 50).round() / 50)
    with tempfile.TemporaryDirectory() as folder:
        save_torch_bundle(models, Path(folder) / "x", config)
        content = members(Path(folder) / "x.zip")
    parts, _ = zip_parts([Member(n, [d], deflate=True) for n, d in content.items()])
    target.write_bytes(b"".join(map(bytes, parts)))


if __name__ == "__main__":
    for name in available():
        keep(name)
    for form in ("region", "settling"):
        keep("unrolled", form)
