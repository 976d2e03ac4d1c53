"""What `mkdocs build` does beyond Markdown: formulas, notebooks, and the pages that lie beside docs/.

Formulas become MathML when the manual is built, so no script and no font is fetched to show them.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[2]
BESIDE = (
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/NOTES.md",
    "benchmarks/README.md",
)
"""Pages of the manual that lie outside docs/, where people and other programs look for them."""

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\(\(|\[)(.*?)\\(?:\)|\])\s*</\1>', re.DOTALL)
_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):<code>([^<]+)</code>")
_CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
_LONG = re.compile(r"<code>([^<]{41,})</code>")
_LINK = re.compile(r"(\]\(|\bsrc=\")([^)#\"\s:]+)")
_WHOLE_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s:]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """A page that the menu in mkdocs.yml does not name yet stands last under Tasks, so that it is found."""
    named = set(_named(config.nav))
    tasks = next(entry["Tasks"] for entry in config.nav or [] if "Tasks" in entry)
    tasks += [path.name for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in named]
    return config


def _named(nav: Any) -> Iterator[str]:
    """Files of a menu, or of a part of one."""
    if isinstance(nav, str):
        yield nav
    for entry in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _named(entry)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the notebooks and the pages beside docs/."""
    for name in BESIDE:
        files.append(File.generated(config, name, content=_moved((ROOT / name).read_text(), name)))
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        for name, content in _notebook(path).items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links from docs/ to pages beside it lead to those pages of the manual."""
    if page.file.src_uri in BESIDE or page.file.generated_by:
        return markdown
    return _relinked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def on_page_content(html_text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML, roles of docstrings as links, and long code in tables marked as such."""
    html_text = _FORMULA.sub(_mathml, html_text)
    html_text = _ROLE.sub(_reference, html_text)
    return _CELL.sub(lambda cell: _LONG.sub(r'<code class="long">\1</code>', cell[0]), html_text)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """The script by which search works from disk, out of the manual itself instead of the net."""
    here = posixpath.relpath(
        "javascripts/iframe-worker-shim.js", posixpath.dirname(page.file.dest_uri) or "."
    )
    return output.replace("https://unpkg.com/iframe-worker/shim", here)


def _reference(found: re.Match[str]) -> str:
    """``:func:`~package.name``` as a link to that name where the manual has it, else as code."""
    target = found[1].removeprefix("~")
    shown = target.rsplit(".", 1)[-1] if found[1].startswith("~") else target
    return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'


def _mathml(found: re.Match[str]) -> str:
    inline = found[1] == "span"
    return str(convert(html.unescape(found[3]).strip(), display="inline" if inline else "block"))


def _moved(text: str, name: str) -> str:
    return _relinked(text, name, name)


def _relinked(text: str, written_in: str, shown_as: str) -> str:
    """Relative links of a page at ``written_in`` of the repository, for a page at ``shown_as`` of the manual.

    What is in the repository and not in the manual, such as a script, is named and no link.
    """

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(written_in), found[2]))
        if target in BESIDE:
            place = target
        elif target.startswith("docs/"):
            place = target.removeprefix("docs/")
        else:
            return found[0]
        return found[1] + posixpath.relpath(place, posixpath.dirname(shown_as) or ".")

    def source(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(written_in), found[2]))
        shown = target in BESIDE or target.startswith("docs/")
        return found[1] if not shown and (ROOT / target).exists() else found[0]

    return _LINK.sub(link, _WHOLE_LINK.sub(source, text))


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    """The same for pages that are no Markdown, such as 404."""
    return output.replace("https://unpkg.com/iframe-worker/shim", "javascripts/iframe-worker-shim.js")


def _notebook(path: Path) -> dict[str, Any]:
    """A notebook as it was last run, as a page and its pictures."""
    notebook = nbformat.read(path, as_version=4)
    exporter = MarkdownExporter()
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    text, resources = exporter.from_notebook_node(notebook, {"output_files_dir": f"{path.stem}_files"})
    text = re.sub(r"\]\(([\w./-]+)\.ipynb", r"](\1.md", text)
    return {f"{path.stem}.md": text, **resources["outputs"]}
