"""Do the tests notice? Single errors are put into a copy of the physics, and each file's own tests are run.

Errors are what a tired author makes: a sign, a term left out, two arguments swapped, a number off by one, a
comparison that is strict where it should not be, a conjugate forgotten. A mutant that passes all tests is a
survivor: a test is missing, or the change changes nothing (then it stands in `mutant_lists.py` with its reason).

    python benchmarks/mutate.py                        # all files
    python benchmarks/mutate.py --only regions --quick # every eighth mutant of one
    python benchmarks/mutate.py --seconds 300          # so long for each file, mutants drawn
    python benchmarks/mutate.py --short                # under a minute, in CI
    python benchmarks/mutate.py --named                # ten errors of training, each against the test that is for it

Every outcome of a file of tests is a line of ``mutate.jsonl`` in the output folder. A run that was stopped goes on
there; what was tried with another text of the file or of those tests counts as missing.

Exit status 1 where a change survives that is not known to be harmless.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import keep, parser, table
from mutant_lists import HARMLESS, NAMED, SHORT, TARGETS

ROOT = Path(__file__).resolve().parents[1]

_SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
_TERMS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
_COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_DROPPED = {"conj", "clamp_min", "clip", "abs"}
"""Methods whose call is replaced by what it is called on."""
_FIRST = (
    "hypothesis.extra.numpy", "h5py", "lightning.pytorch.strategies", "matplotlib.pyplot", "pytest",
    "safetensors.torch", "scipy.ndimage", "scipy.optimize", "torch.distributed.tensor",
)  # fmt: skip
"""What tests import, imported once before the processes fork: nothing of the package."""


@dataclass(frozen=True)
class Mutant:
    """One change: where it is, what it is in words, and the module's text with it."""

    line: int
    change: str
    text: str


def mutants(source: str) -> list[Mutant]:
    """Return every single change of a module's text, in the order of its lines.

    Messages of errors, annotations, documentation and imports are left alone.
    """
    tree = ast.parse(source)
    found = []
    for holder, field, index in _places(tree):
        node = _get(holder, field, index)
        for new in _variants(node):
            _set(holder, field, index, new)
            text = ast.unparse(ast.fix_missing_locations(tree))
            _set(holder, field, index, node)
            found.append(Mutant(node.lineno, f"{ast.unparse(node)}  ->  {ast.unparse(new)}", text))
    return sorted(found, key=lambda mutant: mutant.line)


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Holder, field and index of every expression that runs."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list") or (
            isinstance(node, ast.AnnAssign) and field == "target"
        ):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.Import | ast.ImportFrom):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue  # documentation
            if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__":
                continue
            if isinstance(child, ast.expr):
                yield node, field, index
            yield from _places(child)


def _get(holder: ast.AST, field: str, index: int | None) -> Any:
    value = getattr(holder, field)
    return value if index is None else value[index]


def _set(holder: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(holder, field, node)
    else:
        getattr(holder, field)[index] = node


def _variants(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.BinOp(left, op, right):
            if type(op) in _SIGNS:
                yield ast.BinOp(left, _SIGNS[type(op)](), right)
            if isinstance(op, _TERMS):
                yield left
        case ast.UnaryOp(ast.USub() | ast.Not(), operand):
            yield operand
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values)
        case ast.Compare(left, [op], [right]) if type(op) in _COMPARED:
            yield ast.Compare(left, [_COMPARED[type(op)]()], [right])
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(float(value)):
            # Twice a very small number is as good as itself.
            yield ast.Constant(value * (2 if abs(value) >= 1e-3 else 1000) if value else 1.0)
        case ast.Call(function, arguments, keywords):
            plain = not any(isinstance(argument, ast.Starred) for argument in arguments)
            if len(arguments) > 1 and plain and not _same(arguments[0], arguments[1]):
                yield ast.Call(function, [arguments[1], arguments[0], *arguments[2:]], keywords)
            if isinstance(function, ast.Attribute) and function.attr in _DROPPED and not keywords:
                yield function.value


def _same(one: ast.expr, other: ast.expr) -> bool:
    return ast.dump(one) == ast.dump(other)


# ---------------------------------------------------------------- running


def _tested(source_root: str, tests: list[str]) -> None:
    """In a process of its own, forked before anything of the package was imported: exit status of the tests."""
    import hypothesis
    import pytest

    # One failure is enough; a smaller one is not looked for.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", phases=phases, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutants")
    gc.freeze()  # pytest collects three times, and what is here already would be gone through each time
    sys.dont_write_bytecode = True  # two mutants in one second would share one
    # Plugins that happen to be installed take longer to load than most tests take to run.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.path.insert(0, source_root)
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin"]
        status = pytest.main([*options, *tests])
    os._exit(int(status))


def passes(source_root: Path, tests: list[str], limit: float) -> bool:
    """Return whether the tests pass on a copy of the source; tests that take too long do not."""
    process = multiprocessing.get_context("fork").Process(target=_tested, args=(str(source_root), tests))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


class Outcomes:
    """What runs found: for each change of a file and each file of tests whether it passed nevertheless.

    Parameters
    ----------
    path : Path, optional
        A line for each; made where it is missing, and read: what is in it was tried before.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        lines: list[str] = []
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text().splitlines() if path.exists() else []
        self._known = {(r["state"], r["number"]): bool(r["alive"]) for r in map(json.loads, lines)}

    def of(self, state: str, number: int) -> bool | None:
        """Return whether mutant ``number`` survived, None where nobody has tried it in this state."""
        return self._known.get((state, number))

    def over_all(self, states: list[str], number: int) -> bool | None:
        """Return whether mutant ``number`` survived in all of some states, None where that is still open."""
        known = [self.of(state, number) for state in states]
        return False if False in known else None if None in known else True

    def add(self, state: str, number: int, mutant: Mutant, alive: bool) -> None:
        self._known[state, number] = alive
        line = {
            "state": state,
            "number": number,
            "line": mutant.line,
            "change": mutant.change,
            "alive": alive,
        }
        if self._path is not None:
            with self._path.open("a") as stream:
                print(json.dumps(line), file=stream)


def state_of(source: Path, tests: str) -> str:
    """Return a hash of a file and of a file of its tests."""
    digest = hashlib.sha256(source.read_bytes())
    digest.update(Path(tests).read_bytes())
    return f"{source.stem} {digest.hexdigest()[:12]}"


def survivors(
    root: Path,
    name: str,
    tests: list[str],
    every: int = 1,
    seconds: float = float("inf"),
    outcomes: Outcomes | None = None,
) -> tuple[int, list[Mutant]]:
    """Return how many mutants of a file were tried and those that its tests did not notice.

    Parameters
    ----------
    root : Path
        The project, with ``src``.
    name : str
        File under ``src``.
    tests : list of str
        What pytest is called with.
    every : int
        Only every so many mutants.
    seconds : float
        Begin no further mutant after so long. They are tried in an order that is drawn, so that those that are left
        out are no special ones.
    outcomes : Outcomes, optional
        Of earlier runs; what is in them is not tried again.
    """
    wanted = list(enumerate(mutants((root / "src" / name).read_text())))[::every]
    if seconds < float("inf"):
        random.Random(0).shuffle(wanted)
    outcomes = outcomes or Outcomes()
    states = {test: state_of(root / "src" / name, test) for test in tests}
    ordered = list(states.values())
    missing = [(number, m) for number, m in wanted if outcomes.over_all(ordered, number) is None]
    if missing:
        _try(root, name, states, missing, seconds, outcomes)
    found = [(outcomes.over_all(ordered, number), mutant) for number, mutant in wanted]
    tried = sum(outcome is not None for outcome, _ in found)
    return tried, sorted((m for outcome, m in found if outcome), key=lambda mutant: mutant.line)


def _try(
    root: Path,
    name: str,
    states: dict[str, str],
    missing: list[tuple[int, Mutant]],
    seconds: float,
    outcomes: Outcomes,
) -> None:
    """Run the tests on each mutant, one file of them after the other, until one notices."""
    with tempfile.TemporaryDirectory(prefix="mutants") as folder:
        copy = Path(folder) / "src"
        shutil.copytree(root / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        limits, began = {}, time.monotonic()
        for test in states:
            since = time.monotonic()
            if not passes(copy, [test], 3600):
                raise SystemExit(f"{name}: its tests fail without any change: {test}")
            limits[test] = 20 + 10 * (time.monotonic() - since)
        for number, mutant in missing:
            if time.monotonic() - began > seconds:
                return
            (copy / name).write_text(mutant.text)
            for test, state in states.items():
                if outcomes.of(state, number) is None:
                    outcomes.add(state, number, mutant, passes(copy, [test], limits[test]))
                if not outcomes.of(state, number):
                    break
            else:
                print(f"  {name}:{mutant.line}: {mutant.change}", flush=True)


def named(root: Path) -> list[dict[str, str]]:
    """Put each of :data:`NAMED` into a copy of the source and run its test; what became of each."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="mutants") as folder:
        copy = Path(folder) / "src"
        shutil.copytree(root / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        tests = [str(root / test) for test in dict.fromkeys(test for _, _, _, test in NAMED.values())]
        if not passes(copy, tests, 3600):
            raise SystemExit(f"its tests fail without any change: {' '.join(tests)}")
        for error, (name, text, instead, test) in NAMED.items():
            source = (root / "src" / name).read_text()
            if source.count(text) != 1:
                raise SystemExit(f"{error}: expected its text once in {name}, found {source.count(text)}")
            (copy / name).write_text(source.replace(text, instead))
            noticed = not passes(copy, [str(root / test)], 600)
            (copy / name).write_text(source)
            rows.append(
                {"error": error, "test": test.rpartition("/")[2], "noticed": "yes" if noticed else "no"}
            )
            print(table(rows[-1:]), flush=True)
    return rows


def main() -> None:
    arguments_ = parser(__doc__, shared=False)
    arguments_.add_argument(
        "--named", action="store_true", help="only the errors of training that have a name"
    )
    arguments_.add_argument("--only", default="", help="files whose name contains this")
    arguments_.add_argument("--every", type=int, default=1, help="every so many mutants; --quick: 8")
    arguments_.add_argument(
        "--seconds", type=float, default=float("inf"), help="time for each file; mutants are drawn then"
    )
    arguments_.add_argument(
        "--short", action="store_true", help="under a minute: a few mutants of files whose tests are fast"
    )
    arguments = arguments_.parse_args()
    for module in _FIRST:
        importlib.import_module(module)
    import torch

    torch.set_num_threads(1)
    if arguments.named:
        rows = named(ROOT)
        print(keep("mutate-named", arguments, rows))
        sys.exit(any(row["noticed"] == "no" for row in rows))
    every = 8 if arguments.quick else arguments.every
    # The short run is one of its own: what CI finds must not depend on what was there before.
    outcomes = None if arguments.short else Outcomes(arguments.output / "mutate.jsonl")
    left = 0
    for name, tests in TARGETS.items():
        if arguments.only not in name or (arguments.short and name not in SHORT):
            continue
        if arguments.short:
            every = SHORT[name]  # always the same ones, so that a machine's speed decides nothing
        paths = [str(ROOT / test) for test in tests]
        count, alive = survivors(ROOT, name, paths, every, arguments.seconds, outcomes)
        file = Path(name).name
        lines = (ROOT / "src" / name).read_text().splitlines()
        unknown = [m for m in alive if not is_harmless(file, lines[m.line - 1], m.change)]
        row = {
            "file": name,
            "mutants": len(mutants((ROOT / "src" / name).read_text())),
            "tried": count,
            "killed": count - len(alive),
            "harmless": len(alive) - len(unknown),
            "survivors": len(unknown),
        }
        print(table([row]), flush=True)
        left += len(unknown)
        if not arguments.short:
            listed = [{"file": name, "line": m.line, "change": m.change} for m in unknown]
            print(keep(f"mutate-{name_of(name)}", arguments, {"rows": [row], "survivors": listed}))
    if left:
        sys.exit(
            f"{left} changes that no test notices: write the test, or say in HARMLESS why it does not matter"
        )


def is_harmless(file: str, line: str, change: str) -> bool:
    """Whether :data:`HARMLESS` has a change of a line."""
    return any((file, change) == (name, known) and part in line for name, part, known in HARMLESS)


def name_of(file: str) -> str:
    """A file's name for its results: ``frc`` or, where two are called alike, with its folder."""
    stem = Path(file).stem
    alike = [other for other in TARGETS if Path(other).stem == stem]
    return stem if len(alike) == 1 else f"{Path(file).parent.name}-{stem}"


if __name__ == "__main__":
    main()
