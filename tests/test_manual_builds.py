"""The manual builds without a warning: every link and anchor leads somewhere, and nothing is fetched to read it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_reading_the_manual_fetches_nothing(site: Path) -> None:
    fetched = re.compile(
        r"<(?:script|img|iframe)[^>]+src=.?https?:|<link[^>]+stylesheet[^>]+https?:|url\(.?https?:"
    )
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 30
    assert [str(page) for page in pages if fetched.search(page.read_text())] == []


def test_formulas_and_notebooks_are_shown(site: Path) -> None:
    physics = (site / "physics.html").read_text()
    assert physics.count("<math") > 20
    assert "arithmatex" not in physics
    assert "first-image_files/" in (site / "notebooks/first-image.html").read_text()


def test_every_page_is_found_from_the_menu(site: Path) -> None:
    home = (site / "index.html").read_text()
    pages = {str(page.relative_to(site)) for page in site.rglob("*.html")} - {"404.html", "index.html"}
    assert {page for page in pages if f'href="{page}"' not in home} == set()


def test_docstrings_show_no_markup(site: Path) -> None:
    pages = [*(site / "api").glob("*.html")]
    assert [str(page) for page in pages if re.search(r":\w+:(?:<code>|`)", page.read_text())] == []
