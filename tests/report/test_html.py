from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from ptycho_torch.report.figures import training_figure
from ptycho_torch.report.html import Section, html_report, write_report

SECTIONS = [
    Section(
        "Scores",
        "First.\n\nSecond <b>.",
        {"ssim": 0.912345678, "frc50": {"ring": np.float32(3), "crossed": True}},
    ),
    Section("Provenance", table={"file": "<script>alert(1)</script>", "psnr": None, "shape": (3, 4)}),
    Section("Pictures", figures=[('A "curve"', training_figure([])), ("Bytes", b"\x89PNG")]),
]


class Checker(HTMLParser):
    """Counts tags and holds every opened one against its end."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_one_file_that_loads_nothing() -> None:
    page = html_report("Run <1>", SECTIONS)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert "script" not in checker.seen
    assert checker.seen.count("section") == 3
    assert len(checker.links) == 2
    assert all(link.startswith("data:image/png;base64,") for link in checker.links)
    assert base64.b64decode(checker.links[0].partition(",")[2]).startswith(b"\x89PNG")
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)


def test_what_is_said() -> None:
    page = html_report("Run <1>", SECTIONS)
    assert "<title>Run &lt;1&gt;</title>" in page
    assert "<p>Second &lt;b&gt;.</p>" in page
    for name, value in (
        ("ssim", "0.91235"),
        ("frc50, ring", "3"),
        ("frc50, crossed", "yes"),
        ("psnr", "not available"),
        ("shape", "3, 4"),
        ("file", "&lt;script&gt;alert(1)&lt;/script&gt;"),
    ):
        assert f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' in page


def test_writing(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", "T", SECTIONS)
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == html_report("T", SECTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_texts_from_files_are_printable(tmp_path: Path) -> None:
    odd = "a\x1b[0m\u202eb\udce9"
    write_report(tmp_path / "r.html", odd, [Section(odd, odd, {odd: odd}, [(odd, b"\x89PNG")])])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert not {"\x1b", "\u202e"} & set(page)
    assert page.count("a\\x1b[0m\\u202eb\\udce9") == 8
