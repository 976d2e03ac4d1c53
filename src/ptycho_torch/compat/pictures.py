"""``save_outputs``: the two pictures that the older programs leave in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.files import ensure_output_dir

__all__ = ["save_outputs"]


def save_outputs(
    amplitude: NDArray[np.float32] | None,
    phase: NDArray[np.float32] | None,
    results: dict[str, Any],
    output_prefix: str | Path,
) -> None:
    """Write ``reconstructed_amplitude.png`` and ``reconstructed_phase.png`` into a folder, where there are such."""
    # Here, for a process that loads a model and draws nothing.
    from matplotlib.figure import Figure

    from ptycho_torch.report.figures import save_figure

    folder = ensure_output_dir(output_prefix)
    for name, image, colours in (("amplitude", amplitude, "gray"), ("phase", phase, "twilight")):
        if image is None:
            continue
        picture = np.squeeze(np.asarray(image))
        figure = Figure(figsize=(6.4, 5.6), layout="constrained")
        axes = figure.add_subplot()
        known = picture[picture != 0] if (picture != 0).any() else picture
        low, high = (-np.pi, np.pi) if name == "phase" else np.percentile(known, (0.5, 99.5))
        shown = axes.imshow(picture, cmap=colours, vmin=low, vmax=high)
        axes.set(title=name, xlabel="x (px)", ylabel="y (px)")
        figure.colorbar(shown, label="rad" if name == "phase" else "relative to the probe")
        save_figure(figure, folder / f"reconstructed_{name}.png")
