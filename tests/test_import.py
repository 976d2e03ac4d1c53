"""What imports without torch, and works without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ptycho_torch
from ptycho_torch import errors
from ptycho_torch.errors import PtychoError, printable

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'lightning', 'torchmetrics'):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
"""


def python(code: str, *args: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_no_framework() -> None:
    loaded = python("import sys, ptycho_torch; print(' '.join(sys.modules))").split()
    assert not {"torch", "lightning", "matplotlib", "scipy", "numpy"} & set(loaded)


@pytest.mark.parametrize("name", ptycho_torch.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(ptycho_torch, name) is not None


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = ptycho_torch.nothing_of_this_name


def test_rooms_without_torch_work_without_it(tmp_path: Path) -> None:
    bundle = Path(__file__).parent / "data" / "bundle_v1_unrolled.zip"
    code = f"""{BLOCK}
from pathlib import Path
import ptycho_torch.config, ptycho_torch.compat.parameters, ptycho_torch.errors, ptycho_torch.files
from ptycho_torch.bundle import inspect_bundle, verify_bundle
from ptycho_torch.evaluation import evaluate
from ptycho_torch.result import Reconstruction, load_reconstruction, save_reconstruction
from ptycho_torch.model_manager import load_torch_bundle, save_torch_bundle
from ptycho_torch.report.figures import figure_png, scan_figure
from ptycho_torch.scan import open_scan, write_scan
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
import numpy as np

folder = Path(sys.argv[1])
obj = make_object('grf', 96, 0)
positions = make_positions('grid', obj.shape, 32, step=12.0)
write_scan(simulate_scan(obj, make_probe('zoneplate', 32), positions), folder / 'scan.npz')
scan = open_scan(folder / 'scan.npz')
assert len(figure_png(scan_figure(scan))) > 1000
weight = np.ones(obj.shape, np.float32)
rec = Reconstruction(obj, weight, np.zeros(2), scan.positions, scan.probe)
save_reconstruction(rec, folder / 'r.npz')
assert evaluate(load_reconstruction(folder / 'r.npz'), obj)['complex_correlation'] > 0.9999
about = inspect_bundle({str(bundle)!r})
assert about['models'] == ['autoencoder', 'diffraction_to_obj']
report = verify_bundle({str(bundle)!r})
assert [c.status for c in report.checks] == ['passed', 'absent'], report
try:
    load_torch_bundle({str(bundle)!r})
except ImportError as error:
    assert 'pip install torch' in str(error)
else:
    raise SystemExit('loading without torch did not say so')
assert 'torch' not in sys.modules
"""
    python(code, str(tmp_path))


def test_every_error_is_in_the_tree_and_a_builtin_too() -> None:
    for name in errors.__all__:
        value = getattr(errors, name)
        # A signal is no error: what catches errors must not swallow it.
        if isinstance(value, type) and value not in (PtychoError, errors.Interrupted):
            assert issubclass(value, PtychoError)
            assert issubclass(value, ValueError | RuntimeError | OSError | ImportError)


def test_an_interruption_is_not_caught_as_an_error() -> None:
    assert issubclass(errors.Interrupted, KeyboardInterrupt)
    assert not issubclass(errors.Interrupted, Exception)


def test_foreign_text_is_made_safe_to_print() -> None:
    assert printable("a\x1b[31mb\nc\u202e") == "a\\x1b[31mb\\nc\\u202e"
    assert len(printable("x" * 1000)) == 200
