"""Reads pickled data without running it.

A pickle is a program for a small stack machine. This is that machine with the dangerous half left
out: no attribute lookups, no imports, no instances, no classes. What remains are the instructions
that protocols 2 to 5 use for plain data, plus calls to a closed table of our own functions
(:mod:`ptycho_torch.bundle.pickles.values`). One decoder serves the ``.dill`` members and the pickle inside
``model.pth``. The page docs/bundle-format.md lists what is accepted and why. Imports no torch.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from ptycho_torch.bundle.container import limits
from ptycho_torch.bundle.pickles.values import DILL_TABLE, ArrayRef, DictRef, DtypeRef, Name, RefusedError
from ptycho_torch.errors import BundleError, brief, printable
from ptycho_torch.files.memory import MemoryBudget

__all__ = ["decode"]

_BLOCK = 256  # instructions and values are counted in blocks of so many
_LEAVES = (int, float, str, bytes, bytearray, complex, PurePath, np.generic)


def decode(
    data: bytes | bytearray | memoryview,
    fail: Callable[[str], BundleError],
    *,
    budget: MemoryBudget | None = None,
    table: Mapping[tuple[str, str], Name] = DILL_TABLE,
    persistent: Callable[[Any], Any] | None = None,
    leaves: tuple[type, ...] = (),
) -> Any:
    """The plain data that the pickle ``data`` describes.

    Parameters: ``fail`` makes the error for a reason; ``budget`` is what the values are taken from
    (by default one of the data's own size); ``table`` the globals that may be named;
    ``persistent`` reads persistent ids (storages in a ``.pth``; None: refused); ``leaves`` more types
    that may stand in the result.

    Returns dicts (keys text, integers, booleans or None), lists, tuples, numbers, text, bytes, numpy
    arrays (read-only) and scalars, and pure paths. Shared parts are expanded. Everything else
    raises what ``fail`` makes.
    """
    budget = budget or limits.budget_of(len(data), fail)
    try:
        # Content is copied out of the data once, and once more where an array is made of it.
        budget.take(len(data))
        machine = _Machine(_whole(data), table, persistent, budget)
        return _Finish(leaves, budget).value(machine.run(), 0)
    except RefusedError as refused:
        raise fail(str(refused)) from None


def _whole(data: bytes | bytearray | memoryview) -> bytes | bytearray:
    return bytes(data) if isinstance(data, memoryview) else data


class _Machine:
    """The stack machine. Every read is checked against the end of the data before it is made."""

    def __init__(
        self,
        data: bytes | bytearray,
        table: Mapping[tuple[str, str], Name],
        persistent: Callable[[Any], Any] | None,
        budget: MemoryBudget,
    ) -> None:
        self.data, self.at = data, 0
        self.budget = budget
        self.view = memoryview(data)
        self.table, self.persistent = table, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    # ---- input

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise RefusedError("pickle ends in the middle of a value")
        part = bytes(self.view[self.at : self.at + count])
        self.at += count
        return part

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(value)

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + limits.MAX_TEXT_LINE)
        if end < 0:
            raise RefusedError("pickle names something in a line without end")
        raw = self.take(end - self.at)
        self.at += 1
        try:
            return raw.decode("ascii")
        except UnicodeDecodeError:
            raise RefusedError("pickle names something outside ASCII") from None

    def text(self, count: int) -> str:
        raw = self.take(count)
        if not raw.isascii():
            self.budget.take(4 * count)  # one character decides how wide all are
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise RefusedError("text is not valid UTF-8") from None

    # ---- stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise RefusedError("pickle takes more than it has put down")
        return self.stack.pop()

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise RefusedError("pickle takes more than it has put down")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise RefusedError("pickle closes a group that it has not opened")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    # ---- the program

    def run(self) -> Any:
        if self.take(1) != b"\x80":
            raise RefusedError("not a pickle of protocol 2 or later")
        if not 2 <= self.number("B") <= 5:
            raise RefusedError("pickle of an unknown protocol")
        for done in range(limits.MAX_OPCODES):
            if done % _BLOCK == 0:
                self.budget.take(_BLOCK * limits.OBJECT_BYTES)
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                break
            step = _STEPS.get(code)
            if step is None:
                raise RefusedError(f"pickle instruction 0x{code:02x} is not data")
            step(self)
        else:
            raise RefusedError(f"pickle of more than {limits.MAX_OPCODES} instructions")
        if self.at != len(self.data):
            raise RefusedError("bytes after the end of the pickle")
        if self.marks or len(self.stack) != 1:
            raise RefusedError("pickle does not leave exactly one value")
        return self.stack[0]

    def frame(self) -> None:
        if self.number("<Q") > len(self.data) - self.at:
            raise RefusedError("pickle frame is longer than the data")

    def long1(self) -> None:
        count = self.number("B")
        if count > limits.MAX_INT_BYTES:
            raise RefusedError(f"integer of more than {limits.MAX_INT_BYTES} bytes")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def put(self, index: int) -> None:
        if index >= limits.MAX_OPCODES:
            raise RefusedError("pickle memo index out of range")
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise RefusedError("pickle refers to a value that it has not made")
        self.push(self.memo[index])

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def append(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise RefusedError("pickle appends to something that is not a list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not DictRef or len(items) % 2:
            raise RefusedError("pickle sets items of something that is not a dictionary")
        target.pairs.extend(zip(items[::2], items[1::2], strict=True))

    def append_one(self) -> None:
        self.append([self.pop()])

    def set_one(self) -> None:
        value = self.pop()
        self.set_items([self.pop(), value])

    def named(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise RefusedError("pickle names something by a value that is not text")
        found = self.table.get((module, name))
        if found is None:
            raise RefusedError(f"names {printable(module, 80)}.{printable(name, 80)}, which is not data")
        self.push(found)

    def stack_global(self) -> None:
        name = self.pop()
        self.named(self.pop(), name)

    def reduce(self) -> None:
        args, function = self.pop(), self.pop()
        if not isinstance(function, Name) or function.call is None or type(args) is not tuple:
            raise RefusedError("pickle calls something that cannot be called")
        self.budget.take(_content(args))  # a memoised block can be copied by any number of calls
        try:
            self.push(function.call(*args))
        except TypeError:
            # Only a wrong number of arguments gets here: the functions check types themselves.
            raise RefusedError(f"{function.label} with unknown arguments") from None

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, ArrayRef | DtypeRef):
            self.budget.take(_content(state))
            target.set_state(state)
        elif type(target) is DictRef and target.ordered and target.state is None:
            target.state = state  # judged in the end: only a model.pth may carry one
        else:
            raise RefusedError("pickle sets the state of something that has none")

    def persid(self) -> None:
        if self.persistent is None:
            raise RefusedError("pickle refers to something outside itself")
        self.push(self.persistent(self.pop()))


def _content(value: Any, depth: int = 0) -> int:
    """Bytes of text and blocks among the arguments of a call, which may copy each of them once."""
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    # _create_array takes its state as a tuple inside the arguments; nothing lies deeper.
    return sum(_content(item, depth + 1) for item in value) if type(value) is tuple and depth < 2 else 0


_Step = Callable[[_Machine], None]
_STEPS: dict[int, _Step] = {
    0x95: _Machine.frame,
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.number("B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    0x8A: _Machine.long1,
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    0x8C: lambda m: m.push(m.text(m.number("B"))),
    ord("X"): lambda m: m.push(m.text(m.number("<I"))),
    ord("C"): lambda m: m.push(m.take(m.number("B"))),
    ord("B"): lambda m: m.push(m.take(m.number("<I"))),
    0x96: lambda m: m.push(bytearray(m.take(m.number("<Q")))),
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("t"): lambda m: m.push(tuple(m.pop_mark())),
    ord("]"): lambda m: m.push([]),
    ord("a"): _Machine.append_one,
    ord("e"): lambda m: m.append(m.pop_mark()),
    ord("}"): lambda m: m.push(DictRef()),
    ord("s"): _Machine.set_one,
    ord("u"): lambda m: m.set_items(m.pop_mark()),
    ord("q"): lambda m: m.put(m.number("B")),
    ord("r"): lambda m: m.put(m.number("<I")),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.get(m.number("B")),
    ord("j"): lambda m: m.get(m.number("<I")),
    ord("c"): lambda m: m.named(m.line(), m.line()),
    0x93: _Machine.stack_global,
    ord("R"): _Machine.reduce,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persid,
}


class _Finish:
    """Turns stand-ins into values, counting every value and the depth; shared parts count each time."""

    def __init__(self, leaves: tuple[type, ...], budget: MemoryBudget) -> None:
        self.leaves, self.budget = leaves, budget
        self.count = 0

    def value(self, found: Any, depth: int) -> Any:
        if self.count % _BLOCK == 0:
            self.budget.take(_BLOCK * limits.OBJECT_BYTES)
        self.count += 1
        if self.count > limits.MAX_VALUES:
            raise RefusedError(f"more than {limits.MAX_VALUES} values")
        kind = type(found)
        if found is None or kind is bool or isinstance(found, _LEAVES) or kind in self.leaves:
            return found
        if kind is ArrayRef:
            if found.value is None:
                raise RefusedError("array without content")
            return found.value
        if depth >= limits.MAX_DEPTH:
            raise RefusedError(f"more than {limits.MAX_DEPTH} values inside each other")
        if kind is list:
            return [self.value(item, depth + 1) for item in found]
        if kind is tuple:
            return tuple(self.value(item, depth + 1) for item in found)
        if kind is DictRef:
            return self.dictionary(found, depth)
        label = found.label if isinstance(found, Name) else kind.__name__
        raise RefusedError(f"{printable(label, 80)} stands where a value should")

    def dictionary(self, found: DictRef, depth: int) -> dict[Any, Any]:
        if found.state is not None and not self.leaves:
            raise RefusedError("dictionary with a state of its own")
        out: dict[Any, Any] = {}
        for key, item in found.pairs:
            # Text is hashed with a secret; integers of this size cannot be made to collide for long.
            small = type(key) is int and abs(key) < 1 << 31
            if not (type(key) is str or small or key is None or type(key) is bool):
                raise RefusedError("dictionary key that is not text, a small integer, a truth value or None")
            if key in out:
                raise RefusedError(f"dictionary key {brief(key, 80)} is given twice")
            out[key] = self.value(item, depth + 1)
        return out
