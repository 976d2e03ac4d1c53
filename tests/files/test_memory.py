from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

from ptycho_torch.errors import ConfigError, DataError
from ptycho_torch.files import memory
from ptycho_torch.files.memory import (
    FLOOR,
    MemoryBudget,
    bytes_of,
    memory_capped,
    memory_limit,
    memory_used,
    need_memory,
    shown_bytes,
)

GIB = 1 << 30


def refuse(reason: str) -> ValueError:
    return ValueError(f"x.npz: {reason}")


def test_examples() -> None:
    assert doctest.testmod(memory).failed == 0


def test_takes_add_up_and_are_given_back() -> None:
    budget = MemoryBudget(10, refuse, ratio=2, floor=100)
    budget.take(100)
    budget.take(20)
    with pytest.raises(
        ValueError, match=r"x\.npz: frames: would take 121 B, from a file of 10 B at most 120 B"
    ):
        budget.take(1, "frames")
    budget.give_back(50)
    budget.take(50)
    assert budget.left == 0


def test_a_large_file_is_held_against_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: FLOOR)
    budget = MemoryBudget(100 * GIB, refuse)
    budget.take(FLOOR)
    with pytest.raises(ValueError, match="would take 1 GiB, 64 MiB of memory are free"):
        budget.take(GIB)


def test_work_that_does_not_fit() -> None:
    need_memory(1, "canvas", "")
    with pytest.raises(DataError, match=r"canvas: needs 2\.097e\+06 TiB, .* are free; give a smaller size"):
        need_memory(1 << 61, "canvas", "give a smaller size")


def test_bytes_as_people_read_them() -> None:
    assert [shown_bytes(n) for n in (0, 1023, 1 << 20, 3 << 39)] == ["0 B", "1023 B", "1 MiB", "1.5 TiB"]


@pytest.mark.parametrize("path", ["/a/b", "/not/mounted/here"])
def test_control_group_two(tmp_path: Path, path: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for folder, most in ((tmp_path, "5000"), (tmp_path / "a" / "b", "max")):
        (folder / "memory.max").write_text(most + "\n")
        (folder / "memory.current").write_text("3000\n")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 700\n")
    (tmp_path / "self").write_text(f"0::{path}\n")
    assert list(memory._groups(tmp_path, tmp_path / "self")) == [2700]


def test_control_group_one(tmp_path: Path) -> None:
    folder = tmp_path / "memory" / "job"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("9000\n")
    (folder / "memory.usage_in_bytes").write_text("1000\n")
    (folder / "memory.stat").write_text("total_inactive_file 10\n")
    (tmp_path / "self").write_text("4:memory:/job\n3:cpu:/\n0::/\n")
    assert list(memory._groups(tmp_path, tmp_path / "self")) == [8010]
    assert list(memory._groups(tmp_path, tmp_path / "none")) == []


def test_the_limit_of_the_address_space_counts() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
        "from ptycho_torch.files.memory import memory_limit; print(memory_limit())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0 < int(shown) < GIB


def test_some_memory_is_free() -> None:
    assert memory_limit() > FLOOR


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("500M", 500 << 20),
        ("2GiB", 2 << 30),
        ("1.5 gb", 3 << 29),
        ("64kB", 1 << 16),
        ("1T", 1 << 40),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert bytes_of(text) == count


@pytest.mark.parametrize("text", ["", "many", "-1G", "0", "1 G B", "1e3M", "GiB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a size such as 2GiB"):
        bytes_of(text)


def test_a_cap_counts_what_the_process_holds_already() -> None:
    free = memory_limit()
    with memory_capped(memory_used() + (8 << 20)):
        assert memory_limit() <= 9 << 20
        with memory_capped(None):
            assert memory_limit() <= 9 << 20
    assert memory_limit() > min(free, 10 << 20) // 2
