"""An ONNX graph while it is written: values, nodes, and constants, each stored once.

A complex tensor is a :class:`Pair` of real ones, since ONNX runtimes have no complex type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.errors import DependencyError

__all__ = ["OPSET", "Pair", "Windows", "Writer", "need_onnx"]

OPSET = 18
"""Version of the operators: the first with ``ScatterND(reduction="add")`` and reductions whose axes are inputs."""


class Pair(NamedTuple):
    """Real and imaginary part of a complex tensor: names of two real values of one shape."""

    re: str
    im: str


@dataclass(frozen=True)
class Windows:
    """All windows of an image, as ``unfold`` gives them; ONNX would store each, so they stay a promise.

    Attributes
    ----------
    image : str or Pair
        (B, H, W) or (H, W).
    shape : tuple of int
        Of the image.
    size : int
        Edge of a window.
    axes : int
        How many of the image's axes are unfolded so far.
    """

    image: str | Pair
    shape: tuple[Any, ...]
    size: int
    axes: int


def need_onnx() -> Any:
    """Return the package ``onnx``; raises :class:`~ptycho_torch.errors.DependencyError` without it."""
    try:
        import onnx
    except ImportError as error:
        raise DependencyError(
            f"export to ONNX needs onnx and onnxruntime ({error}): pip install 'ptychopinn[onnx]'"
        ) from error
    return onnx


class Writer:
    """Nodes in the order in which they are computed, and the constants that they use."""

    def __init__(self) -> None:
        self.onnx = need_onnx()
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0
        self._made: set[str] = set()

    def name(self) -> str:
        """Return a name that nothing has yet."""
        self._count += 1
        self._made.add(f"v{self._count}")
        return f"v{self._count}"

    def holds(self, value: Any) -> bool:
        """Return whether a value is computed when the graph runs: a name, a pair of them, or windows."""
        return isinstance(value, Pair | Windows) or (isinstance(value, str) and (value in self._made))

    def input(self, name: str) -> str:
        """Make a value known as an input of the model; its name is the value's."""
        self._made.add(name)
        return name

    def output(self, name: str, value: str) -> str:
        """Give a value the name of an output."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))
        return name

    def constant(self, value: Tensor | NDArray[Any] | float | Sequence[int], dtype: Any = None) -> str:
        """Return the name of a constant; the same value gets the same name."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value, dtype)
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.name()
            self.constants.append(self.onnx.numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def ints(self, values: Sequence[int]) -> str:
        """Return the name of a constant (n,) int64 tensor."""
        return self.constant(list(values), np.int64)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node and return the name of its output, or a list of names."""
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def both(self, kind: str, value: str | Pair, *inputs: str, **attributes: Any) -> Any:
        """Add a node that treats both parts of a complex value alike."""
        if isinstance(value, Pair):
            return Pair(*(self.op(kind, part, *inputs, **attributes) for part in value))
        return self.op(kind, value, *inputs, **attributes)

    def model(
        self,
        inputs: Sequence[tuple[str, torch.dtype, Sequence[int | str]]],
        outputs: Sequence[tuple[str, torch.dtype, Sequence[int | str]]],
        defaults: Mapping[str, Tensor],
    ) -> Any:
        """Return the finished model, checked.

        Parameters
        ----------
        inputs, outputs : sequence of (name, type, shape)
            A name in a shape is a size that callers choose.
        defaults : dict
            Values of inputs that callers may leave out.
        """
        helper = self.onnx.helper
        infos = [
            [helper.make_tensor_value_info(name, _TYPES[kind], list(shape)) for name, kind, shape in part]
            for part in (inputs, outputs)
        ]
        used = {name for node in self.nodes for name in node.input}
        kept = [constant for constant in self.constants if constant.name in used]
        kept += [self.onnx.numpy_helper.from_array(v.numpy(), name) for name, v in defaults.items()]
        graph = helper.make_graph(self.nodes, "ptychopinn", *infos, initializer=kept)
        made = helper.make_model(
            graph, producer_name="ptychopinn", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9
        )
        self.onnx.checker.check_model(made)
        return made


_TYPES = {torch.float32: 1, torch.int64: 7, torch.bool: 9}
"""ONNX's numbers for the types of inputs and outputs."""
