"""Peak memory of a piece of code in a process of its own, for tests of files that would exhaust the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20

_RUNNER = """
import json, resource, sys
from pathlib import Path
setup, action, *args = sys.argv[1:]
names = {"args": args}
exec(setup, names)
def now(field):
    return next(int(l.split()[1]) << 10 for l in open("/proc/self/status") if l.startswith(field + ":"))
before = now("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
resource.setrlimit(resource.RLIMIT_AS, (now("VmSize") + (4 << 30),) * 2)
try:
    exec(action, names)
    said = ["", str(names.get("result", ""))]
except BaseException as error:
    said = [type(error).__name__, str(error)]
print(json.dumps([now("VmHWM") - before, *said]))
"""


@dataclass(frozen=True)
class Peak:
    """``grown``: bytes beyond what the process had before; ``error``: the exception's class, '' for none."""

    grown: int
    error: str
    text: str
    seconds: float

    def within(self, size: int) -> bool:
        """Whether reading a file of ``size`` bytes kept to 64 MiB and four times the file."""
        return self.grown <= 64 * MIB + 4 * size


def peak(setup: str, action: str, *args: str | Path, timeout: float = 60) -> Peak:
    """Run ``setup``, then ``action`` with ``args`` (a list of text) under an own limit of memory."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _RUNNER, setup, action, *map(str, args)],
        capture_output=True, text=True, timeout=timeout, env=env, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr[-2000:]
    grown, error, text = json.loads(done.stdout.splitlines()[-1])
    return Peak(grown, error, text, time.monotonic() - began)
