"""Replacing a file: at every moment the old one or the new one is there, whole."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ptycho_torch.bundle.container.archive import bundle_file, open_archive
from ptycho_torch.bundle.container.writer import replace_file
from ptycho_torch.errors import BundleError, BundleNotFoundError, OutputError


def accept(_: Path) -> None:
    return None


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if ".part" in p.name]


def test_writes_makes_folders_and_keeps_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "x.zip"
    replace_file(target, [b"one", memoryview(b"two"), b""], accept)
    assert target.read_bytes() == b"onetwo"
    assert [p.name for p in target.parent.iterdir()] == ["x.zip"]


def test_many_parts_and_a_large_one(tmp_path: Path) -> None:
    parts = [bytes([i % 256]) * (i % 7) for i in range(2000)] + [bytes(5 << 20)]
    replace_file(tmp_path / "x", parts, accept)
    assert (tmp_path / "x").read_bytes() == b"".join(parts)


def test_the_check_sees_the_new_file_and_can_stop_it(tmp_path: Path) -> None:
    target = tmp_path / "x.zip"
    target.write_bytes(b"old")

    def refuse(path: Path) -> None:
        assert path.read_bytes() == b"new"
        raise BundleError("x.zip: no good")

    with pytest.raises(BundleError, match="no good"):
        replace_file(target, [b"new"], refuse)
    assert target.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "x", [b"new"], interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o200])
def test_permissions_are_kept(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "x.zip"
    target.write_bytes(b"old")
    target.chmod(mode)
    replace_file(target, [b"new"], accept)
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert target.read_bytes() == b"new"


def test_a_file_without_write_permission_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "x.zip"
    target.write_bytes(b"old")
    target.chmod(0o444)
    with pytest.raises(OutputError, match="is read-only, so it was kept"):
        replace_file(target, [b"new"], accept)
    assert target.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_a_new_file_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        replace_file(tmp_path / "x", [b"new"], accept)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    real = tmp_path / "store" / "real.zip"
    real.write_bytes(b"old")
    link = tmp_path / "x.zip"
    link.symlink_to(real)
    replace_file(link, [b"new"], accept)
    assert link.is_symlink()
    assert real.read_bytes() == b"new"


def test_orphans_are_swept_and_living_writers_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "x.zip"
    orphan = tmp_path / ".x.zip.1.00ff.part"
    other = tmp_path / ".y.zip.1.00ff.part"
    orphan.write_bytes(b"half")
    other.write_bytes(b"half")
    seen = []

    def nested(path: Path) -> None:
        replace_file(target, [b"inner"], accept)
        seen.append(path.exists())

    replace_file(target, [b"outer"], nested)
    assert seen == [True]
    assert not orphan.exists()
    assert other.exists()
    assert target.read_bytes() == b"outer"


def test_targets_that_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    for target in (tmp_path / "folder", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=str(tmp_path)):
            replace_file(target, [b"new"], accept)
    assert (tmp_path / "file").read_bytes() == b"x"


def run_limited(folder: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        replace_file(folder / "x", [bytes(100_000)], accept)
    except OutputError as error:
        os._exit(0 if "x" in str(error) else 3)
    os._exit(4)


@pytest.mark.parametrize("limit", [0, 1, 50_000, 99_999])
def test_a_file_size_limit_leaves_the_old_file(tmp_path: Path, limit: int) -> None:
    (tmp_path / "x").write_bytes(b"old")
    pid = os.fork()
    if pid == 0:
        run_limited(tmp_path, limit)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (tmp_path / "x").read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_a_full_disk_leaves_the_old_file() -> None:
    with tempfile.TemporaryDirectory() as name:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", name], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
        try:
            target = Path(name) / "x"
            replace_file(target, [bytes(50_000)], accept)
            with pytest.raises(OutputError, match="No space left"):
                replace_file(target, [bytes(400_000)], accept)
            assert target.read_bytes() == bytes(50_000)
            assert leftovers(Path(name)) == []
        finally:
            subprocess.run(["umount", name], check=True)


LOOP = """
import hashlib, sys
from pathlib import Path
from ptycho_torch.bundle.container.writer import replace_file
target, who = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
i = 0
while True:
    i += 1
    body = f"{who} {i} ".encode() * 20_000
    replace_file(target, [hashlib.sha256(body).hexdigest().encode(), body], lambda p: None)
"""


def start(target: Path, who: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", LOOP, str(target), who], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def check_whole(target: Path) -> None:
    data = target.read_bytes()
    assert hashlib.sha256(data[64:]).hexdigest().encode() == data[:64]


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_any_moment(tmp_path: Path, kills: int) -> None:
    rng, target = random.Random(kills), tmp_path / "x"
    replace_file(target, [hashlib.sha256(b"").hexdigest().encode()], accept)
    for i in range(kills):
        process = start(target, str(i))
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        check_whole(target)
        assert len(leftovers(tmp_path)) <= 1  # the next save has swept the one before
    replace_file(target, [b"last"], accept)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_two_writers_and_a_reader(tmp_path: Path) -> None:
    target = tmp_path / "x"
    replace_file(target, [hashlib.sha256(b"").hexdigest().encode()], accept)
    writers = [start(target, who) for who in "ab"]
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            check_whole(target)
        assert all(w.poll() is None for w in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()


# ---- finding and opening


def test_the_file_of_a_base_path() -> None:
    assert bundle_file("run/wts.h5") == Path("run/wts.h5.zip")
    assert bundle_file("run/wts.h5.zip") == Path("run/wts.h5.zip")


def test_nothing_there_names_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"wts\.h5: does not exist, nor does wts\.h5\.zip"):
        open_archive(tmp_path / "wts.h5")
    with pytest.raises(BundleNotFoundError, match="no bundle here"):
        open_archive(tmp_path)
    (tmp_path / "link.zip").symlink_to(tmp_path / "gone")
    with pytest.raises(BundleNotFoundError, match="link to a file that does not exist"):
        open_archive(tmp_path / "link.zip")


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, "\udcff/x", "/", "."])
def test_odd_paths_are_errors_of_ours(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError):
        open_archive(path)


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.zip")
    with pytest.raises(BundleError, match="not a regular file"):
        open_archive(tmp_path / "x.zip")
    folder = tmp_path / "unpacked"
    folder.mkdir()
    os.mkfifo(folder / "manifest.dill")
    with open_archive(folder) as archive, pytest.raises(BundleError, match="missing"):
        archive.read("manifest.dill")


def test_links_inside_an_unpacked_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "manifest.dill").symlink_to("/etc/passwd")
    with open_archive(tmp_path) as archive:
        assert archive.names == ()
