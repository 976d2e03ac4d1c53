"""Figures of losses and errors over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ptycho_torch.report.figures.panels import new_figure

__all__ = ["pretraining_figure", "training_figure"]

_LINES = ("#0072b2", "#d55e00", "#000000", "#009e73")  # Okabe and Ito's, told apart by lightness, too
_STYLES = ("-", "--", ":", "-.")


def pretraining_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Errors on validation regions, one line a kind, against steps; rows as ``pretrain.jsonl`` has them."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    kinds = sorted({key for row in history for key in row} - {"step", "seconds", "rate", "loss"})
    for number, kind in enumerate(kinds):
        rows = [row for row in history if kind in row]
        axes.plot(
            [row["step"] for row in rows],
            [row[kind] for row in rows],
            color=_LINES[number % 4],
            linestyle=_STYLES[number // 4 % 4],
            label=kind.replace("_", ", "),
        )
    axes.set_xlabel("steps")
    axes.set_ylabel("error relative to the object")
    axes.grid(alpha=0.3)
    if kinds:
        axes.set_yscale("log")
        axes.legend()
    return figure


def training_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss against epoch and against time.

    Rows have ``epoch``, ``seconds`` and one or more losses (``loss``, ``val_loss``, or any key that ends
    in ``loss``). Without rows the figure says so. The axis is logarithmic when all losses are positive.
    """
    figure = new_figure(10, 3.8)
    names = list(dict.fromkeys(key for row in history for key in row if key.endswith("loss")))
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"loss": "training", "val_loss": "validation"}
    losses = [float(row[name]) for row in history for name in names if row.get(name) is not None]
    for axes, key, label in zip(panels, ("epoch", "seconds"), ("epoch", "time (s)"), strict=True):
        for number, name in enumerate(names):
            rows = [row for row in history if row.get(name) is not None and key in row]
            axes.plot(
                [row[key] for row in rows],
                [row[name] for row in rows],
                color=_LINES[number % 4],
                linestyle=_STYLES[number % 4],
                marker="o" if len(rows) < 12 else "",
                markersize=3,
                label=titles.get(name, name),
            )
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        if not losses:
            axes.text(0.5, 0.5, "no epoch finished", ha="center", va="center", transform=axes.transAxes)
    finite = [value for value in losses if np.isfinite(value)]
    # Over less than a factor of two a logarithmic axis has no round numbers to put on it.
    if finite and min(finite) > 0 and max(finite) > 2 * min(finite):
        panels[0].set_yscale("log")
        if max(finite) < 30 * min(finite):  # else the powers of ten alone are marked
            panels[0].yaxis.set_minor_formatter("{x:g}")
        panels[0].yaxis.set_major_formatter("{x:g}")
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("loss")
    if names:
        panels[1].legend(frameon=False)
    return figure
