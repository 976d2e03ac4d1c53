"""pty-chi's LSQML on the star, from the file's probe guess and a flat object; for `star.py --peer`.

    python benchmarks/star_peer.py SCAN RESULT.npz --epochs 30

Needs the extra `iterative`; run by the Python of an environment that has it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from ptycho_torch.physics.units import amplitude_normalisation, normalise_probe
from ptycho_torch.reconstruction.stitching import Canvas
from ptycho_torch.result import Reconstruction, save_reconstruction
from ptycho_torch.scan import Scan, open_scan
from ptycho_torch.solvers.epie import residual
from ptycho_torch.solvers.ptychi import refine_with_ptychi


def flat_start(scan: Scan) -> Reconstruction:
    """A flat object on the scan's canvas, under the file's probe guess in the frames' power."""
    assert scan.probe is not None
    probe = normalise_probe(scan.probe)
    scale = 1 / amplitude_normalisation(scan.frames)
    weight = torch.from_numpy(np.square(np.abs(probe)).sum(0).astype(np.float32))
    canvas = Canvas(scan.positions, scan.N, weight)
    for start in range(0, scan.n_frames, 64):
        at = torch.from_numpy(scan.positions[start : start + 64])
        canvas.add(torch.ones(len(at), 1, scan.N, scan.N, dtype=torch.complex64), at[:, None])
    _, light = canvas.finish()
    return Reconstruction(
        np.where(light > 0, 1, 0).astype(np.complex64),
        light,
        canvas.origin_xy,
        scan.positions,
        (probe * scale).astype(np.complex64),
        {"intensity_scale": scale},
    )


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("scan", type=Path)
    made.add_argument("result", type=Path)
    made.add_argument("--epochs", type=int, default=30)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=None)
    arguments = made.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    scan = open_scan(arguments.scan)
    done = refine_with_ptychi(flat_start(scan), scan, epochs=arguments.epochs, seed=arguments.seed)
    done.info["residual"] = residual(done, scan, frames=scan.n_frames)
    save_reconstruction(done, arguments.result)


if __name__ == "__main__":
    main()
