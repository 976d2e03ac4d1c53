"""Where it is computed."""

from __future__ import annotations

import pytest
import torch

from ptycho_torch.device import device_of
from ptycho_torch.errors import ConfigError


@pytest.mark.parametrize(
    ("accelerator", "gpu", "device"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("CPU", True, "cpu"), ("gpu", True, "cuda")],
)
def test_a_gpu_is_taken_where_it_is_there_and_wanted(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, gpu: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert device_of(accelerator) == device


@pytest.mark.parametrize(("accelerator", "match"), [("gpu", "finds no GPU"), ("tpu", "'tpu'")])
def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, accelerator: str, match: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=match):
        device_of(accelerator)
