"""Ends commands at random moments and looks at what they leave.

    python benchmarks/kills.py --each 10 --seed 0

``train``, ``reconstruct``, ``convert`` and ``export`` are begun over a small scan, a bundle and an archive of the
TensorFlow program, and ended by SIGKILL, or ``train`` also by SIGTERM, after a part of the time that they take
undisturbed. ``whole``: every file that then lies under a name of theirs is of the earlier run or of this one, and
whole. ``begun``: runs of ``train`` that had written what they are of by then; ``resumed``: those that went on to
their end, and ``equal``: to the very weights of a run that nobody disturbed. ``leftovers``: temporary files of
killed writers, which the next writer has to remove. Exit status 1 where one of this fails. Without ``--shared``
there is no archive, and no ``convert``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from harness import keep, parser, table
from ptycho_torch.bundle import verify_bundle
from ptycho_torch.bundle.contents import read_bundle
from ptycho_torch.cli import main as main_of_package
from ptycho_torch.result import load_reconstruction
from ptycho_torch.scan import write_scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan

SMALL = [
    "--probe", "fixed", "--max-minutes", "none", "--nepochs", "6", "--batch-size", "16",
    "--unrolled-width", "8", "--unrolled-iterations", "1", "--unrolled-levels", "1",
]  # fmt: skip
ARCHIVE = "data/tf_bundles"
BUNDLE = "wts.h5.zip"


@dataclass
class Case:
    """A command, how it is ended, and what came of it."""

    command: str
    words: list[str]
    how: signal.Signals = signal.SIGKILL
    outcome: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def prepared(folder: Path, shared: Path) -> list[Case]:
    """A scan and a bundle, and the commands over them, each of which has its own output in ``out``."""
    obj = make_object("grf", 64, 0)
    scan = simulate_scan(obj, make_probe("zoneplate", 32), make_positions("grid", obj.shape, 32, step=6))
    write_scan(scan, folder / "scan.npz")
    (folder / "out").mkdir()
    whole = ["train", f"{folder}/scan.npz", "-o", f"{folder}/whole", *SMALL]
    assert run(whole)[1] == 0, whole
    bundle, out = str(folder / "whole" / BUNDLE), str(folder / "out")
    again = ["train", f"{folder}/scan.npz", "-o", f"{out}/run", *SMALL]
    exported = ["--safetensors", f"{out}/w.safetensors", "--onnx", f"{out}/w.onnx"]
    cases = [
        Case("train", again),
        Case("train", again, signal.SIGTERM),
        Case("reconstruct", ["reconstruct", f"{folder}/scan.npz", "-o", f"{out}/image"]),
        Case("export", ["export", bundle, *exported, "--frame-size", "32"]),
    ]
    archives = sorted(p.parent for p in (shared / ARCHIVE).glob(f"*/{BUNDLE}"))
    if archives:
        cases.append(Case("convert", ["convert", str(archives[0] / BUNDLE), f"{out}/converted/{BUNDLE}"]))
        (folder / "out/converted").mkdir()
    return cases


def begun(words: list[str]) -> int:
    """Begin a command in a process that is forked here, so that all of its time is its work; the process's number."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    status = 70
    try:
        sys.argv = ["ptychopinn", *words]
        main_of_package()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    finally:
        os._exit(status)


def run(words: list[str]) -> tuple[float, int]:
    """Seconds that a command takes, and its exit status."""
    began = time.monotonic()
    _, status = os.waitpid(begun(words), 0)
    return time.monotonic() - began, os.waitstatus_to_exitcode(status)


def ended(case: Case, after: float) -> int | None:
    """Begin a command and end it after so many seconds; its exit status, or None where it was done by then."""
    process, end = begun(case.words), time.monotonic() + after
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            if os.waitstatus_to_exitcode(status):
                case.problems.append(f"status {os.waitstatus_to_exitcode(status)} before it was ended")
            return None
        time.sleep(0.01)
    os.kill(process, case.how)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return None if status == 0 else status


def broken(out: Path) -> list[str]:
    """Files under their final names that are not whole."""
    bad = []
    for path in sorted(p for p in out.rglob("*") if p.is_file() and not p.name.startswith(".")):
        try:
            if path.name == BUNDLE:
                assert verify_bundle(path).exit_status == 0
            elif path.suffix == ".npz":
                load_reconstruction(path)
            elif path.suffix == ".safetensors" and path.name != "resume.safetensors":
                load_file(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".onnx":
                _check_onnx(path)
            elif path.suffix == ".png":
                assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
            elif path.suffix == ".html":
                assert path.read_text().rstrip().endswith("</html>")
        except Exception as error:
            bad.append(f"{path.relative_to(out)}: {type(error).__name__}: {error}")
    return bad


def _check_onnx(path: Path) -> None:
    import onnxruntime

    onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def weights(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every weight of the bundle in a run's folder."""
    with read_bundle(folder / BUNDLE) as bundle:
        return {
            f"{model}/{name}": found.tensor(name).numpy().copy()
            for model in bundle.models
            for found in [bundle.weights(model)]
            for name in found.tensors
        }


def gone_on(case: Case, folder: Path, whole: dict[str, np.ndarray[Any, Any]]) -> None:
    """Let a run go on that was ended, where it had begun, and compare what it comes to."""
    if not (folder / "run.json").exists():
        return
    case.outcome["begun"] += 1
    _, status = run(["train", "--resume", str(folder)])
    case.outcome["resumed"] += status == 0
    if status:
        case.problems.append(f"status {status} of a run that goes on")
        return
    mine = weights(folder)
    same = mine.keys() == whole.keys() and all(np.array_equal(mine[k], whole[k]) for k in whole)
    case.outcome["equal"] += same
    if not same:
        case.problems.append("the run that went on has other weights than one that nobody disturbed")


def tried(case: Case, folder: Path, each: int, rng: random.Random) -> None:
    """End a command ``each`` times, over what the time before left, and let it end by itself at last."""
    out = folder / "out"
    seconds, status = run(case.words + (["--force"] if case.command == "train" else []))
    assert status == 0, case.words
    training = case.command == "train"
    whole = weights(folder / "whole") if training else {}
    case.problems += broken(out)
    case.outcome = {"ended": 0, "whole": 0} | ({"begun": 0, "resumed": 0, "equal": 0} if training else {})
    for _ in range(each):
        if training:
            shutil.rmtree(out / "run", ignore_errors=True)
        status = ended(case, rng.uniform(0.02, 1.0) * seconds)
        case.outcome["ended"] += status is not None
        expected = -case.how if case.how == signal.SIGKILL else 128 + case.how
        # Before anything of the package runs, the system's own answer to SIGTERM is the right one, too.
        if status is not None and status not in (expected, -case.how):
            case.problems.append(f"status {status}, {expected} was expected")
        bad = broken(out)
        case.outcome["whole"] += status is not None and not bad
        case.problems += bad
        if training:
            gone_on(case, out / "run", whole)
            case.problems += broken(out)
    case.outcome["leftovers"] = len(list(out.rglob(".*.part*")))
    _, status = run([*case.words, "--force"] if training else case.words)
    left = [path.name for path in out.rglob(".*.part*")]
    if status or left:
        case.problems.append(f"afterwards: status {status}, left: {', '.join(left) or 'nothing'}")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--each", type=int, default=10, help="how often each command is ended; --quick: 2")
    arguments: argparse.Namespace = made.parse_args()
    torch.set_num_threads(1)  # several would not survive a fork
    for module in ("workflows.training", "workflows.inference", "export", "report.figures", "bundle.keras"):
        importlib.import_module(f"ptycho_torch.{module}")  # once, before processes fork
    rng, rows, problems = random.Random(arguments.seed), [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in prepared(folder, arguments.shared):
            tried(case, folder, 2 if arguments.quick else arguments.each, rng)
            begun = {"command": case.command, "ended by": case.how.name}
            rows.append(begun | case.outcome | {"problems": len(case.problems)})
            problems += [f"{case.command}, {case.how.name}: {problem}" for problem in case.problems]
            print(table(rows[-1:]), *problems, sep="\n", flush=True)
    print(keep("kills", arguments, {"rows": rows, "problems": problems}))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
