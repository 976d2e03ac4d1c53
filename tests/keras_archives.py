"""Small archives as the TensorFlow program writes them, made with h5py and json, and what that program computes.

``Program`` is an independent reading of that program's function: layers by their creation number,
channels last, float64, translations through scipy.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy import ndimage

__all__ = ["Program", "keras_file", "pack", "write_archive"]

_ENCODER = {64: (32, 64, 128), 128: (16, 32, 64, 128), 256: (8, 16, 32, 64, 128)}
_DECODER = {64: (64, 32), 128: (128, 64, 32), 256: (256, 128, 64, 32)}


def _keras(name: str, output: int = 0) -> dict[str, Any]:
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": [], "dtype": "float32", "keras_history": [name, 0, output]},
    }


@dataclass
class Program:
    """One configuration of the program with random weights: ``kernels[name] = (kernel, bias)``, HWIO."""

    N: int = 64
    gridsize: int = 1
    scale: int = 1
    amp: str = "sigmoid"
    object_big: bool = True
    probe_big: bool = True
    pad_object: bool = True
    probe_mask: bool = False
    sigma: float = 0.0
    offset: int = 4
    jitter: int = 10
    intensity_scale: float = 12.5
    first: int = 0
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.layers: list[dict[str, Any]] = []
        self.kernels: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.number = self.first
        axis = np.arange(self.N) - self.N / 2
        bump = np.exp(-(axis[:, None] ** 2 + (axis[None, :] - 2) ** 2) / (2 * (self.N / 7) ** 2))
        self.probe = (bump * np.exp(0.02j * axis[:, None]) * 2).astype(np.complex64)[..., None]
        self._describe()

    # ---- what the files hold

    def params(self) -> dict[str, Any]:
        return {
            "N": self.N, "gridsize": self.gridsize, "n_filters_scale": self.scale, "amp_activation": self.amp,
            "object.big": self.object_big, "probe.big": self.probe_big, "pad_object": self.pad_object,
            "probe.mask": self.probe_mask, "gaussian_smoothing_sigma": self.sigma, "offset": self.offset,
            "max_position_jitter": self.jitter, "model_type": "pinn", "probe": self.probe, "nphotons": 1e9,
            "intensity_scale": self.intensity_scale, "intensity_scale.trainable": True, "probe.trainable": False,
            "architecture": "cnn", "h5_path": "wts.h5", "probe_scale": 4.0, "_version": "1.0", **self.extra,
        }  # fmt: skip

    def add(
        self, kind: str, name: str, inputs: list[Any], registered: str | None = None, /, **config: Any
    ) -> str:
        module = "keras.layers" if registered is None else "ptycho.custom_layers"
        self.layers.append(
            {
                "module": module,
                "class_name": kind,
                "config": {"name": name, **config},
                "registered_name": registered,
                "name": name,
                "inbound_nodes": [{"args": inputs, "kwargs": {}}] if inputs else [],
            }
        )
        return name

    def own(self, kind: str, name: str, inputs: list[Any], /, **config: Any) -> str:
        return self.add(kind, name, inputs, f"ptycho>{kind}", **config)

    def _take(self) -> int:
        self.number += 1
        return self.number - 1

    def conv(self, before: str, inputs: int, filters: int, activation: str, number: int | None = None) -> str:
        number = self._take() if number is None else number
        name = f"conv2d_{number}" if number else "conv2d"
        size = math.sqrt(2 / (9 * inputs))
        kernel = self.rng.normal(0, size, (3, 3, inputs, filters)).astype(np.float32)
        self.kernels[name] = kernel, self.rng.normal(0, 0.1, filters).astype(np.float32)
        return self.add(
            "Conv2D", name, [_keras(before)], filters=filters, kernel_size=[3, 3], strides=[1, 1], padding="same",
            data_format="channels_last", dilation_rate=[1, 1], groups=1, activation=activation, use_bias=True,
            dtype={"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}},
        )  # fmt: skip

    def up(self, before: str, inputs: int, filters: int) -> str:
        x = self.conv(self.conv(before, inputs, filters, "relu"), filters, filters, "relu")
        return self.add(
            "UpSampling2D",
            f"up_{x}",
            [_keras(x)],
            size=[2, 2],
            interpolation="nearest",
            data_format="channels_last",
        )

    def part(self, before: str, start: int | None, stop: int | None, name: str) -> str:
        cut = {"class_name": "__slice__", "config": {"start": start, "stop": stop, "step": None}}
        return self.add(
            "GetItem", name, [_keras(before), [{"class_name": "__ellipsis__", "config": {}}, cut]], "GetItem"
        )

    def _describe(self) -> None:
        N, C, s = self.N, self.gridsize**2, self.scale
        self.add("InputLayer", "input", [], batch_shape=[None, N, N, C], dtype="float32")
        x, before = self.own("IntensityScaler", "intensity_scaler", [[_keras("input")]]), C
        for filters in _ENCODER[N]:
            x = self.conv(self.conv(x, before, s * filters, "relu"), s * filters, s * filters, "relu")
            x = self.add(
                "MaxPooling2D",
                f"pool_{x}",
                [_keras(x)],
                pool_size=[2, 2],
                strides=[2, 2],
                padding="same",
                data_format="channels_last",
            )
            before = s * filters
        ends = [self._head(x, before, name) for name in ("amp", "phase")]
        self.own("CombineComplexLayer", "obj", [[_keras(e) for e in ends]], use_polar=True)
        self.add("InputLayer", "input_positions", [], batch_shape=[None, 1, 2, C], dtype="float32")
        P = N + (self.gridsize - 1) * self.offset + self.jitter
        if self.object_big:
            both = [[_keras("obj"), _keras("input_positions")]]
            self.own(
                "ReassemblePatchesLayer", "padded_obj_2", both, padded_size=P, N=N, gridsize=self.gridsize
            )
        else:
            self.own("PadReconstructionLayer", "padded_obj_2", [_keras("obj")])
        self.own("TrimReconstructionLayer", "trimmed_obj", [_keras("padded_obj_2")], output_size=N)
        self.inference = list(self.layers)
        both = [[_keras("padded_obj_2"), _keras("input_positions")]]
        self.own(
            "ExtractPatchesPositionLayer",
            "padded_objs_with_offsets",
            both,
            jitter=0.0,
            N=N,
            gridsize=self.gridsize,
        )
        self.own("ProbeIllumination", "probe_illumination", [[_keras("padded_objs_with_offsets")]], N=N)
        self.own(
            "PadAndDiffractLayer", "pred_amplitude", [[_keras("probe_illumination")]], h=N, w=N, pad=False
        )
        self.own(
            "FlatToChannelLayer",
            "pred_diff_channels",
            [_keras("pred_amplitude", 1)],
            N=N,
            gridsize=self.gridsize,
        )
        self.own("IntensityScaler_inv", "intensity_scaler_inv", [[_keras("pred_diff_channels")]])
        self.own("SquareLayer", "pred_intensity", [_keras("intensity_scaler_inv")])

    def _head(self, x: str, before: int, name: str) -> str:
        N, s = self.N, self.scale
        F, last = self.gridsize**2 if self.object_big else 1, s * (2048 // N)
        conv1, conv2 = self._take(), self._take()
        for filters in _DECODER[N]:
            x, before = self.up(x, before, s * filters), s * filters
        act = (
            {"activation_name": self.amp, "scale": 1.0}
            if name == "amp"
            else {"activation_name": "tanh", "scale": math.pi}
        )
        layer = "amp" if name == "amp" else "phi"
        if not self.pad_object:
            end = self.conv(self.up(x, before, last), last, F, "linear", conv2)
            return self.own("ActivationLayer", layer, [_keras(end)], **act)
        inner = self.conv(self.part(x, None, -4, f"inner_{name}"), before - 4, F, "linear", conv1)
        q = [[N // 4, N // 4]] * 2
        padded = self.add(
            "ZeroPadding2D",
            f"{name}_padded",
            [_keras(self.own("ActivationLayer", layer, [_keras(inner)], **act))],
            padding=q,
            data_format="channels_last",
        )
        if not self.probe_big:
            return padded
        outer = self.conv(self.up(self.part(x, -4, None, f"outer_{name}"), 4, last), last, F, "linear", conv2)
        silu = self.add("Silu", f"silu_{name}", [_keras(outer)], "Silu")
        mask = self.add(
            "CenterMaskLayer", f"mask_{name}", [_keras(silu)], "CenterMaskLayer", N=N, c=1, kind="border"
        )
        product = self.add("Multiply", f"multiply_{name}", [_keras(silu), _keras(mask)], "Multiply")
        return self.add("Add", f"add_{name}", [_keras(padded), _keras(product)], "Add")

    def description(self, model: str) -> dict[str, Any]:
        both = model == "autoencoder"
        outputs = ["trimmed_obj", "intensity_scaler_inv", "pred_intensity"] if both else ["trimmed_obj"]
        return {
            "module": "keras.src.models.functional", "class_name": "Functional", "registered_name": "Functional",
            "config": {
                "name": "functional", "trainable": True, "layers": self.layers if both else self.inference,
                "input_layers": [["input", 0, 0], ["input_positions", 0, 0]],
                "output_layers": [[name, 0, 0] for name in outputs],
            },
        }  # fmt: skip

    # ---- what the program computes, one group at a time (its result when the batch holds that group alone)

    def _conv(self, number: int, x: np.ndarray) -> np.ndarray:
        """Cross-correlation with zeros around, as one product of matrices: (H W, 9 C) by (9 C, F)."""
        kernel, bias = self.kernels[f"conv2d_{number}" if number else "conv2d"]
        rows, columns, _ = kernel.shape[:3]
        around = np.pad(x, [(rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(around, (rows, columns), axis=(0, 1))
        flat = windows.transpose(0, 1, 3, 4, 2).reshape(x.shape[0] * x.shape[1], -1)
        weights = kernel.astype(np.float64).reshape(-1, kernel.shape[3])
        return (flat @ weights + bias).reshape(*x.shape[:2], -1)

    def _network(self, x: np.ndarray) -> np.ndarray:
        N, C, n = self.N, self.gridsize**2, self.first
        relu = lambda v: np.maximum(v, 0)  # noqa: E731
        silu = lambda v: v / (1 + np.exp(-v))  # noqa: E731
        double = lambda v: v.repeat(2, 0).repeat(2, 1)  # noqa: E731
        amp = {
            "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
            "swish": silu,
            "softplus": lambda v: np.log1p(np.exp(v)),
            "relu": relu,
        }[self.amp]
        for _ in _ENCODER[N]:
            x = relu(self._conv(n + 1, relu(self._conv(n, x))))
            x = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max((1, 3))
            n += 2
        border = np.ones((N, N, 1))
        border[N // 4 : -N // 4, N // 4 : -N // 4] = 0
        heads = []
        for act in (amp, lambda v: np.pi * np.tanh(v)):
            conv1, conv2, n = n, n + 1, n + 2
            y = x
            for _ in _DECODER[N]:
                y, n = double(relu(self._conv(n + 1, relu(self._conv(n, y))))), n + 2
            full = None
            if self.probe_big or not self.pad_object:
                z = y[..., -4:] if self.pad_object else y
                full, n = self._conv(conv2, double(relu(self._conv(n + 1, relu(self._conv(n, z)))))), n + 2
            if not self.pad_object:
                heads.append(act(full))
                continue
            head = np.pad(act(self._conv(conv1, y[..., :-4])), [(N // 4, N // 4)] * 2 + [(0, 0)])
            heads.append(head if full is None else head + silu(full) * border)
        assert heads[0].shape == (N, N, C if self.object_big else 1)
        return heads[0] * np.exp(1j * heads[1])

    def group(self, frames: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``frames`` (N, N, C) scaled, ``positions`` (1, 2, C): object (N, N, 1), amplitude (N, N, C)."""
        N, C = self.N, self.gridsize**2
        q = (self.N + (self.gridsize - 1) * self.offset + self.jitter - self.N) // 2
        obj = self._network(frames.astype(np.float64) / self.intensity_scale)
        pad = lambda v: np.pad(v, q)  # noqa: E731
        if self.object_big:
            centre = np.zeros((N, N))
            centre[N // 4 : -N // 4, N // 4 : -N // 4] = 1
            off = positions[0] - positions[0].mean(-1, keepdims=True)
            num = sum(_moved(pad(obj[..., c]), -off[:, c]) for c in range(C))
            canvas = num / (sum(_moved(pad(centre), -off[:, c]) for c in range(C)) + 0.001)
        else:
            canvas = pad(obj[..., 0])
        window = slice(q, q + N)
        amplitude = np.empty((N, N, C))
        axis = np.arange(N) - N // 2 + 0.5
        disk = np.hypot(axis[:, None], axis[None, :]) < N // 4
        for c in range(C):
            wave = _moved(canvas, positions[0, :, c])[window, window] * self.probe[..., 0]
            if self.sigma:
                line = np.exp(-(np.arange(-1, 2) ** 2) / (2 * self.sigma**2))
                line /= line.sum()
                wave = ndimage.convolve(wave, np.outer(line, line), mode="mirror")
            wave = wave * disk if self.probe_mask else wave
            amplitude[..., c] = np.abs(np.fft.fftshift(np.fft.fft2(wave))) / N
        return canvas[window, window, None], amplitude * self.intensity_scale


def _moved(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """out(x, y) = image(x - shift[0], y - shift[1]), bilinear, zero outside."""
    by = (shift[1], shift[0])
    return ndimage.shift(image, by, order=1, mode="grid-constant", prefilter=False)


# ---------------------------------------------------------------- files


def weights_file(program: Program, optimizer: int = 0, attribute: bool = True) -> bytes:
    """``model.weights.h5`` as Keras lays it out."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        for counter, (name, arrays) in enumerate(program.kernels.items()):
            group = file.create_group(f"layers/conv2d_{counter}/vars" if counter else "layers/conv2d/vars")
            if attribute:
                group.attrs["name"] = name
            for i, array in enumerate(arrays):
                group.create_dataset(str(i), data=array)
        file.create_group("layers/input_layer/vars").attrs["name"] = "input"
        if optimizer:
            group = file.create_group("optimizer/vars")
            group.create_dataset("0", data=np.int64(3))
            for i in range(1, optimizer):
                group.create_dataset(str(i), data=np.zeros(4, np.float32))
        file.create_group("vars").attrs["name"] = "functional"
    return memory.getvalue()


def pack(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of ``members`` in memory."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return memory.getvalue()


def keras_file(description: dict[str, Any], weights: bytes) -> bytes:
    """A ``model.keras``."""
    metadata = {"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}
    return pack(
        {
            "metadata.json": json.dumps(metadata).encode(),
            "config.json": json.dumps(description).encode(),
            "model.weights.h5": weights,
        }
    )


def write_archive(path: Path, program: Program, **members: bytes) -> Path:
    """``path`` as an archive of that program; ``members`` replace, ``__`` in their names stands for ``/``."""
    weights = weights_file(program)
    content = {
        "manifest.dill": pickle.dumps({"models": ["autoencoder", "diffraction_to_obj"], "version": "1.0"}, 4)
    }
    for model, slots in (("autoencoder", 90), ("diffraction_to_obj", 0)):
        with_slots = weights_file(program, slots) if slots else weights
        content[f"{model}/model.keras"] = keras_file(program.description(model), with_slots)
        content[f"{model}/model.h5"] = b""
        content[f"{model}/params.dill"] = pickle.dumps(program.params(), 4)
        content[f"{model}/custom_objects.dill"] = b"never opened"
    content |= {name.replace("__", "/"): data for name, data in members.items()}
    path.write_bytes(pack(content, zipfile.ZIP_DEFLATED))
    return path
