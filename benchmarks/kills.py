"""Kills commands at random moments and looks at what they leave.

    python benchmarks/kills.py --each 10 --seed 0 [--json OUT]

``train``, ``reconstruct`` and ``export`` are begun over a small scan and a bundle, and killed
(SIGKILL) after a part of the time that they take undisturbed. What lies under a name of theirs must then be whole:
the outputs of the earlier run, or new ones. A killed ``train`` is gone on with to its end. Exit status 1 where not.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.numpy import load_file

from ptycho_torch.bundle import verify_bundle
from ptycho_torch.result import load_reconstruction
from ptycho_torch.scan import write_scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan

SMALL = [
    "--probe", "fixed", "--max-minutes", "none", "--max-steps", "12", "--nepochs", "3", "--batch-size", "8",
    "--unrolled-width", "8", "--unrolled-iterations", "1", "--unrolled-levels", "1",
]  # fmt: skip
Command = list[str]


def prepared(folder: Path) -> dict[str, Command]:
    """A scan and a bundle, and the commands over them, each of which has its own output in ``out``."""
    obj = make_object("grf", 64, 0)
    scan = simulate_scan(obj, make_probe("zoneplate", 32), make_positions("grid", obj.shape, 32, step=6))
    write_scan(scan, folder / "scan.npz")
    (folder / "out").mkdir()
    done = run(["train", f"{folder}/scan.npz", "-o", f"{folder}/run", *SMALL])
    assert done.returncode == 0, done.stderr
    bundle = f"{folder}/run/wts.h5.zip"
    return {
        "train": ["train", f"{folder}/scan.npz", "-o", f"{folder}/out/run", *SMALL],
        "reconstruct": ["reconstruct", f"{folder}/scan.npz", "--model", bundle, "-o", f"{folder}/out/image"],
        "export": ["export", bundle, "--safetensors", f"{folder}/out/w.safetensors"],
    }


def run(command: Command) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "ptycho_torch.cli", *command]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def killed(command: Command, after: float) -> bool:
    """Begin a command and kill it after so many seconds; False where it was done by then."""
    words = [sys.executable, "-m", "ptycho_torch.cli", *command]
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        running.wait(after)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGKILL)
        running.wait()
    return running.returncode == -signal.SIGKILL


def problems(out: Path) -> list[str]:
    """Files under their final names that are not whole."""
    bad = []
    for path in sorted(p for p in out.rglob("*") if p.is_file() and not p.name.startswith(".")):
        try:
            if path.name == "wts.h5.zip":
                assert verify_bundle(path).exit_status == 0
            elif path.suffix == ".npz":
                load_reconstruction(path)
            elif path.suffix == ".safetensors" and path.name != "resume.safetensors":
                load_file(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".png":
                assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
            elif path.suffix == ".html":
                assert path.read_text().rstrip().endswith("</html>")
        except Exception as error:
            bad.append(f"{path.relative_to(out)}: {type(error).__name__}: {error}")
    return bad


def tried(name: str, command: Command, out: Path, each: int, rng: random.Random) -> dict[str, object]:
    """Kill a command ``each`` times, over what the time before left."""
    began = time.monotonic()
    done = run(command)
    whole = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    bad, count, resumed = problems(out), 0, 0
    for _ in range(each):
        if name == "train":
            shutil.rmtree(out / "run", ignore_errors=True)
        count += killed(command, rng.uniform(0.3, 1.0) * whole)
        bad += problems(out)
        if name == "train" and (out / "run" / "run.json").exists():
            again = run(["train", "--resume", f"{out}/run"])
            resumed += again.returncode == 0
            bad += problems(out) + ([] if again.returncode == 0 else [again.stderr.strip()[-300:]])
    left = [p.name for p in out.rglob(".*.part*")]
    done = run([*command, "--force"] if name == "train" else command)  # the next writer sweeps up
    swept = not list(out.rglob(".*.part*"))
    if done.returncode or not swept:
        bad.append(f"afterwards: status {done.returncode}, {'swept' if swept else 'leftovers'}")
    return {"command": name, "kills": count, "resumed": resumed, "leftovers": len(left), "problems": bad}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--each", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command, words in prepared(folder).items():
            rows.append(tried(command, words, folder / "out", args.each, rng))
            print(rows[-1], flush=True)
    text = {
        "command": f"benchmarks/kills.py --each {args.each} --seed {args.seed}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "rows": rows,
    }
    if args.json is not None:
        args.json.write_text(json.dumps(text, indent=1) + "\n")
    sys.exit(any(row["problems"] for row in rows))


if __name__ == "__main__":
    main()
