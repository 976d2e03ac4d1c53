from __future__ import annotations

import os
from pathlib import Path

import pytest

from ptycho_torch.files.regular import NotRegularError, open_regular, require_regular


def test_a_file_and_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").symlink_to("a")
    assert require_regular(tmp_path / "b") == 3
    with open_regular(tmp_path / "b") as stream:
        assert stream.read() == b"123"


@pytest.mark.parametrize("read", [open_regular, require_regular])
def test_anything_else_is_refused_at_once(tmp_path: Path, read: object) -> None:
    assert callable(read)
    os.mkfifo(tmp_path / "fifo")
    for path, kind in ((tmp_path / "fifo", "a FIFO"), ("/dev/zero", "a device"), (tmp_path, "a folder")):
        with pytest.raises(NotRegularError, match=f"expected a regular file, found {kind}"):
            read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
