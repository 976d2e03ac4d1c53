"""The growing object on its ways out, read by the libraries that other programs would read it with."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch.live.canvas import GrowingCanvas
from ptycho_torch.live.outputs import Hdf5Output, Outputs, PvaOutput, ZmqOutput

GROWN = [
    (np.exp(1j * np.arange(h * w)).reshape(h, w) * (1 + np.arange(w))).astype(np.complex64)
    for h, w in ((3, 4), (300, 5), (4, 3))  # what the last pass gives may be smaller
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def publish(outputs: Outputs, obj: np.ndarray) -> None:
    outputs.canvas.replace(obj, np.ones(obj.shape, np.float32), np.array([5.0, -2.0]))
    outputs.publish()


def must_not_fail(text: str) -> None:
    raise AssertionError(text)


def test_a_pvaccess_client_sees_the_object_grow() -> None:
    client = pytest.importorskip("p4p.client.thread")
    port = free_port()
    way = PvaOutput(f"pva://127.0.0.1:{port}/TEST:OBJECT")
    outputs = Outputs(GrowingCanvas(), [way], must_not_fail)
    conf = {
        "EPICS_PVA_ADDR_LIST": "127.0.0.1",
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVA_BROADCAST_PORT": str(port),
    }
    with client.Context("pva", conf=conf, useenv=False) as context:
        for obj in GROWN:
            publish(outputs, obj)
            image = context.get("TEST:OBJECT", timeout=20)
            both = np.concatenate([np.abs(obj), np.angle(obj)])
            assert np.allclose(image, both, atol=1e-5)
            assert (image.attrib["origin_x"], image.attrib["origin_y"]) == (5.0, -2.0)
    outputs.close()


def test_a_subscriber_sees_the_object_grow(tmp_path: Path) -> None:
    zmq = pytest.importorskip("zmq")
    address = f"ipc://{tmp_path}/out"
    with zmq.Context() as context, context.socket(zmq.SUB) as hearer:
        outputs = Outputs(GrowingCanvas(), [ZmqOutput(address)], must_not_fail)
        hearer.subscribe(b"")
        hearer.connect(address)
        for obj in GROWN:
            for _ in range(200):  # a subscription takes a moment, and each version is sent once
                publish(outputs, obj)
                if hearer.poll(50):
                    break
            head, data = hearer.recv_multipart()
            about = json.loads(head)
            assert (about["shape"], about["origin_xy"]) == (list(obj.shape), [5, -2])
            assert np.array_equal(np.frombuffer(data, about["dtype"]).reshape(about["shape"]), obj)
            while hearer.poll(50):
                hearer.recv_multipart()
        outputs.close()


READER = """
import sys, json, h5py
with h5py.File(sys.argv[1], "r", libver="latest", swmr=True) as file:
    sets = [file[name] for name in ("object", "weight", "origin_xy", "version")]
    for _ in sys.stdin:
        for each in sets:
            each.refresh()
        obj, weight, origin, version = (each[:] for each in sets)
        seen = [obj.real.tolist(), obj.imag.tolist(), origin.tolist(), int(version[0]), weight.shape]
        print(json.dumps(seen), flush=True)
"""


def test_a_reader_of_the_growing_file_sees_the_object_grow(tmp_path: Path) -> None:
    outputs = Outputs(GrowingCanvas(), [Hdf5Output(tmp_path / "live.h5")], must_not_fail)
    publish(outputs, GROWN[0])
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path / "live.h5")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as reader:  # fmt: skip
        assert reader.stdin is not None
        assert reader.stdout is not None
        for number, obj in enumerate(GROWN):
            if number:
                publish(outputs, obj)
            reader.stdin.write("\n")
            reader.stdin.flush()
            real, imag, origin, version, shape = json.loads(reader.stdout.readline())
            assert np.array_equal(np.array(real) + 1j * np.array(imag), obj)
            assert (origin, version, shape) == ([5, -2], number + 1, list(obj.shape))
        reader.stdin.close()
    outputs.close()


class _Broken:
    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close

    def publish(self, *_: object) -> None:
        raise ZeroDivisionError("no way")


def test_a_way_that_fails_is_said_and_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    ways = [_Broken(lambda: None), Hdf5Output(tmp_path / "live.h5")]
    outputs = Outputs(GrowingCanvas(), ways, said.append)  # type: ignore[arg-type]
    for obj in GROWN:
        publish(outputs, obj)
    outputs.close()
    assert said == ["_Broken: failed and is left out: ZeroDivisionError: no way"]
    assert (tmp_path / "live.h5").exists()
