"""The Reconstructor: one core of generator, probe and scale, seen as two models that share it.

``DiffractionToObject`` maps frames to objects; ``Autoencoder`` goes on to the detector and is what
training looks at. Both take amplitudes in sqrt(counts), as the TensorFlow program's models do, and
divide them by the intensity scale themselves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ptycho_torch.compat.parameters import model_config_from_legacy
from ptycho_torch.config import ModelConfig, validate
from ptycho_torch.errors import ConfigError, DataError
from ptycho_torch.generators import Generator, Proposal, build
from ptycho_torch.physics.propagation import diffract
from ptycho_torch.physics.units import normalise_probe

__all__ = [
    "Autoencoder",
    "DiffractionToObject",
    "Reconstructor",
    "build_pair",
    "create_torch_model_with_gridsize",
    "default_probe",
]


def default_probe(size: int, modes: int = 1) -> NDArray[np.complex64]:
    """Return a smooth disk of radius N/4, for a model or scan that has no probe.

    Parameters
    ----------
    size : int
        N.
    modes : int
        Further modes are the first one times a rising tilt, at a tenth of its power.

    Returns
    -------
    (modes, N, N) complex64 array

    Examples
    --------
    >>> default_probe(32, 2).shape
    (2, 32, 32)
    """
    axis = np.arange(size) - size // 2
    radius = np.hypot(axis[:, None], axis[None, :])
    disk = 1 / (1 + np.exp((radius - size / 4) / max(size / 64, 0.5)))
    tilts = [
        np.exp(2j * np.pi * m * axis[None, :] / size) * (1 if m == 0 else math.sqrt(0.1))
        for m in range(modes)
    ]
    return normalise_probe(np.stack([disk * tilt for tilt in tilts]))


class Reconstructor(nn.Module):
    """Generator, probe and intensity scale: everything that is learned or measured.

    ``probe`` is (modes, N, N) complex64 in the gauge of
    :func:`~ptycho_torch.physics.units.normalise_probe` when it comes from there; it is stored as
    real pairs, which every optimiser and every reader of a state dict understands.
    """

    def __init__(self, config: ModelConfig, probe: NDArray[Any], intensity_scale: float) -> None:
        super().__init__()
        probe = np.asarray(probe)
        self.config = dataclasses.replace(config, probe_modes=config.probe_modes or probe.shape[0])
        validate(self.config, "model.")
        expected = (self.config.probe_modes, config.N, config.N)
        if probe.shape != expected:
            raise DataError(f"probe: expected shape {expected} (modes, N, N), found {probe.shape}")
        if not (math.isfinite(intensity_scale) and intensity_scale > 0):
            raise DataError(f"intensity_scale: expected a positive finite number, found {intensity_scale}")
        self.generator: Generator = build(self.config)
        pairs = torch.view_as_real(torch.from_numpy(probe.astype(np.complex64))).clone()
        self.probe_pairs = nn.Parameter(pairs, requires_grad=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(intensity_scale)), requires_grad=False)

    @property
    def probe(self) -> Tensor:
        """The probe as the forward model uses it, (modes, N, N) complex64, mask applied."""
        probe = torch.view_as_complex(self.probe_pairs)
        if self.config.probe_mask:
            axis = torch.arange(self.config.N, device=probe.device) - self.config.N // 2 + 0.5
            probe = probe * (torch.hypot(axis[:, None], axis[None, :]) < self.config.N // 4)
        return probe

    def propose(
        self, x: Tensor, offsets: Tensor, mask: Tensor | None = None, region: int | None = None
    ) -> Proposal:
        """Propose objects and patches for groups of frames.

        Parameters
        ----------
        x : Tensor
            (B, C, N, N) normalised amplitudes.
        offsets : Tensor
            (B, C, 1, 2) = (x, y), member minus group mean, pixels, whatever the generator.
        mask, region
            See :meth:`~ptycho_torch.generators.Generator.propose`.

        Raises
        ------
        DataError
            On shapes that do not fit.
        """
        size = self.config.N
        if x.ndim != 4 or x.shape[-2:] != (size, size):
            raise DataError(f"frames: expected shape (B, C, {size}, {size}), found {tuple(x.shape)}")
        if offsets.shape != (*x.shape[:2], 1, 2):
            raise DataError(f"offsets: expected shape {(*x.shape[:2], 1, 2)}, found {tuple(offsets.shape)}")
        return self.generator.propose(x, offsets, self.probe, mask=mask, region=region)

    @property
    def offset_sign(self) -> int:
        """1 where the two models below take offsets as member minus group mean, -1 where they take the opposite
        (networks with weights of the TensorFlow program)."""
        return self.generator.offset_sign

    def stitching_weight(self) -> Tensor:
        """Return the (N, N) weight of an object's pixels on the canvas: |P|^2 summed over modes, where they
        can be trusted.
        """
        power = self.probe.detach().abs().square().sum(0)
        trust = self.generator.trust()
        return power if trust is None else power * trust

    def predict_amplitude(self, patches: Tensor) -> Tensor:
        """Normalised amplitude at the detector of patches (B, C, N, N)."""
        sigma = self.config.gaussian_smoothing_sigma
        if sigma == 0:
            return diffract(patches, self.probe)
        if self.config.probe_modes != 1:
            raise ConfigError("gaussian_smoothing_sigma: expected 0 with several probe modes")
        smooth = _smooth(patches * self.probe[0], sigma)
        return diffract(smooth, torch.ones_like(self.probe))


def _smooth(wave: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of an exit wave with a 3x3 kernel, mirrored at the border, as the TensorFlow
    program does it.
    """
    axis = torch.arange(-1, 2, device=wave.device, dtype=wave.real.dtype)
    line = torch.exp(-(axis**2) / (2 * sigma**2))
    kernel = (line[:, None] * line[None, :])[None, None]
    kernel = kernel / kernel.sum()
    flat = torch.view_as_real(wave.reshape(-1, 1, *wave.shape[-2:])).movedim(-1, 1)
    flat = flat.reshape(-1, 1, *wave.shape[-2:])
    done = F.conv2d(F.pad(flat, (1, 1, 1, 1), mode="reflect"), kernel).reshape(-1, 2, *wave.shape[-2:])
    return torch.complex(done[:, 0], done[:, 1]).reshape(wave.shape)


class _View(nn.Module):
    """What both views of a core share: scale, parameters, and their description for a bundle."""

    def __init__(self, core: Reconstructor, params: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.core = core
        self.params: dict[str, Any] = dict(params or {})

    @property
    def config(self) -> ModelConfig:
        return self.core.config

    @property
    def probe(self) -> Tensor:
        return self.core.probe

    @property
    def intensity_scale(self) -> float:
        """Factor from normalised amplitude to sqrt(counts)."""
        return float(self.core.log_scale.detach().exp())

    def bundle_params(self) -> dict[str, Any]:
        """What a bundle must hold beside the configuration: the probe as trained, and what is in ``params``."""
        pairs = self.core.probe_pairs.detach().cpu().contiguous()
        probe = torch.view_as_complex(pairs).numpy().copy()
        extra = {k: self.params[k] for k in ("amplitude_normalisation",) if k in self.params}
        return {**extra, "probe": probe}

    def _proposed(
        self, x_scaled: Tensor, offsets: Tensor, mask: Tensor | None, region: int | None
    ) -> Proposal:
        """The edge to callers: scale and offset sign are theirs outside and the package's own inside."""
        x = x_scaled / self.core.log_scale.exp()
        return self.core.propose(x, self.core.offset_sign * offsets, mask, region)


class DiffractionToObject(_View):
    """Frames to objects, the model that inference uses."""

    def forward(
        self, x_scaled: Tensor, offsets: Tensor, mask: Tensor | None = None, region: int | None = None
    ) -> Tensor:
        """Complex objects of frames.

        ``x_scaled``: (B, C, N, N) float32 amplitude in sqrt(counts); ``offsets``: (B, C, 1, 2)
        float32, member minus group mean times ``core.offset_sign``, (x, y) pixels. Returns complex64 (B, C, N, N),
        one patch per frame, or (B, 1, N, N), one object per group around its mean position. Gauge: global
        phase free; amplitude relative to the stored probe. Raises
        :class:`~ptycho_torch.errors.DataError` on shapes that do not fit.
        """
        return self._proposed(x_scaled, offsets, mask, region).object


class Autoencoder(_View):
    """Frames to objects and back to frames, the model that training looks at."""

    def forward(
        self, x_scaled: Tensor, offsets: Tensor, mask: Tensor | None = None, region: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``(object, amplitude, intensity)``: arguments as :class:`DiffractionToObject`.

        ``amplitude`` (B, C, N, N) in sqrt(counts), ``intensity`` its square in counts.
        """
        proposal = self._proposed(x_scaled, offsets, mask, region)
        amplitude = self.core.predict_amplitude(proposal.patches) * self.core.log_scale.exp()
        return proposal.object, amplitude, amplitude.square()


def build_pair(
    config: ModelConfig,
    probe: NDArray[Any],
    intensity_scale: float,
    params: Mapping[str, Any] | None = None,
) -> tuple[Autoencoder, DiffractionToObject]:
    """Make a fresh core and its two views. Weights come from torch's global generator.

    Parameters
    ----------
    config : ModelConfig
    probe : (N, N) or (modes, N, N) complex array
        Normalised as :func:`~ptycho_torch.physics.units.normalise_probe` does.
    intensity_scale : float
        From normalised amplitudes to sqrt(counts).
    params : mapping, optional
        Kept with the model and written into its bundle.

    Returns
    -------
    autoencoder : Autoencoder
    diffraction_to_obj : DiffractionToObject
        Sharing its weights.

    Examples
    --------
    >>> config = ModelConfig(N=32, unrolled_width=4, unrolled_iterations=1)
    >>> autoencoder, to_object = build_pair(config, default_probe(32), 2.0)
    >>> autoencoder.core is to_object.core, round(to_object.intensity_scale, 3)
    (True, 2.0)
    """
    core = Reconstructor(config, probe, intensity_scale)
    return Autoencoder(core, params), DiffractionToObject(core, params)


def create_torch_model_with_gridsize(
    gridsize: int, N: int, params: Mapping[str, Any] | None = None
) -> tuple[Autoencoder, DiffractionToObject]:
    """Build the architecture that ``params`` describe, without trained weights.

    Parameters
    ----------
    gridsize, N : int
        Edge of a group in frames, and of a frame in pixels.
    params : mapping, optional
        Flat snapshot of a bundle; its ``probe`` (N, N), (N, N, 1) or (modes, N, N) and its ``intensity_scale`` are
        used where present.

    Returns
    -------
    autoencoder : Autoencoder
    diffraction_to_obj : DiffractionToObject

    Raises
    ------
    ConfigError
        For a value of the wrong type or out of range.

    Examples
    --------
    >>> create_torch_model_with_gridsize(2, 32)[1].config.gridsize
    2
    """
    params = dict(params or {})
    config = model_config_from_legacy({**params, "gridsize": gridsize, "N": N})
    probe = params.get("probe")
    if probe is None:
        probe = default_probe(N, config.probe_modes or 1)
    probe = np.asarray(probe)
    if probe.shape == (N, N, 1):
        probe = probe[..., 0]
    if probe.ndim == 2:
        probe = probe[None]
    scale = params.get("intensity_scale")
    return build_pair(config, probe, 1.0 if scale is None else float(scale), params)
