"""What training starts from: fresh weights, those that ship with the package, or a bundle's."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ptycho_torch.bundle.contents import read_bundle
from ptycho_torch.bundle.rebuild import load_model
from ptycho_torch.bundle.shipped import shipped_bundle
from ptycho_torch.config import ModelConfig, TrainingConfig, UnrolledOptions
from ptycho_torch.errors import DataError
from ptycho_torch.generators import Generator
from ptycho_torch.model import DiffractionToObject

__all__ = ["chosen_init", "initial_weights", "load_initial"]

Weights = dict[str, Tensor]


def chosen_init(config: TrainingConfig) -> str:
    """Return ``config.init``; "auto" is "shipped" unless the configuration asks for what that has not.

    That is another generator or size of network, labels, a smoothed or masked probe.

    Examples
    --------
    >>> from ptycho_torch.config import ModelConfig
    >>> chosen_init(TrainingConfig()), chosen_init(TrainingConfig(model=ModelConfig(architecture="cnn")))
    ('shipped', 'scratch')
    """
    if config.init != "auto":
        return config.init
    own = [f.name for f in dataclasses.fields(UnrolledOptions)]
    own += ["architecture", "model_type", "generator_options", "gaussian_smoothing_sigma", "probe_mask"]
    plain = ModelConfig()
    asked = [name for name in own if getattr(config.model, name) != getattr(plain, name)]
    return "scratch" if asked else "shipped"


def initial_weights(config: TrainingConfig) -> tuple[TrainingConfig, Weights | None]:
    """Return the configuration of the model to start from, and its generator's weights.

    Parameters
    ----------
    config : TrainingConfig
        ``init`` "scratch": as it is, without weights. "shipped" or a bundle's path: what the network is comes
        from there; frame size, group size and probe modes stay. "auto": one of the first two, see
        :func:`chosen_init`.

    Raises
    ------
    BundleError
        When the bundle cannot be opened.
    """
    config = dataclasses.replace(config, init=chosen_init(config))
    if config.init == "scratch":
        return config, None
    path = shipped_bundle() if config.init == "shipped" else config.init
    with read_bundle(path) as bundle:
        model = load_model(bundle, "diffraction_to_obj").module
    if not isinstance(model, DiffractionToObject):
        raise DataError(
            f"--init {config.init}: holds a {type(model).__name__}, which is no model of this package"
        )
    kept = {name: getattr(config.model, name) for name in ("N", "gridsize", "probe_modes", "model_type")}
    weights = {name: value.clone() for name, value in model.core.generator.state_dict().items()}
    return dataclasses.replace(config, model=dataclasses.replace(model.config, **kept)), weights


def load_initial(generator: Generator, weights: Weights, name: str) -> None:
    """Put weights into a fresh generator.

    Raises
    ------
    DataError
        When they are of another shape: a network whose weights depend on the frame size.
    """
    expected = generator.state_dict()
    wrong = sorted(
        {k for k in expected if k not in weights or weights[k].shape != expected[k].shape}
        | (weights.keys() - expected.keys())
    )
    if wrong:
        raise DataError(
            f"--init {name}: its weights do not fit frames of this size ({len(wrong)} differ, first: {wrong[0]});"
            " start from a bundle for this size, or with --init shipped"
        )
    generator.load_state_dict(weights)
