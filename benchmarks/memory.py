"""Peak memory of ``reconstruct`` against the number of frames, each count in a process of its own.

    python benchmarks/memory.py

Frames are made when they are asked for, as those of a file larger than memory are read; what is measured
is the working set of reconstruction itself. Positions are dense or spread over a growing canvas.
"""

from __future__ import annotations

import json
import subprocess
import sys

from harness import keep, parser, table

_WORK = """
import json, resource, sys
import numpy as np, torch
from ptycho_torch.config import ModelConfig
from ptycho_torch.reconstruction import reconstruct
from ptycho_torch.model import build_pair, default_probe
from ptycho_torch.scan import Scan

count, edge, threads = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)

class Lazy:
    shape, dtype, ndim = (count, 64, 64), np.dtype(np.float32), 3
    def __len__(self): return count
    def __getitem__(self, index):
        index = np.arange(count)[index]
        rng = np.random.default_rng(0)
        return np.broadcast_to(rng.random((64, 64), np.float32), (*index.shape, 64, 64)).copy()

positions = np.random.default_rng(0).uniform(32, edge, (count, 2))
scan = Scan(Lazy(), positions, default_probe(64))
config = ModelConfig(N=64, unrolled_iterations=1, unrolled_width=8, unrolled_levels=1)
model = build_pair(config, default_probe(64), 1.0)[1].eval()
reconstruct(model, scan.select(slice(0, 64)), batch_size=32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = reconstruct(model, scan, batch_size=32)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
grown = (after - before) / 1024
print(json.dumps({"before_mb": before / 1024, "grown_mb": grown, "canvas": list(result.object.shape)}))
"""


def main() -> None:
    made = parser(__doc__, shared=False)
    arguments = made.parse_args()
    counts = (1_000, 5_000) if arguments.quick else (1_000, 10_000, 100_000)
    rows = []
    for count in counts:
        done = subprocess.run(
            [sys.executable, "-c", _WORK, str(count), "480", str(arguments.threads or 2)],
            check=True,
            capture_output=True,
            text=True,
        )
        rows.append({"frames": count, **json.loads(done.stdout)})
        print(rows[-1], flush=True)
    print(table(rows))
    print(keep("memory", arguments, rows))


if __name__ == "__main__":
    main()
