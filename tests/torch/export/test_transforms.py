"""Fourier transforms as an exported file has them: what torch computes, and rounded hardly more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ptycho_torch.export.lowering import lower
from ptycho_torch.export.onnxwriter import Writer

runtime = pytest.importorskip("onnxruntime")


class Transform(torch.nn.Module):
    def __init__(self, inverse: bool, norm: str | None) -> None:
        super().__init__()
        self.transform, self.norm = (torch.fft.ifft2 if inverse else torch.fft.fft2), norm

    def forward(self, re: Tensor, im: Tensor) -> Tensor:
        return torch.view_as_real(self.transform(torch.complex(re, im), norm=self.norm))


def transformed(module: Transform, x: Tensor) -> np.ndarray:
    """The transform of (..., 2) ``x``, lowered and run by onnxruntime."""
    parts = x[..., 0].contiguous(), x[..., 1].contiguous()
    program = torch.export.export(module, parts, strict=False)
    writer, values = Writer(), {}
    for spec, name in zip(program.graph_signature.input_specs, ("re", "im"), strict=True):
        values[spec.arg.name] = writer.input(name)
    writer.output("out", lower(program.graph, values, writer)[0])
    shape: list[Any] = list(parts[0].shape)
    inputs = [(name, torch.float32, shape) for name in ("re", "im")]
    model = writer.model(inputs, [("out", torch.float32, [*shape, 2])], {})
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"re": parts[0].numpy(), "im": parts[1].numpy()})[0]
    return found[..., 0] + 1j * found[..., 1]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 2, 34, 34), (2, 12, 18), (9, 15), (1, 1)])
@pytest.mark.parametrize("norm", [None, "ortho"])
def test_a_transform_is_that_of_numpy(inverse: bool, shape: tuple[int, ...], norm: str | None) -> None:
    x = torch.randn(*shape, 2, generator=torch.Generator().manual_seed(0))
    exact = (np.fft.ifft2 if inverse else np.fft.fft2)(torch.view_as_complex(x.double()).numpy(), norm=norm)
    found = transformed(Transform(inverse, norm), x)
    assert np.abs(found - exact).max() <= 2e-6 * np.abs(exact).max()


@pytest.mark.parametrize("size", [64, 128])
def test_rounding_is_nearly_that_of_an_fft(size: int) -> None:
    x = torch.randn(20, size, size, 2, generator=torch.Generator().manual_seed(1))
    exact = np.fft.fft2(torch.view_as_complex(x.double()).numpy())
    own = np.abs(torch.fft.fft2(torch.view_as_complex(x)).numpy() - exact)
    found = np.abs(transformed(Transform(False, None), x) - exact)
    assert np.sqrt(np.square(found).mean()) <= 2 * np.sqrt(np.square(own).mean())  # one product for all: 2.4
