"""Reconstructing and evaluating need no training framework."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from small import small_scan

from ptycho_torch.scan import write_scan

CODE = """
import sys
from ptycho_torch.cli.app import app
bundle, folder = sys.argv[1:]
def call(*arguments):
    try:
        app([str(a) for a in arguments])
    except SystemExit as done:
        assert not done.code, done.code
call('reconstruct', folder + '/scan.npz', '--model', bundle, '-o', folder + '/image', '--accelerator', 'cpu', '--quiet')
assert 'torch' in sys.modules
call('evaluate', folder + '/image/reconstruction.npz', folder + '/scan.npz', '--quiet')
print(sorted({'lightning', 'pytorch_lightning'} & set(sys.modules)))
"""


def test_reconstruct_and_evaluate_import_no_lightning(tmp_path: Path) -> None:
    bundle = Path(__file__).resolve().parents[1] / "data" / "bundle_v1_unrolled.zip"
    write_scan(small_scan(), tmp_path / "scan.npz")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(bundle), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_a_process_that_loads_a_model_imports_neither_lightning_nor_matplotlib() -> None:
    """ptychodus begins one for every image."""
    bundle = Path(__file__).resolve().parents[1] / "data" / "bundle_v1_unrolled.zip"
    code = (
        "import sys, ptycho.loader, ptycho.params, ptycho.probe, ptycho.raw_data, ptycho.tf_helper;"
        "from ptycho.workflows.components import load_inference_bundle;"
        "load_inference_bundle(sys.argv[1]);"
        "print(sorted({'lightning', 'matplotlib', 'torchmetrics', 'skimage'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"
