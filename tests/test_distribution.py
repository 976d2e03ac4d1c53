"""What is built from the sources holds everything that an installation needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_BUILD = "from setuptools import build_meta as b; print(b.build_{kind}({out!r}))"


def _built(kind: str, sources: Path, out: Path) -> Path:
    """An sdist or a wheel out of a copy of the sources; nothing is fetched."""
    code = _BUILD.format(kind=kind, out=str(out))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=sources, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built out of the sdist, as an installer does with one."""
    folder = tmp_path_factory.mktemp("distribution")
    sources = folder / "sources"
    shutil.copytree(
        ROOT / "src", sources / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "*.part")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources / name)
    sdist = _built("sdist", sources, folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return _built("wheel", unpacked, folder)


def test_the_wheel_holds_all_modules_weights_and_types(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    assert modules - inside == set()
    others = {"ptycho_torch/weights/wts.h5.zip", "ptycho_torch/py.typed", "ptycho/py.typed"}
    assert others - inside == set()


def test_what_was_built_finds_its_weights_and_names_its_commands(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import ptycho_torch.bundle.shipped as s, ptycho_torch.bundle as b\n"
        "print(b.inspect_bundle(s.shipped_bundle())['version'], s.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    (points,) = tmp_path.glob("*.dist-info/entry_points.txt")
    assert "ptychopinn = ptycho_torch.cli:main" in points.read_text()
