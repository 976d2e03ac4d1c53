"""The page's server: what it encodes, whom it answers, and that it comes back."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from ptycho_torch.errors import OutputError
from ptycho_torch.live.canvas import GrowingCanvas
from ptycho_torch.live.engines import FlatEngine
from ptycho_torch.live.growing import Growing
from ptycho_torch.live.intake import Intake
from ptycho_torch.live.server import Page, encoded_image
from ptycho_torch.live.session import Session
from ptycho_torch.live.spool import Spool

OBJECT = (np.arange(1, 13).reshape(3, 4) * np.exp(1j * np.linspace(-3, 3, 12)).reshape(3, 4)).astype(
    np.complex64
)


def decoded(body: bytes) -> tuple[dict[str, object], np.ndarray, np.ndarray]:
    length = int.from_bytes(body[:4], "little")
    head = json.loads(body[4 : 4 + length])
    values = np.frombuffer(body[4 + length :], "<u2").reshape(2, *head["shape"]).astype(float)
    parts = np.where(values > 0, (values - 1) / 65534, np.nan)
    return head, parts[0] * head["peak"], (parts[1] - 0.5) * 2 * np.pi


def canvas() -> GrowingCanvas:
    made, light = GrowingCanvas(), np.ones((3, 4), np.float32)
    light[0, 0] = 0
    made.replace(OBJECT, light, np.array([10.0, 20.0]))
    return made


def test_what_is_encoded_is_the_object() -> None:
    head, amplitude, phase = decoded(encoded_image(canvas(), 64))
    assert np.isnan(amplitude[0, 0])
    lit = np.isfinite(amplitude)
    assert lit.sum() == 11
    assert np.allclose(amplitude[lit], np.abs(OBJECT)[lit], atol=1e-3)
    assert np.allclose(phase[lit], np.angle(OBJECT)[lit], atol=1e-3)
    assert (head["origin"], head["extent"]) == ([10, 20], [10, 20, 14, 23])


def test_a_region_and_blocks() -> None:
    head, amplitude, _ = decoded(encoded_image(canvas(), 64, (12, 21, 99, 22)))
    assert (head["origin"], head["shape"]) == ([12, 21], [1, 2])
    assert np.allclose(amplitude, np.abs(OBJECT)[1:2, 2:4], atol=1e-3)
    head, amplitude, _ = decoded(encoded_image(canvas(), 2))
    assert (head["block"], head["shape"]) == (2, [1, 2])
    assert np.allclose(amplitude[0, 1], abs(OBJECT[:2, 2:].mean()), atol=1e-3)
    head, amplitude, _ = decoded(encoded_image(canvas(), 64, (500, 500, 600, 600)))
    assert amplitude.size == 0


def test_error_bars_are_shown_with_the_object_that_they_are_of() -> None:
    made, light = GrowingCanvas(), np.ones((3, 4), np.float32)
    sigma = np.stack([np.linspace(0.1, 0.4, 12), np.linspace(1, 2, 12)]).reshape(2, 3, 4).astype(np.float32)
    sigma[:, 2, 3] = np.nan
    light[2, 3] = 0
    made.replace(OBJECT, light, np.zeros(2), sigma)
    body = encoded_image(made, 64, (1, 0, 4, 3))
    length = int.from_bytes(body[:4], "little")
    head = json.loads(body[4 : 4 + length])
    coded = np.frombuffer(body[4 + length :], "<u2").reshape(4, 3, 3)[2:]
    assert (coded == 0).sum() == 2
    shown = (coded - 1.0) / 65534 * np.array(head["sigma"])[:, None, None]
    assert np.allclose(shown[coded > 0], sigma[:, :, 1:][coded > 0], rtol=0.02)
    made.stitch(OBJECT, light, np.zeros(2))  # another object has none
    assert decoded(encoded_image(made, 64))[0]["sigma"] is None


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    intake = Intake(Spool(tmp_path))
    session = Session(intake, Growing(intake, FlatEngine(), np.ones((1, 8, 8), np.complex64)), [])
    made = Page(session)
    made.start()
    yield made
    made.close()


def get(page: Page, path: str, method: str = "GET", token: str | None = None) -> tuple[int, bytes]:
    address = f"http://127.0.0.1:{page.port}{path}"
    asked = urllib.request.Request(address, method=method, headers={"x-token": token or page.token})
    for _ in range(200):
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except (urllib.error.URLError, ConnectionError):  # not up yet
            time.sleep(0.05)
    raise AssertionError("no answer within 10 s")


def test_a_server_that_ends_is_begun_anew_and_says_so(page: Page) -> None:
    assert get(page, "/state")[0] == 200
    page._server.should_exit = True
    while not any("begun anew" in text for _, text in page.session.intake.said):
        time.sleep(0.02)
    status, body = get(page, "/state")
    assert status == 200
    assert any("begun anew" in text for _, text in json.loads(body)["said"])


@pytest.mark.parametrize("path", ["/", "/state", "/image", "/positions", "/download"])
def test_without_the_token_nothing_is_answered(page: Page, path: str) -> None:
    assert get(page, path, token="another")[0] == 403
    assert get(page, path, token="ü".encode().decode("latin-1"))[0] == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/image?edge=5", 400), ("/image?edge=100000", 400), ("/image?edge=x", 400), ("/image?x0=5&x1=5", 400),
        ("/image?x0=" + "9" * 5000, 400), ("/positions?from=-1", 400), ("/nothing", 404),
        ("/image", 204), ("/positions?from=7", 200),
    ],
)  # fmt: skip
def test_what_is_asked_for_is_bounded(page: Page, path: str, status: int) -> None:
    assert get(page, path)[0] == status


def test_viewers_pause_and_end_the_run(page: Page) -> None:
    session = page.session
    assert get(page, "/control?do=pause", "POST")[0] == 204
    assert not session.solving.is_set()
    assert get(page, "/control?do=go", "POST")[0] == 204
    assert session.solving.is_set()
    assert get(page, "/control?do=harm", "POST")[0] == 400
    running = threading.Thread(target=session.run, daemon=True)
    running.start()
    assert get(page, "/control?do=finish", "POST")[0] == 204
    running.join(20)
    assert not running.is_alive()
    assert session.stage == "last pass"


def test_viewers_of_the_same_image_share_its_encoding(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.session.growing.canvas.replace(OBJECT, np.ones((3, 4), np.float32), np.zeros(2))
    monkeypatch.setattr("ptycho_torch.live.server._FRESH", 60.0)
    assert len({page._shared(64, None) for _ in range(3)}) == 1
    page.session.growing.canvas.replace(2 * OBJECT, np.ones((3, 4), np.float32), np.zeros(2))
    before = page._shared(64, None)
    assert before is page._shared(64, None)


def test_a_port_that_is_taken_is_said(page: Page) -> None:
    with pytest.raises(OutputError, match="another --port"):
        Page(page.session, port=page.port)
