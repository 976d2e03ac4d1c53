"""Do the tests notice? Single errors are put into a copy of the physics, and each file's own tests are run.

Errors are what a tired author makes: a sign, a term left out, two arguments swapped, a number off by one, a
comparison that is strict where it should not be, a conjugate forgotten. A mutant that passes all tests is a survivor:
a test is missing, or the change changes nothing (then it stands in ``HARMLESS`` with its reason).

    python benchmarks/mutate.py                        # all files
    python benchmarks/mutate.py --only regions --quick # every eighth mutant of one
    python benchmarks/mutate.py --seconds 300          # so long for each file, mutants drawn
    python benchmarks/mutate.py --short                # under a minute, in CI
    python benchmarks/mutate.py --named                # ten errors of training, each against the test that is for it

Every outcome is a line of ``mutate.jsonl`` in the output folder. A run that was stopped goes on there; what was tried with
another text of the file or of its tests counts as missing.

Exit status 1 where a change survives that is not known to be harmless.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
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

ROOT = Path(__file__).resolve().parents[1]

TARGETS = {
    "ptycho_torch/physics/likelihood.py": ("tests/torch/physics/test_likelihood.py",),
    "ptycho_torch/physics/propagation.py": ("tests/torch/physics/test_propagation.py",),
    "ptycho_torch/physics/projection.py": ("tests/torch/physics/test_projection.py",),
    "ptycho_torch/physics/regions.py": ("tests/torch/physics/test_regions.py",),
    "ptycho_torch/physics/gauges.py": (
        "tests/physics/test_gauge_fixing.py",
        "tests/torch/physics/test_object_scale.py",
    ),
    "ptycho_torch/physics/patches.py": ("tests/torch/physics/test_patches.py",),
    "ptycho_torch/physics/units.py": ("tests/physics/test_units.py",),
    "ptycho_torch/reconstruction/phases.py": ("tests/reconstruction/test_phases.py",),
    "ptycho_torch/reconstruction/stitching.py": ("tests/torch/reconstruction/test_stitching.py",),
    "ptycho_torch/evaluation/alignment.py": (
        "tests/evaluation/test_alignment.py",
        "tests/evaluation/test_gauge.py",
    ),
    "ptycho_torch/evaluation/evaluate.py": ("tests/evaluation/test_evaluate.py",),
    "ptycho_torch/evaluation/gauge.py": ("tests/evaluation/test_gauge.py",),
    "ptycho_torch/evaluation/frc.py": ("tests/evaluation/test_frc.py",),
    "ptycho_torch/evaluation/metrics.py": (
        "tests/evaluation/test_metrics.py",
        "tests/evaluation/test_ms_ssim.py",
    ),
}
"""Source files under src/ and the tests that have to notice."""

SHORT = {
    "ptycho_torch/physics/units.py": 6,
    "ptycho_torch/physics/gauges.py": 9,
    "ptycho_torch/reconstruction/phases.py": 16,
}
"""Files of the short run, and every how many mutants it takes."""

_SQUARE = "frames are square"
_PLENTY = "an upper bound on sweeps that end much sooner by themselves, or when they end"
_SHORTCUT = "a shortcut: the other way gives the same numbers"
_ORDER = "only the order of the costs counts"
_JOINT = "both pieces have the same value where they meet"
_SYMMETRIC = "symmetric in both"
_EXPERIENCE = "a threshold by experience: nothing depends on its last digits"
_ANY_NEGATIVE = "any negative length is the one to be found"
_ROUNDING = "only rounding makes it negative"
_GRAD = "not torch.is_grad_enabled() or not wave.requires_grad"
HARMLESS: dict[tuple[str, str, str], str] = {
    ("units.py", "probe.shape[-1] / 2", "-1  ->  1"): _SQUARE,
    ("units.py", "probe.shape[-1] / 2", "1  ->  2"): _SQUARE,
    ("regions.py", "patches.shape[-1]", "-1  ->  1"): _SQUARE,
    ("regions.py", "patches.shape[-1]", "1  ->  2"): _SQUARE,
    ("regions.py", "shift_ramps(fractions, probe", "1  ->  2"): _SQUARE,
    ("patches.py", "patches.shape[-1], region)", "1  ->  2"): _SQUARE,
    ("patches.py", "region.shape[-1]", "-1  ->  1"): _SQUARE,
    ("patches.py", "region.shape[-1]", "1  ->  2"): _SQUARE,
    ("patches.py", "torch.where(x <= 1", "x <= 1  ->  x < 1"): _JOINT,
    ("patches.py", "torch.where(x <= 1", "x < 2  ->  x <= 2"): _JOINT,
    ("patches.py", "if own != 1", "1  ->  2"): _SHORTCUT,
    ("phases.py", "_SWEEPS = 100", "100  ->  101"): _PLENTY,
    ("phases.py", "np.abs(new - z)", "new - z  ->  new + z"): _PLENTY,
    ("phases.py", "np.abs(new - z)", "new - z  ->  new"): _PLENTY,
    ("phases.py", "change < _TOLERANCE", "change < _TOLERANCE  ->  change <= _TOLERANCE"): _PLENTY,
    ("phases.py", "cost = coo_array", "2  ->  3"): _ORDER,
    ("phases.py", "cost = coo_array", "1  ->  2"): _ORDER,
    (
        "phases.py",
        "cost = coo_array",
        "strength[i, j] / strength.max(initial=1)  ->  strength[i, j] * strength.max(initial=1)",
    ): _ORDER,
    (
        "phases.py",
        "cost = coo_array",
        "strength[i, j] / strength.max(initial=1)  ->  strength[i, j]",
    ): _ORDER,
    ("phases.py", "graph = coo_array((1 / size", "1  ->  2"): _ORDER,
    ("phases.py", "directed=False", "False  ->  True"): "weakly connected is connected",
    ("stitching.py", "_OVERLAP = ", "0.05  ->  0.1"): _EXPERIENCE,
    ("stitching.py", "_COHERENCE = ", "0.3  ->  0.6"): _EXPERIENCE,
    ("stitching.py", "_AGREEING = ", "0.3  ->  0.6"): _EXPERIENCE,
    ("stitching.py", "_OUTLIER = ", "0.5  ->  1.0"): _EXPERIENCE,
    ("stitching.py", "_PRIOR = ", "2.0  ->  4.0"): _EXPERIENCE,
    ("stitching.py", "_MEMORY = ", "128.0  ->  256.0"): _EXPERIENCE,
    ("stitching.py", "_SETTLED = ", "32  ->  33"): _EXPERIENCE,
    ("stitching.py", "_PART = ", "512  ->  513"): _EXPERIENCE,
    ("stitching.py", "_SNAP = ", "20  ->  21"): _EXPERIENCE,
    ("stitching.py", "_FLOOR = ", "0.001  ->  0.002"): _EXPERIENCE,
    ("stitching.py", "self._seen = 0", "0  ->  1"): _EXPERIENCE,
    ("stitching.py", "memory_limit()", "12  ->  13"): _EXPERIENCE,
    (
        "stitching.py",
        "memory_limit()",
        "12 * width * height > memory_limit()  ->  12 * width * height >= memory_limit()",
    ): _EXPERIENCE,
    (
        "stitching.py",
        ".reshape(-1, 2)",
        "1  ->  2",
    ): _ANY_NEGATIVE,
    ("stitching.py", "reshape(-1, size, size).to", "1  ->  2"): _ANY_NEGATIVE,
    ("stitching.py", "self.size >= 32", "self.size >= 32  ->  self.size > 32"): _SHORTCUT,
    ("stitching.py", "(turns != 1).any()", "turns != 1  ->  turns == 1"): _SHORTCUT,
    ("metrics.py", "np.vdot(r, o)", "np.vdot(r, o)  ->  np.vdot(o, r)"): "its modulus is taken",
    (
        "metrics.py",
        "structural_similarity(",
        "structural_similarity(image, reference, win_size=_WINDOW, data_range=data_range, full=True)  ->  "
        "structural_similarity(reference, image, win_size=_WINDOW, data_range=data_range, full=True)",
    ): _SYMMETRIC,
    ("metrics.py", "_similarity(", "_similarity(first, second)  ->  _similarity(second, first)"): _SYMMETRIC,
    ("metrics.py", "max(factor", "max(factor, 0.0)  ->  max(0.0, factor)"): _SYMMETRIC,
    (
        "metrics.py",
        "spread = ",
        "(local(first ** 2) - one ** 2).clip(0)  ->  local(first ** 2) - one ** 2",
    ): _ROUNDING,
    (
        "metrics.py",
        "spread = ",
        "(local(second ** 2) - two ** 2).clip(0)  ->  local(second ** 2) - two ** 2",
    ): _ROUNDING,
    (
        "projection.py",
        _GRAD,
        "not torch.is_grad_enabled()  ->  torch.is_grad_enabled()",
    ): _SHORTCUT,
    ("projection.py", _GRAD, "not wave.requires_grad  ->  wave.requires_grad"): _SHORTCUT,
    (
        "projection.py",
        _GRAD,
        f"{_GRAD}  ->  not torch.is_grad_enabled() and (not wave.requires_grad)",
    ): _SHORTCUT,
}
"""Changes of nothing that anyone may rely on: (file name, part of its line, change as listed), and why."""

_MODULE = "ptycho_torch/training/module.py"
_ADAPT = "ptycho_torch/training/adapt.py"
_LEARNING, _SCHEDULE = "tests/torch/training/test_learning.py", "tests/torch/training/test_schedule.py"
_OFFSETS = (
    "shifts = offsets[:, :, 0]\n",
    f"{_LEARNING}::test_the_truth_costs_nothing_and_the_truth_elsewhere_does",
)
_RATES = "tests/torch/training/test_adapt.py::test_rates_rise_then_fall_to_nothing_and_gradients_are_clipped"
NAMED: dict[str, tuple[str, str, str, str]] = {
    "merge offsets negated": (_MODULE, _OFFSETS[0], "shifts = -offsets[:, :, 0]\n", _OFFSETS[1]),
    "x and y swapped": (_MODULE, _OFFSETS[0], "shifts = offsets[:, :, 0].flip(-1)\n", _OFFSETS[1]),
    "probe rate times 1000": (
        _MODULE, "probe_learning_rate * self.probe_peak", "probe_learning_rate * 1000 * self.probe_peak",
        f"{_SCHEDULE}::test_the_probe_moves_by_its_own_rate",
    ),
    "equivariance term zero": (
        _MODULE, "+ config.equivariance_weight * self", "+ 0 * config.equivariance_weight * self",
        f"{_LEARNING}::test_equivariance_moves_the_weights",
    ),
    "no decay": (
        _MODULE, "0.5 * (1 + math.cos(math.pi * progress)) if step else 1.0", "1.0",
        f"{_SCHEDULE}::test_rates_rise_then_fall_to_nothing",
    ),
    "no warm-up": (
        _MODULE, "if self.config.warmup_steps:", "if False:",
        f"{_SCHEDULE}::test_the_first_of_many_steps_is_a_small_one",
    ),
    "no clipping": (
        "ptycho_torch/training/run.py", "gradient_clip_val=config.gradient_clip or None",
        "gradient_clip_val=None", f"{_SCHEDULE}::test_gradients_are_clipped",
    ),
    "adaptation without decay": (_ADAPT, " * 0.5 * (1 + math.cos(math.pi * progress))", "", _RATES),
    "adaptation without warm-up": (_ADAPT, "learning_rate * rise", "learning_rate", _RATES),
    "adaptation without clipping": (_ADAPT, "self.config.gradient_clip or math.inf", "math.inf", _RATES),
}  # fmt: skip
"""Errors of training that once went unnoticed: file, text, what takes its place, and the test that has to notice."""

_SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
_TERMS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
_COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_DROPPED = {"conj", "clamp_min", "clip", "abs"}
"""Methods whose call is replaced by what it is called on."""


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
    sys.dont_write_bytecode = True  # two mutants in one second would share one
    sys.path.insert(0, source_root)
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
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
    """What earlier runs found: for each change of a file whether its tests passed nevertheless.

    Parameters
    ----------
    path : Path
        A line for each change; made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self._known = {(r["state"], r["number"]): bool(r["alive"]) for r in map(json.loads, lines)}

    def of(self, state: str, number: int) -> bool | None:
        """Return whether mutant ``number`` survived, None where nobody has tried it in this state."""
        return self._known.get((state, number))

    def add(self, state: str, number: int, mutant: Mutant, alive: bool) -> None:
        self._known[state, number] = alive
        line = {
            "state": state,
            "number": number,
            "line": mutant.line,
            "change": mutant.change,
            "alive": alive,
        }
        with self._path.open("a") as stream:
            print(json.dumps(line), file=stream)


def state_of(source: Path, tests: list[str]) -> str:
    """Return a hash of a file and of its tests."""
    digest = hashlib.sha256(source.read_bytes())
    for path in sorted(map(Path, tests)):
        digest.update(path.read_bytes())
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
    state = state_of(root / "src" / name, tests)
    known = [(m, outcomes.of(state, number) if outcomes else None) for number, m in wanted]
    alive = [mutant for mutant, outcome in known if outcome]
    missing = [one for one, (_, outcome) in zip(wanted, known, strict=True) if outcome is None]
    tried = len(wanted) - len(missing)
    if not missing:
        return tried, alive
    with tempfile.TemporaryDirectory(prefix="mutants") as folder:
        copy = Path(folder) / "src"
        shutil.copytree(root / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        began = time.monotonic()
        if not passes(copy, tests, 3600):
            raise SystemExit(f"{name}: its tests fail without any change: {' '.join(tests)}")
        limit = 20 + 10 * (time.monotonic() - began)
        for number, mutant in missing:
            if time.monotonic() - began > seconds:
                break
            tried += 1
            (copy / name).write_text(mutant.text)
            survived = passes(copy, tests, limit)
            if outcomes:
                outcomes.add(state, number, mutant, survived)
            if survived:
                alive.append(mutant)
                print(f"  {name}:{mutant.line}: {mutant.change}", flush=True)
    return tried, sorted(alive, key=lambda mutant: mutant.line)


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
    import hypothesis  # once, before the processes fork
    import numpy
    import pytest
    import scipy.ndimage
    import torch

    torch.set_num_threads(1)
    del hypothesis, numpy, pytest, scipy
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
