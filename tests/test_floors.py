"""The order of the floors: imports go down only, and the floors without torch have none.

Judged from the source, so that an import inside a function counts like one at the top. Imports for
type checkers alone do not count.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src"

FLOORS = (
    "errors",
    "_version",
    "registry",
    "device",
    "processes",
    "picture",
    "files",
    "config",
    "compat.parameters",
    "scan",
    "result",
    "napari",
    "physics.probes",
    "simulation",
    "evaluation",
    "report",
    "physics",
    "generators",
    "model",
    "bundle",
    "model_manager",
    "export",
    "solvers",
    "uncertainty",
    "reconstruction",
    "tiles",
    "live",
    "training",
    "workflows",
    "compat",
    "workflows.components",
    "inference",
    "cli",
    "compat.commands",
    "__main__",
    "",  # ptycho_torch itself, whose names are those of all floors
)
"""Folders and files of ``ptycho_torch``, lowest first: each may import what stands before it.

A file named with its folder is a floor of its own: the flat parameters are what bundles are written in, the
older commands are commands, ``workflows.components`` is a name that other programs import, and probes are moved along
the beam by simulations and solvers alike.
"""

NO_TORCH = (
    "errors",
    "_version",
    "registry",
    "picture",
    "files",
    "config",
    "compat.parameters",
    "scan",
    "result",
    "simulation",
    "evaluation",
    "report",
    "bundle.container",
    "bundle.pickles",
    "live.canvas",
    "live.intake",
    "live.opening",
    "live.options",
    "live.orientation",
    "live.outputs",
    "live.pairing",
    "live.replay",
    "live.server",
    "live.sources",
    "live.spool",
)
FRAMEWORKS = {"torch", "lightning", "torchmetrics", "safetensors"}

ALLOWED: dict[tuple[str, str], str] = {}
"""Arrows between floors that are known to be wrong, each with what removes it. To become empty."""


def _modules(package: str) -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules("ptycho_torch")


def _for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if _for_type_checkers(node):
            assert isinstance(node, ast.If)
            yield from _statements(node.orelse)
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, part, []))
        for handler in getattr(node, "handlers", []) + getattr(node, "cases", []):
            yield from _statements(handler.body)


def imported(source: str) -> set[tuple[str, str]]:
    """What a module's text imports, as ``(module, name in it)``, the name empty for ``import module``."""
    found = set()
    for node in _statements(ast.parse(source).body):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute in this package"
            found |= {(node.module, alias.name) for alias in node.names}
    return found


def arrows(module: str) -> set[str]:
    """Modules of the package that a module imports, or imports names from."""
    pairs = imported(MODULES[module].read_text())
    named = {f"{m}.{name}" if f"{m}.{name}" in MODULES else m for m, name in pairs}
    return (named & MODULES.keys()) - {module}


ARROWS = {module: arrows(module) for module in MODULES}


def floor(module: str) -> str:
    """The longest entry of ``FLOORS`` that a module lies in, or its folder's name."""
    name = module.partition(".")[2]
    parts = name.split(".")
    known = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((entry for entry in known if entry in FLOORS), parts[0])


def test_every_file_has_a_floor() -> None:
    assert {floor(m) for m in MODULES} - set(FLOORS) == set()


def test_arrows_go_down_only() -> None:
    order = {name: i for i, name in enumerate(FLOORS)}
    up = {
        (module, target)
        for module, targets in ARROWS.items()
        for target in targets
        if order[floor(target)] > order[floor(module)]
    }
    assert up - ALLOWED.keys() == set()


def test_no_circles() -> None:
    graph = {m: {t for t in targets if (m, t) not in ALLOWED} for m, targets in ARROWS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def _without_torch(module: str) -> bool:
    return module.removeprefix("ptycho_torch.").startswith(NO_TORCH)


def test_floors_without_torch_name_none() -> None:
    found = {
        (module, name.partition(".")[0])
        for module in filter(_without_torch, MODULES)
        for name, _ in imported(MODULES[module].read_text())
    }
    assert {pair for pair in found if pair[1] in FRAMEWORKS} == set()


def test_floors_without_torch_import_none() -> None:
    code = f"import importlib, sys\nfor m in {sorted(filter(_without_torch, MODULES))}: importlib.import_module(m)\n"
    code += f"print({FRAMEWORKS} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b as c, d", {"a.b.", "d."}),
        ("from a import b, c", {"a.b", "a.c"}),
        (
            "def f():\n  try:\n    import a\n  except E:\n    import b\n  finally:\n    import c",
            {"a.", "b.", "c."},
        ),
        ("if TYPE_CHECKING:\n  import a\nelse:\n  import b", {"b."}),
        ("class A:\n  async def f(self):\n    with x:\n      while y:\n        import a", {"a."}),
        ("match x:\n  case 1:\n    import a", {"a."}),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, names: set[str]) -> None:
    assert {".".join(pair) for pair in imported(source)} == names
