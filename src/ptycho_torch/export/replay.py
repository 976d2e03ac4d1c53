"""Runs an exported file on stored inputs, with onnxruntime and numpy alone: ``replay.py MODEL CASES OUTPUTS``.

Started as a program of its own, in a process where torch cannot be imported.
"""

from __future__ import annotations

import sys

import numpy as np


def main(model: str, cases: str, outputs: str) -> None:
    """Run every case ``NUMBER/INPUT`` of an NPZ file and store ``NUMBER/OUTPUT``."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    done: dict[str, np.ndarray] = {"onnxruntime": np.array(onnxruntime.__version__)}
    with np.load(cases) as stored:
        for number in sorted({key.split("/")[0] for key in stored}):
            given = {key.split("/")[1]: stored[key] for key in stored if key.split("/")[0] == number}
            for name, value in zip(names, session.run(names, given), strict=True):
                done[f"{number}/{name}"] = value
    with open(outputs, "wb") as stream:  # noqa: PTH123
        np.savez(stream, **done)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]
    main(*sys.argv[1:])
