from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ptycho_torch.errors import OutputError
from ptycho_torch.files import atomic_path, ensure_output_dir, write_bytes_atomic, write_text_atomic


def test_written_whole_and_nothing_left_beside(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text_atomic(target, "größe\n")
    assert target.read_text(encoding="utf-8") == "größe\n"
    write_bytes_atomic(target, b"second")
    assert target.read_bytes() == b"second"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_temporary_name_keeps_the_suffix_and_the_folder(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.npz") as part:
        assert part.suffix == ".npz"
        assert part.parent == tmp_path
        part.write_bytes(b"1")


def test_mode_is_that_of_an_ordinary_new_file(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    write_bytes_atomic(tmp_path / "ours", b"")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_the_earlier_file(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("before")

    def fail() -> None:
        with atomic_path(target) as part:
            part.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert target.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("before")
    with (
        pytest.raises(OutputError, match=r"a\.txt: cannot be written: No space left on device"),
        atomic_path(target),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert target.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        write_bytes_atomic(tmp_path / "none" / "a", b"")


def test_output_dir_is_made_and_left_empty(tmp_path: Path) -> None:
    made = ensure_output_dir(str(tmp_path / "a" / "b"))
    assert made == tmp_path / "a" / "b"
    assert list(made.iterdir()) == []
    (made / "earlier").touch()
    assert ensure_output_dir(made) == made
    assert [p.name for p in made.iterdir()] == ["earlier"]


def test_output_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(OutputError, match="f: a file, where the output folder would go"):
        ensure_output_dir(tmp_path / "f")
    with pytest.raises(OutputError, match="cannot be made: Not a directory"):
        ensure_output_dir(tmp_path / "f" / "g")


def test_output_dir_without_permission(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(
        OutputError, match=r"locked: the output folder cannot be written to: Permission denied"
    ):
        ensure_output_dir(locked)


def test_output_dir_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="cannot be written to: No space left on device"):
        ensure_output_dir(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_permissions_links_and_read_only_files(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text_atomic(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    real.chmod(0o444)
    with pytest.raises(OutputError, match=r"link\.txt: is read-only, so it was kept"):
        write_text_atomic(link, "newer")
    assert real.read_text() == "new"
    with pytest.raises(OutputError, match="not a regular file"):
        write_text_atomic(tmp_path, "")


def test_file_and_folder_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes_atomic(tmp_path / "a", b"1")
    assert synced == ["file", "folder"]


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    code = (
        "import os, sys; from ptycho_torch.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as part:\n"
        "    part.write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    target = tmp_path / "a.npz"
    for sweep in (lambda: write_bytes_atomic(target, b"whole"), lambda: ensure_output_dir(tmp_path)):
        subprocess.run([sys.executable, "-c", code, str(target)], check=False)
        assert [p.suffixes[-2:] for p in tmp_path.iterdir() if p != target] == [[".part", ".npz"]]
        sweep()
        assert [p.name for p in tmp_path.iterdir() if p != target] == []


def test_a_writer_at_work_is_not_swept(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.h5") as part:
        part.write_bytes(b"first")
        write_bytes_atomic(tmp_path / "a.h5", b"second")
        ensure_output_dir(tmp_path)
        assert part.exists()
    assert (tmp_path / "a.h5").read_bytes() == b"first"


@pytest.mark.parametrize("name", ["$x_1$", "名前.png", "\udce9t\udce9.npz", "a\nb", "x" * 250])
def test_any_name_that_a_file_can_have(tmp_path: Path, name: str) -> None:
    write_bytes_atomic(tmp_path / name, b"1")
    assert [p.name for p in tmp_path.iterdir()] == [name]
