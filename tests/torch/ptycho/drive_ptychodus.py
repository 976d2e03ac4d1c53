"""Drives ptychodus through its own API, as its window would; run as ``drive_ptychodus.py train|reconstruct FOLDER``.

FOLDER holds ``diffraction.h5`` and ``product.h5``. ``train`` writes ``model.zip``; ``reconstruct``, in another process,
opens it and writes ``out.000000.h5`` (that program numbers them) and ``again.h5``, products.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ptychodus.model import ModelCore


def main(action: str, folder: Path) -> None:
    with ModelCore() as model:
        loaded = model.workflow_api.load_assembled_diffraction_data(folder / "diffraction.h5")
        product = model.workflow_api.load_product(folder / "product.h5", diffraction=loaded)
        processing = model.processing_core.processing_api
        assert "ptychopinn_pinn" in list(processing.available_reconstructors())
        processing.set_reconstructor_if_provided("ptychopinn_pinn")
        if action == "train":
            settings = model.ptychopinn_reconstructor_library.training_settings
            settings.nepochs.set_value(1)
            settings.batch_size.set_value(4)
            settings.nll_weight.set_value(0.0)
            settings.mae_weight.set_value(1.0)
            settings.probe_trainable.set_value(True)
            for name in ("train_data.npz", "test_data.npz"):
                product.export_training_data(folder / name)
            (folder / "trained").mkdir()
            product.train_reconstructor_local(folder, folder / "trained", block=True)
            processing.save_model_to_file(folder / "model.zip")
        else:
            processing.load_model_from_file(folder / "model.zip")
            done = product.reconstruct_local(output_product_file=folder / "out.h5", block=True)
            done.save_product(folder / "again.h5", file_type="HDF5")
    assert not {"tensorflow", "torch"} & set(sys.modules)  # the application itself stays light


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
