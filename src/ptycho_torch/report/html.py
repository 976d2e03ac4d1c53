"""One self-contained HTML file: text, tables, and figures as embedded PNG. It loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ptycho_torch.errors import one_line
from ptycho_torch.files import write_text_atomic
from ptycho_torch.report.figures import figure_png

__all__ = ["Section", "html_report", "write_report"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #c8d0dc; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top; border-bottom: 1px solid #e6eaf0; }
th { font-weight: 500; color: #4a5668; } td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; } figcaption { color: #4a5668; font-size: .9rem; }
"""


@dataclass(frozen=True)
class Section:
    """One part of a report, in this order: ``text``, a ``table`` (nested mappings are flattened), ``figures``.

    ``figures``: pairs of caption and either a figure or PNG bytes.
    """

    heading: str
    text: str = ""
    table: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[tuple[str, Figure | bytes]] = ()


def _shown(value: Any) -> str:
    if value is None:
        return "not available"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{float(value):.5g}"
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(_shown(item) for item in value)
    return one_line(value)


def _rows(table: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in table.items():
        name = one_line(f"{before}{key}".replace("_", " "), 200)
        if isinstance(value, Mapping):
            rows += _rows(value, f"{name}, ")
        else:
            rows.append((name, _shown(value)))
    return rows


def _section(section: Section) -> str:
    parts = [f"<section>\n<h2>{escape(one_line(section.heading))}</h2>"]
    parts += [
        f"<p>{escape(one_line(paragraph, 1 << 16))}</p>"
        for paragraph in section.text.split("\n\n")
        if paragraph.strip()
    ]
    if section.table:
        lines = [
            f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
            for name, value in _rows(section.table)
        ]
        parts.append("<table>\n" + "\n".join(lines) + "\n</table>")
    for caption, picture in section.figures:
        caption = one_line(caption)
        data = picture if isinstance(picture, bytes) else figure_png(picture)
        source = base64.b64encode(data).decode("ascii")
        parts.append(
            f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{source}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return "\n".join([*parts, "</section>"])


def html_report(title: str, sections: Sequence[Section]) -> str:
    """The whole page as text. Everything given is escaped."""
    title = one_line(title)
    body = "\n".join(_section(section) for section in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{body}\n</body>\n</html>\n"
    )


def write_report(path: str | Path, title: str, sections: Sequence[Section]) -> None:
    """Writes :func:`html_report`, whole or not at all. Raises :class:`~ptycho_torch.errors.OutputError`."""
    write_text_atomic(path, html_report(title, sections))
