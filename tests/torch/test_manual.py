"""What the manual shows is done: every block of Python runs, every command runs, page by page."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shlex
import shutil
import sys
import tomllib
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from small import small_config, small_scan
from typer.testing import CliRunner

from keras_archives import Program, write_archive
from ptycho_torch import generators
from ptycho_torch.bundle import inspect_bundle
from ptycho_torch.bundle.shipped import shipped_bundle
from ptycho_torch.cli.app import app
from ptycho_torch.cli.usage import OneLineCommand
from ptycho_torch.compat import commands as older_program
from ptycho_torch.errors import ScanError
from ptycho_torch.live.sources import SOURCES
from ptycho_torch.report import figures
from ptycho_torch.result import load_reconstruction, save_reconstruction
from ptycho_torch.scan import FORMATS, Geometry, open_scan, write_scan
from ptycho_torch.solvers import SOLVERS, RefineOptions
from ptycho_torch.workflows.training import train

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
)
_BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_UNSEEN = re.compile(r"^ +(?:\$ *)?(?:ptychopinn|ptycho_\w+|pip|make|torchrun|python\d?) .*", re.MULTILINE)
"""A command in an indented block, which nothing below would run."""
_QUICK = {
    "train": ["--max-steps", "1", "--probe-sweeps", "1", "--nepochs", "1", "--force"],
    "reconstruct": ["--effort", "quick"],
    "simulate": ["--size", "96", "--N", "32", "--step", "8"],
    "demo": ["--steps", "1"],
    "export": ["--iterations", "1", "--subsets", "1", "--region", "128"],
    "ptycho_train": ["--nepochs", "1"],
}
"""What makes a long command short; it goes behind what the page says, and the last one of a flag counts."""
_PARSED = ("pretrain", "live", "replay", "--processes", "--devices")
"""What takes long at any length, or waits for another program: the line is read, and tests of their own run it."""
_DONE: set[str] = set()
"""Lines that ran on an earlier page. What they leave is in the workshop, for pages that go on with it."""
_MODULE = "page"
"""Where the Python of a page is at home."""
_ELSEWHERE = ("git", "cd", ".", "python3", "pre-commit")
"""Programs of set-up and release, which other steps of CI do."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Python and commands of a page, in their order."""
    found = _BLOCK.findall((ROOT / page).read_text())
    return [(kind, text) for kind, text in found if kind in ("python", "sh")]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that pages speak of, small ones."""
    folder = tmp_path_factory.mktemp("manual")
    scan = small_scan()
    for name in ("scan.npz", "next.npz", "mine.npz"):
        write_scan(scan, folder / name)
    assert scan.probe is not None
    metres = Geometry(energy_ev=8.8e3, distance_m=1.9, pixel_m=(2e-8, 2e-8))
    write_scan(replace(scan, geometry=metres), folder / "scan.h5", format="cxi")
    np.save(folder / "frames.npy", np.round(np.asarray(scan.frames[:]) ** 2).astype(np.uint16))
    np.save(folder / "probe.npy", scan.probe[0])
    np.savetxt(folder / "positions.txt", scan.positions)
    (folder / "reference.npz").write_bytes((folder / "scan.npz").read_bytes())
    image = SOLVERS.get("epie")("cpu").solve(scan, options=RefineOptions(sweeps=1))
    for name in ("image", "scan_image"):
        (folder / name).mkdir()
        save_reconstruction(image, folder / name / "reconstruction.npz")
    train(folder / "scan.npz", folder / "run", small_config(max_steps=1, nepochs=1))
    (folder / "old").mkdir()
    write_archive(folder / "old/wts.h5.zip", Program())
    write_scan(small_scan(64, 24.0, 96), folder / "measured.npz")
    (folder / "pretraining").mkdir()
    shutil.copy(shipped_bundle(), folder / "pretraining/wts.h5.zip")
    return folder


@pytest.fixture
def folder(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the workshop to work in; what a page registers is forgotten afterwards. Figures are coarse."""
    shutil.copytree(workshop, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures.figure_png, "__defaults__", (20,))
    monkeypatch.setattr(figures.save_figure, "__defaults__", (20,))
    yield tmp_path
    sys.modules.pop(_MODULE, None)
    registries: tuple[Any, ...] = (FORMATS, SOLVERS, SOURCES, generators._REGISTRY)
    for registry in registries:
        registry._items = {k: v for k, v in registry._items.items() if v.__module__ != _MODULE}


def _say(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    more = _QUICK.get(words[1] if words[0] == "ptychopinn" else words[0], [])
    if "--refine" in words:
        more = [*more, "--refine", "1"]
    return words + [word for word in more if word != "--force" or "--resume" not in words]


def _run(line: str) -> None:
    """A command of a page, as the shell would; those of set-up are looked at only."""
    words = _say(line)
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets), line
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), line
    elif words[0] == "ptychopinn":
        if line not in _DONE:
            _ptychopinn(words[1:], line)
            _DONE.add(line)
    elif words[0] == "torchrun":
        _parse(words[words.index("ptycho_torch") + 1 :])
    elif words[:2] == ["pip", "install"]:
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = re.findall(r"(?:ptychopinn|\.)\[([\w,]+)\]", line)
        assert {extra for names in named for extra in names.split(",")} <= set(known), line
    elif words[0] in ("ptycho_train", "ptycho_inference"):
        older = typer.Typer()
        older.command(cls=OneLineCommand)(getattr(older_program, words[0].removeprefix("ptycho_")))
        typer.main.get_command(older).make_context(words[0], words[1:])
    else:
        assert words[0] in _ELSEWHERE, f"{line}: is it a command of a user? Then run it here"


def _parse(words: list[str]) -> None:
    typer.main.get_command(app).commands[words[0]].make_context(words[0], words[1:])


def _ptychopinn(words: list[str], line: str) -> None:
    if set(words) & set(_PARSED):
        _parse(words)
        return
    done = CliRunner().invoke(app, words)
    if "--engine" in words and "lsqml" in words and importlib.util.find_spec("ptychi") is None:
        assert done.exit_code == 1, line
        assert "ptychopinn[iterative]" in done.output
        return
    assert done.exit_code == 0, f"{line}\n{done.output}"
    if "--json" in words:
        json.loads(done.stdout)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_what_a_page_shows_is_done(page: str, folder: Path) -> None:
    module = types.ModuleType(_MODULE)
    sys.modules[_MODULE] = module
    for kind, text in blocks(page):
        if kind == "sh":
            for line in filter(str.strip, text.replace("\\\n", " ").splitlines()):
                _run(line.strip())
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(text, page, "exec"), module.__dict__)


def test_what_contributing_adds_is_used_by_the_commands(folder: Path) -> None:
    module = types.ModuleType(_MODULE)
    sys.modules[_MODULE] = module
    for kind, text in blocks("CONTRIBUTING.md"):
        if kind == "python":
            exec(compile(text, "CONTRIBUTING.md", "exec"), module.__dict__)
    Path("scan.mine").write_bytes(b"MINE")
    with pytest.raises(ScanError, match="all 9 frames are zero"):  # it was read
        open_scan("scan.mine", require_probe=False)
    _run("ptychopinn train scan.npz -o mine --architecture mine --generator-options width=32 --probe fixed")
    assert inspect_bundle("mine")["params"]["architecture"] == "mine"
    _run("ptychopinn reconstruct scan.npz -o mine_image --refine 1 --engine mine")
    assert load_reconstruction("mine_image/reconstruction.npz").solver == "mine"


@pytest.mark.parametrize("page", PAGES)
def test_no_command_hides_from_these_tests(page: str) -> None:
    text = _BLOCK.sub("", (ROOT / page).read_text())
    assert _UNSEEN.findall(text) == [], "put commands into a block of sh"
    assert "bash" not in {
        kind for kind, body in _BLOCK.findall((ROOT / page).read_text()) if "#!" not in body
    }


def test_pages_have_blocks() -> None:
    assert sum(len(blocks(page)) for page in PAGES) > 40


def test_options_named_in_text_exist() -> None:
    """``--flags`` in a page's text are flags of some command, of the older ones, or of a benchmark."""
    group = typer.main.get_command(app)
    known = {flag for command in group.commands.values() for option in command.params for flag in option.opts}
    known |= {
        flag for command in group.commands.values() for o in command.params for flag in o.secondary_opts
    }
    known |= {flag for option in group.params for flag in option.opts}
    others = "\n".join(
        path.read_text()
        for path in [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "src/ptycho_torch/compat").glob("*.py")]
    )
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
        for flag in re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", text):
            spelled = re.search(rf"(?<![\w-]){flag[2:]}(?![\w-])", others)
            assert spelled or flag in (*known, "--help", "--extra-index-url"), f"{page}: {flag}"
