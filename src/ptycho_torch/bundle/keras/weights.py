"""A ``model.keras`` file as plain data: its description (JSON) and its arrays (HDF5).

Keras is never imported, and nothing in the file names anything that is looked up. HDF5 can point
outside the file in several ways and can claim any size; what is accepted here is what Keras writes:
groups with hard links only, contiguous little-endian float32 data inside the file, no filters, no
virtual or external storage, each object under one name. Everything is checked before it is read.
Imports neither torch nor Keras.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.bundle.container import limits
from ptycho_torch.bundle.container.jsontext import parse_json
from ptycho_torch.bundle.container.zipreader import MemorySource, ZipReader
from ptycho_torch.errors import BundleError, brief, printable
from ptycho_torch.files.memory import MemoryBudget

__all__ = ["KerasFile", "read_keras"]

Fail = Callable[[str], BundleError]

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MAX_JSON: Final = 16 << 20
_MAX_OBJECTS: Final = 20_000
_MAX_DEPTH: Final = 8
_MAX_RANK: Final = 4
_MAX_NAME: Final = 256
_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class KerasFile:
    """What a ``model.keras`` holds.

    ``config``: the model's description; ``arrays``: layer name -> its arrays, float32 and finite, in the
    program's axis order (kernels are height, width, inputs, outputs); ``optimizer_arrays``: how
    many arrays of optimiser state there are (they are not read).
    """

    config: dict[str, Any]
    keras_version: str
    date_saved: str
    arrays: dict[str, list[NDArray[np.float32]]]
    optimizer_arrays: int


def read_keras(data: bytes | bytearray, fail: Fail, budget: MemoryBudget | None = None) -> KerasFile:
    """Reads the bytes of a ``model.keras``. Raises what ``fail`` makes for anything but plain weights.

    What is unpacked and read is taken from ``budget``, by default one of the data's own size: the file
    may itself have been unpacked from another.
    """
    budget = budget or limits.budget_of(len(data), fail)
    reader = ZipReader(
        MemorySource(data),
        lambda member, reason: fail(f"{printable(member)}: {reason}" if member else reason),
        lambda name: limits.MAX_WEIGHTS_BYTES if name == _WEIGHTS else _MAX_JSON,
        budget,
    )
    for name in (_CONFIG, _METADATA, _WEIGHTS):
        if name not in reader.entries:
            raise fail(f"{name} is missing inside; not a model as Keras 3 saves it")
    config = _json(reader.read(_CONFIG), _CONFIG, fail, budget)
    metadata = _json(reader.read(_METADATA), _METADATA, fail, budget)
    view = reader.view(_WEIGHTS)
    size = reader.entries[_WEIGHTS].size
    budget.take(2 * size, _WEIGHTS)  # the image, which is a copy, and the arrays
    image = bytes(reader.read(_WEIGHTS) if view is None else view)
    arrays, optimizer = _arrays(image, _counted_names(config), lambda reason: fail(f"{_WEIGHTS}: {reason}"))
    budget.give_back(size if view is not None else 2 * size)
    version, date = (printable(metadata.get(key, "unknown"), 40) for key in ("keras_version", "date_saved"))
    return KerasFile(config, version, date, arrays, optimizer)


# ---------------------------------------------------------------- JSON


def _json(data: bytearray, name: str, fail: Fail, budget: MemoryBudget) -> dict[str, Any]:
    try:
        found = parse_json(data, budget)
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:
        raise fail(f"{name}: not valid JSON ({printable(error, 80)})") from None
    if not isinstance(found, dict):
        raise fail(f"{name}: expected an object, found {type(found).__name__}")
    return found


# ---------------------------------------------------------------- HDF5


def _counted_names(config: dict[str, Any]) -> dict[str, str]:
    """Group in the HDF5 file -> layer, by Keras's rule: the class in lower case and a counter in layer order."""
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else None
    found: dict[str, str] = {}
    for layer in layers if isinstance(layers, list) else []:
        if (
            isinstance(layer, dict)
            and layer.get("class_name") == "Conv2D"
            and isinstance(layer.get("name"), str)
        ):
            found[f"conv2d_{len(found)}" if found else "conv2d"] = layer["name"]
    return found


def _arrays(
    image: bytes, counted: dict[str, str], fail: Fail
) -> tuple[dict[str, list[NDArray[np.float32]]], int]:
    """Arrays by layer name, and the number of arrays of optimiser state."""
    import h5py

    if image[:8] != _SIGNATURE:
        raise fail(f"not an HDF5 file (begins with {brief(image[:8], 200)})")
    try:
        # The image is a copy in memory: the library gets no file, and no name of one.
        handle = h5py.h5f.open_file_image(image)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise fail(f"not readable as HDF5 ({printable(error, 120)})") from None
    with h5py.File(handle) as file:
        try:
            if handle.get_create_plist().get_userblock():
                raise fail("has a user block; Keras writes none")
            found = dict(_Walk(file, len(image), fail).objects())
            return _by_layer(found, counted, fail), sum(path.startswith("optimizer/") for path in found)
        except BundleError:
            raise
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, MemoryError) as error:
            raise fail(f"damaged HDF5 ({type(error).__name__}: {printable(error, 120)})") from None


@dataclass(frozen=True)
class _Array:
    """One dataset that has been checked; read only if it belongs to a layer."""

    dataset: Any
    group: Any
    fail: Fail

    def read(self, path: str) -> NDArray[np.float32]:
        import h5py

        out = np.empty(self.dataset.shape, np.dtype("<f4"))
        self.dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, out)
        if not np.isfinite(out).all():
            raise self.fail(f"{printable(path)}: holds values that are not finite")
        return out


class _Walk:
    """All datasets of a file by path, each link and each object checked before it is opened or used."""

    def __init__(self, file: Any, size: int, fail: Fail) -> None:
        self.file, self.size, self.fail = file, size, fail
        self.seen: set[int] = set()

    def objects(self) -> Iterator[tuple[str, _Array]]:
        self._once(self.file.id, "/")
        yield from self._group(self.file.id, "", 0)

    def _once(self, identifier: Any, path: str) -> None:
        """Hard links can form loops, and can give one object many names; a tree has neither."""
        import h5py

        address = h5py.h5o.get_info(identifier).addr
        if address in self.seen:
            raise self.fail(f"{printable(path)}: a second name for an object that has one already")
        self.seen.add(address)
        if len(self.seen) > _MAX_OBJECTS:
            raise self.fail(f"more than {_MAX_OBJECTS} objects")

    def _group(self, group: Any, prefix: str, depth: int) -> Iterator[tuple[str, _Array]]:
        import h5py

        if depth > _MAX_DEPTH:
            raise self.fail(f"{printable(prefix)}: groups nested deeper than {_MAX_DEPTH}")
        if group.get_num_objs() > _MAX_OBJECTS:
            raise self.fail(f"{printable(prefix) or '/'}: more than {_MAX_OBJECTS} entries")
        for raw in [group.get_objname_by_idx(index) for index in range(group.get_num_objs())]:
            path = prefix + raw.decode("utf-8", "backslashreplace")
            kind = group.links.get_info(raw).type
            if kind != h5py.h5l.TYPE_HARD:
                named = {h5py.h5l.TYPE_SOFT: "soft", h5py.h5l.TYPE_EXTERNAL: "external"}.get(
                    kind, "user-defined"
                )
                raise self.fail(f"{printable(path)}: {named} link; only hard links are followed")
            opened = h5py.h5o.open(group, raw)
            self._once(opened, path)
            if isinstance(opened, h5py.h5g.GroupID):
                yield from self._group(opened, path + "/", depth + 1)
            elif isinstance(opened, h5py.h5d.DatasetID):
                self._check(opened, path)
                yield path, _Array(opened, group, self.fail)
            else:
                raise self.fail(f"{printable(path)}: neither a group nor an array")

    def _check(self, dataset: Any, path: str) -> None:
        import h5py

        shown = printable(path)
        plist = (
            dataset.get_create_plist()
        )  # before the shape: asking a virtual dataset for it opens its sources
        layout = plist.get_layout()
        if layout == h5py.h5d.VIRTUAL:
            raise self.fail(f"{shown}: virtual dataset; its data lies in other files")
        if plist.get_external_count():
            raise self.fail(f"{shown}: external storage; its data lies in another file")
        if plist.get_nfilters():
            raise self.fail(f"{shown}: stored through a filter; Keras writes plain data")
        if layout != h5py.h5d.CONTIGUOUS:
            raise self.fail(f"{shown}: not stored in one piece; Keras writes contiguous data")
        space = dataset.get_space()
        if not space.is_simple() or space.get_simple_extent_ndims() > _MAX_RANK:
            raise self.fail(f"{shown}: not a plain array of at most {_MAX_RANK} axes")
        shape = space.get_simple_extent_dims()
        if shape != space.get_simple_extent_dims(True):
            raise self.fail(f"{shown}: an array that can grow; Keras writes fixed shapes")
        if not path.startswith("layers/") and not path.startswith("optimizer/"):
            raise self.fail(f"{shown}: array outside layers and optimizer")
        item = 4
        if path.startswith("layers/") and not dataset.get_type().equal(h5py.h5t.IEEE_F32LE):
            raise self.fail(f"{shown}: expected float32, found {printable(dataset.dtype, 40)}")
        if path.startswith("optimizer/"):
            item = dataset.get_type().get_size()
        expected, stored, offset = math.prod(shape) * item, dataset.get_storage_size(), dataset.get_offset()
        if expected != stored or not expected:
            raise self.fail(f"{shown}: shape {shape} needs {expected} bytes, {stored} are stored")
        if offset is None or offset < 0 or offset + stored > self.size:
            raise self.fail(f"{shown}: its data lies outside the file; the file is cut off or damaged")


def _by_layer(
    found: dict[str, _Array], counted: dict[str, str], fail: Fail
) -> dict[str, list[NDArray[np.float32]]]:
    """``layers/<group>/vars/<k>`` under the layer's name, which the group's own name is not."""
    groups: dict[str, dict[int, tuple[str, _Array]]] = {}
    for path, array in found.items():
        parts = path.split("/")
        if parts[0] != "layers":
            continue
        if len(parts) != 4 or parts[2] != "vars" or not parts[3].isascii() or not parts[3].isdigit():
            raise fail(f"{printable(path)}: expected layers/<layer>/vars/<number>")
        groups.setdefault(parts[1], {})[int(parts[3])] = path, array
    out: dict[str, list[NDArray[np.float32]]] = {}
    for group, arrays in groups.items():
        if sorted(arrays) != list(range(len(arrays))):
            raise fail(f"layers/{printable(group)}/vars: expected arrays 0 to {len(arrays) - 1}")
        name = _layer_name(arrays[0][1].group, group, counted, fail)
        if name in out:
            raise fail(f"layers/{printable(group)}: a second layer with the name {printable(name)}")
        out[name] = [arrays[i][1].read(arrays[i][0]) for i in range(len(arrays))]
    return out


def _layer_name(group: Any, folder: str, counted: dict[str, str], fail: Fail) -> str:
    """The attribute ``name`` of a ``vars`` group; where it is missing, what counting gives."""
    import h5py

    shown = f"layers/{printable(folder)}/vars"
    if not h5py.h5a.exists(group, b"name"):
        if folder not in counted:
            raise fail(f"{shown}: has no attribute 'name'; which layer it belongs to cannot be known")
        return counted[folder]
    attribute = h5py.h5a.open(group, b"name")
    kind = attribute.get_type()
    if attribute.shape != () or not isinstance(kind, h5py.h5t.TypeStringID) or kind.get_size() > _MAX_NAME:
        raise fail(f"{shown}: attribute 'name' is not a text")
    name = h5py.Group(group).attrs["name"]
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
    if not isinstance(text, str) or not 0 < len(text) <= _MAX_NAME:
        raise fail(f"{shown}: attribute 'name' is not a layer's name")
    return text
