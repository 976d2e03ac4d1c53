"""pty-chi's LSQML on the star, from the file's probe guess and a flat object; for `--peer` of `star.py`
and `star_untrained.py`.

    python benchmarks/star_peer.py SCAN RESULT.npz --epochs 30

Needs the extra `iterative`; run by the Python of an environment that has it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ptycho_torch.result import save_reconstruction
from ptycho_torch.scan import open_scan
from ptycho_torch.solvers import SOLVERS, EngineOptions
from ptycho_torch.solvers.residual import residual


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("scan", type=Path)
    made.add_argument("result", type=Path)
    made.add_argument("--epochs", type=int, default=30)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--every", type=int, default=1, help="use every n-th frame")
    made.add_argument("--threads", type=int, default=None)
    arguments = made.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    scan = open_scan(arguments.scan)
    if arguments.every > 1:
        scan = scan.select(np.arange(0, scan.n_frames, arguments.every))
    options = EngineOptions(sweeps=arguments.epochs, seed=arguments.seed)
    done = SOLVERS.get("lsqml")().solve(scan, options=options)
    done = replace(done, residual=residual(done, scan, frames=scan.n_frames))
    save_reconstruction(done, arguments.result)


if __name__ == "__main__":
    main()
