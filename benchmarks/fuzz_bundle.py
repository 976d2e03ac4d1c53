"""Throws mutated bundles at the reader; anything but BundleError is a failure, and so is too much memory.

    python benchmarks/fuzz_bundle.py --minutes 60 --seed 0

Mutations work on four layers in turn: bytes of the whole file, bytes of one member behind right
CRCs, instructions of a pickle behind right CRCs, fields of the zip headers. One in nineteen is a small file
that describes much. No input may make the process grow by more than 64 MiB and four times its size; the
peak is measured where Linux tells it, under a limit on the address space. The reader runs without torch.
"""

from __future__ import annotations

import io
import itertools
import pickletools
import random
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dill
import numpy as np

from ptycho_torch.bundle.container.sidecar import SIDECAR
from ptycho_torch.bundle.container.zipwriter import Member, zip_parts
from ptycho_torch.bundle.contents import read_bundle
from ptycho_torch.bundle.pickles.encoder import PersistentId, Symbol, encode
from ptycho_torch.config import TrainingConfig
from ptycho_torch.errors import BundleError
from ptycho_torch.model_manager import save_torch_bundle

Members = dict[str, bytes]
MIB = 1 << 20
ALLOWED = 64 * MIB
"""Growth allowed to any input, beside four times its size."""
ADDRESS_SPACE = 1 << 30
"""More than this beyond what the process has at the start is refused by the system."""
INTERESTING = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**40,
    2**63 - 1,
    2**64 - 1,
]


def pth(rng: random.Random) -> bytes:
    """A weights file of a few tensors, made without torch."""
    records, state = [], {}
    for i in range(3):
        shape = tuple(rng.randrange(1, 4) for _ in range(i + 1))
        data = np.ones(shape, "<f4").tobytes()
        records.append(Member(f"archive/data/{i}", [data]))
        stride = tuple(int(s) // 4 for s in np.ones(shape, "<f4").strides)
        store = PersistentId(("storage", Symbol("torch", "FloatStorage"), str(i), "cpu", len(data) // 4))
        args = (store, 0, shape, stride, False, Symbol("collections", "OrderedDict", ()))
        state[f"layer.{i}.weight"] = Symbol("torch._utils", "_rebuild_tensor_v2", args)
    head = Member("archive/data.pkl", [encode(state, ValueError, protocol=2)])
    parts, _ = zip_parts([head, *records, Member("archive/version", [b"3\n"])], align=64)
    return b"".join(map(bytes, parts))


def seeds(rng: random.Random) -> list[Members]:
    """Legitimate bundles: ours with and without bundle.json, and one as dill writes it."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "wts.h5"
        models = {n: {"_sentinel": n} for n in ("autoencoder", "diffraction_to_obj")}
        save_torch_bundle(models, base, TrainingConfig(), 1.5)
        with zipfile.ZipFile(f"{base}.zip") as z:
            ours = {n: z.read(n) for n in z.namelist()}
    for name in models:
        ours[f"{name}/model.pth"] = pth(rng)
    bare = {n: d for n, d in ours.items() if n != SIDECAR}
    params = dill.loads(bare["autoencoder/params.dill"])
    params |= {
        "extra": [1, (2, None), {"a": 2.5}],
        "probe": np.ones((64, 64), np.complex64),
        "f": np.float32(2),
        "c": 1j,
    }
    other = dict(bare)
    for protocol, name in ((2, "autoencoder"), (5, "diffraction_to_obj")):
        other[f"{name}/params.dill"] = dill.dumps(params, protocol=protocol)
    return [ours, bare, other]


def packed(members: Members, rng: random.Random) -> bytes:
    deflate = rng.random() < 0.5
    return b"".join(map(bytes, zip_parts([Member(n, [d], deflate) for n, d in members.items()])[0]))


def scramble(data: bytes, rng: random.Random) -> bytes:
    """A few byte-level changes."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(7)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = rng.randrange(256)
        elif kind == 2:
            del out[at : at + rng.choice([1, 2, 8, 64])]
        elif kind == 3:
            out[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        elif kind == 4:
            out[at : at + 4] = struct.pack("<Q", rng.choice(INTERESTING))[: rng.choice([1, 2, 4, 8])]
        elif kind == 5:
            source = rng.randrange(len(out) + 1)
            out[at:at] = out[source : source + rng.randrange(1, 40)]
        else:
            del out[at:]
    return bytes(out)


def instructions(data: bytes, rng: random.Random) -> bytes:
    """The pickle with instructions dropped, doubled, swapped or replaced."""
    starts = [at for _, _, at in pickletools.genops(data)] + [len(data)]
    ops = [data[a:b] for a, b in itertools.pairwise(starts)]
    extra = [
        b"0",
        b"1",
        b"2",
        b"(",
        b"t",
        b"R",
        b"b",
        b"}",
        b"]",
        b"e",
        b"u",
        b"s",
        b"a",
        b"N",
        b"\x88",
        b"h\0",
        b"q\0",
        b"\x94",
        b"\x81",
        b"Q",
        b"\x93",
        b".",
    ]
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(ops))
        kind = rng.randrange(5)
        if kind == 0:
            del ops[at]
        elif kind == 1:
            ops.insert(at, rng.choice(ops))
        elif kind == 2:
            other = rng.randrange(len(ops))
            ops[at], ops[other] = ops[other], ops[at]
        elif kind == 3:
            ops.insert(at, rng.choice(extra))
        else:
            ops[at] = rng.choice(extra)
        if not ops:
            break
    return b"".join(ops)


def headers(data: bytes, rng: random.Random) -> bytes:
    """One field of one zip header replaced."""
    out = bytearray(data)
    marks = [i for s in (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6") for i in _all(data, s)]
    at = rng.choice(marks) + rng.randrange(4, 46)
    value = struct.pack("<Q", rng.choice([*INTERESTING, rng.randrange(len(data))]))
    width = rng.choice([1, 2, 4])
    out[at : at + width] = value[:width]
    return bytes(out)


def _all(data: bytes, mark: bytes) -> list[int]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


def _copies(rng: random.Random) -> bytes:
    """A pickle that makes copies of one block, or many small things."""
    if rng.random() < 0.3:
        return b"\x80\x02(" + rng.choice([b"}", b"]", b"]q\1", b"K\1"]) * rng.randrange(1, 499_000) + b"t."
    size, count = 1 << rng.randrange(10, 24), rng.randrange(1, 4000)
    block = b"B" + struct.pack("<I", size) + bytes(size) + b"q\1"
    call = rng.choice([b"cbuiltins\nbytearray\nh\1\x85R", b"h\1", b"h\1\x85"])
    return b"\x80\x02(" + block + call * count + b"t."


def _texts(rng: random.Random) -> bytes:
    """A ``bundle.json`` of many values, or of values inside each other."""
    part = rng.choice([b"[", b"[],", b'{"a":1},', b"1.5,", b'"",', b'{"a":'])
    return rng.choice([b"[", b'{"format":[']) + part * (1 << rng.randrange(4, 22)) + b"1]"


def bomb(members: Members, rng: random.Random) -> bytes:
    """A small file that describes much: compressed zeros, copies, brackets."""
    kind = rng.randrange(3)
    if kind == 0:
        members[rng.choice(list(members))] = bytes(1 << rng.randrange(16, 27))
    elif kind == 1:
        members[rng.choice([n for n in members if n.endswith(".dill")])] = _copies(rng)
    else:
        members[SIDECAR] = _texts(rng)
    return b"".join(map(bytes, zip_parts([Member(n, [d], True) for n, d in members.items()])[0]))


def mutant(base: Members, rng: random.Random) -> tuple[str, bytes]:
    """The name of the mutation and the bytes of a mutated bundle."""
    kind = rng.choice([*3 * ["file", "member", "pickle", "header", "inner", "inner pickle"], "bomb"])
    members = dict(base)
    if kind == "bomb":
        return kind, bomb(members, rng)
    if kind in ("file", "header"):
        change: Callable[[bytes, random.Random], bytes] = scramble if kind == "file" else headers
        return kind, change(packed(members, rng), rng)
    if kind == "member":
        name = rng.choice(list(members))
        members[name] = scramble(members[name], rng)
    elif kind == "pickle":
        name = rng.choice([n for n in members if n.endswith(".dill")])
        members[name] = instructions(members[name], rng)
    else:
        name = rng.choice([n for n in members if n.endswith(".pth")])
        if kind == "inner":
            members[name] = headers(members[name], rng)
        else:
            with zipfile.ZipFile(io.BytesIO(members[name])) as z:
                inner = {n: z.read(n) for n in z.namelist()}
            change = rng.choice([instructions, scramble])
            inner["archive/data.pkl"] = change(inner["archive/data.pkl"], rng)
            members[name] = b"".join(
                map(bytes, zip_parts([Member(n, [d]) for n, d in inner.items()], align=64)[0])
            )
    return kind, packed(members, rng)


class Growth:
    """How much the process grows in a piece of work; 0 where the system does not tell."""

    def __init__(self) -> None:
        self.known = Path("/proc/self/clear_refs").exists()

    def start(self) -> None:
        """Let the peak begin at what the process has now."""
        if self.known:
            Path("/proc/self/clear_refs").write_text("5")
            self.before = self._field("VmRSS")

    def bytes(self) -> int:
        return self._field("VmHWM") - self.before if self.known else 0

    @staticmethod
    def _field(name: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) << 10
        raise OSError(f"/proc/self/status has no {name}")


@contextmanager
def limited() -> Iterator[None]:
    """A limit on the address space: what asks for far too much fails instead of taking the machine."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = int(statm.read_text().split()[0]) * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def read_everything(path: Path) -> None:
    with read_bundle(path) as bundle:
        for model in bundle.models:
            bundle.weights(model).check_values()


def fuzz(seconds: float, seed: int, most: int | None = None) -> dict[str, object]:
    """Counts of inputs, refusals and acceptances, and every failure (kind, input number, error)."""
    rng = random.Random(seed)
    bases = seeds(rng)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    slowest, largest, growth = 0.0, (0, "none"), Growth()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, limited():
        path = Path(folder) / "x.zip"
        for base in bases:
            path.write_bytes(packed(base, rng))
            if SIDECAR not in base:  # our own bundle.json names other weights
                read_everything(path)
        while time.monotonic() < end and (most is None or counts["inputs"] < most):
            kind, data = mutant(rng.choice(bases), rng)
            path.write_bytes(data)
            counts["inputs"] += 1
            began = time.monotonic()
            growth.start()
            try:
                read_everything(path)
                counts["accepted"] += 1
            except BundleError as error:
                counts["refused"] += 1
                if not str(error).isprintable() or not str(error).startswith(str(path)):
                    failures.append(f"{kind} {counts['inputs']}: odd text {error!r}")
            except Exception as error:
                failures.append(f"{kind} {counts['inputs']}: {type(error).__name__}: {error}")
                Path(f"fuzz_failure_{seed}_{counts['inputs']}.zip").write_bytes(data)
            slowest = max(slowest, time.monotonic() - began)
            grown = growth.bytes()
            largest = max(largest, (grown, f"{kind} {counts['inputs']}"))
            if grown > ALLOWED + 4 * len(data):
                failures.append(f"{kind} {counts['inputs']}: grew by {grown // MIB} MiB on {len(data)} bytes")
                Path(f"fuzz_failure_{seed}_{counts['inputs']}.zip").write_bytes(data)
    return {
        "seed": seed,
        **counts,
        "failures": failures,
        "slowest_s": round(slowest, 3),
        "largest_growth_mib": round(largest[0] / MIB, 1),
        "largest_growth_by": largest[1],
    }


def main() -> None:
    from harness import keep, parser, table  # tests import this file alone

    made = parser(__doc__, shared=False)
    made.add_argument("--minutes", type=float, default=1.0)
    arguments = made.parse_args()
    found = fuzz(arguments.minutes * 60, arguments.seed)
    row = {"minutes": arguments.minutes, **found, "failures": len(found["failures"])}  # type: ignore[arg-type]
    print(table([row]), *found["failures"], sep="\n")  # type: ignore[misc]
    print(keep("fuzz_bundle", arguments, {"rows": [row], "failures": found["failures"]}))
    sys.exit(bool(found["failures"]))


if __name__ == "__main__":
    main()
