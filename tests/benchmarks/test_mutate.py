"""The mutation run: which changes it makes, and that it tells killed from surviving ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import mutate

SOURCE = '''"""Documentation - with a sign."""
__all__ = ["f"]

def f(x: int, y: float = 1.5) -> int:
    """More + more."""
    if x < 0 and not y:
        raise ValueError(f"{x - 1}")
    return g(x, -y) + 2 * x.conj()
'''


def test_single_changes_where_code_runs_and_nowhere_else() -> None:
    found = mutate.mutants(SOURCE)
    changes = {m.change for m in found}
    assert changes == {
        "1.5  ->  3.0",
        "x < 0 and (not y)  ->  x < 0 or not y",
        "x < 0  ->  x <= 0",
        "0  ->  1",
        "not y  ->  y",
        "g(x, -y) + 2 * x.conj()  ->  g(x, -y) - 2 * x.conj()",
        "g(x, -y) + 2 * x.conj()  ->  g(x, -y)",
        "g(x, -y)  ->  g(-y, x)",
        "-y  ->  y",
        "2 * x.conj()  ->  2 / x.conj()",
        "2 * x.conj()  ->  2",
        "2  ->  3",
        "x.conj()  ->  x",
    }
    assert [m.line for m in found] == sorted(m.line for m in found)
    # One change each: the rest of the text is as it was.
    import ast

    plain = ast.unparse(ast.parse(SOURCE)).splitlines()
    for mutant in found:
        lines = mutant.text.splitlines()
        assert len(lines) == len(plain)
        assert sum(a != b for a, b in zip(lines, plain, strict=True)) == 1


def test_what_the_list_names_is_there() -> None:
    for name, tests in mutate.TARGETS.items():
        for path in (Path("src") / name, *map(Path, tests)):
            assert (mutate.ROOT / path).is_file(), path


def test_what_is_called_harmless_is_there() -> None:
    """An entry whose line is gone would hide the next change that is called the same."""
    made: dict[str, list[tuple[str, str]]] = {}
    for file in {file for file, _, _ in mutate.HARMLESS}:
        for text in [(mutate.ROOT / "src" / n).read_text() for n in mutate.TARGETS if n.endswith(f"/{file}")]:
            lines = text.splitlines()
            made.setdefault(file, []).extend((lines[m.line - 1], m.change) for m in mutate.mutants(text))
    for file, part, change in mutate.HARMLESS:
        assert any(part in line and change == found for line, found in made[file]), (file, part, change)
        assert not mutate.is_harmless(file, part, change + "?")
    assert not mutate.is_harmless("units.py", "x = 1", "1  ->  2")


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_survivors_are_those_that_the_tests_do_not_notice(tmp_path: Path) -> None:
    package = tmp_path / "src" / "mutated_here"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "def double(x):\n    return 2 * x\n\ndef untested(x):\n    return x - 1\n"
    )
    test = tmp_path / "test_it.py"
    test.write_text("from mutated_here import double\n\ndef test_it():\n    assert double(3) == 6\n")
    tried, alive = mutate.survivors(tmp_path, "mutated_here/__init__.py", [str(test)])
    assert tried == 6
    assert {m.change for m in alive} == {"x - 1  ->  x + 1", "x - 1  ->  x", "1  ->  2"}
    assert {m.line for m in alive} == {5}
    test.write_text("def test_it():\n    assert False\n")
    with pytest.raises(SystemExit, match="its tests fail without any change"):
        mutate.survivors(tmp_path, "mutated_here/__init__.py", [str(test)])


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    package = tmp_path / "src" / "mutated_there"
    package.mkdir(parents=True)
    source = package / "__init__.py"
    source.write_text("def less(x):\n    return x - 1\n")
    test = tmp_path / "test_less.py"
    test.write_text("from mutated_there import less\n\ndef test_it():\n    assert less(3) < 4\n")
    name, path = "mutated_there/__init__.py", tmp_path / "out" / "mutate.jsonl"
    whole = mutate.survivors(tmp_path, name, [str(test)], outcomes=mutate.Outcomes(path))
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == whole[0] == 3
    path.write_text("".join(lines[:2]))
    assert mutate.survivors(tmp_path, name, [str(test)], outcomes=mutate.Outcomes(path)) == whole
    assert path.read_text().splitlines(keepends=True) == lines
    # With another test all of them are open again.
    test.write_text(test.read_text().replace("< 4", "== 2"))
    assert mutate.survivors(tmp_path, name, [str(test)], outcomes=mutate.Outcomes(path)) == (3, [])


def test_a_further_file_of_tests_is_tried_on_those_that_the_others_let_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests are stood in for by one call each of the function as it was changed."""
    name, path = "less.py", tmp_path / "mutate.jsonl"
    source = tmp_path / "src" / name
    source.parent.mkdir()
    source.write_text("def less(x):\n    return x - 1\n")
    laws = {"first": lambda less: less(3) < 3, "second": lambda less: less(3) == 2}
    for test in laws:
        (tmp_path / test).write_text(test)
    asked: list[str] = []

    def passes(copy: Path, tests: list[str], limit: float) -> bool:
        asked.extend(Path(test).name for test in tests)
        made: dict[str, object] = {}
        exec((copy / name).read_text(), made)
        return all(laws[Path(test).name](made["less"]) for test in tests)

    monkeypatch.setattr(mutate, "passes", passes)
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    tried, alive = mutate.survivors(tmp_path, name, [first], outcomes=mutate.Outcomes(path))
    assert (tried, [m.change for m in alive]) == (3, ["1  ->  2"])
    assert asked == ["first"] * 4  # as it is, and with three changes
    asked.clear()
    assert mutate.survivors(tmp_path, name, [first, second], outcomes=mutate.Outcomes(path)) == (3, [])
    assert asked == ["first", "second", "second"]
    asked.clear()
    assert mutate.survivors(tmp_path, name, [first, second], outcomes=mutate.Outcomes(path)) == (3, [])
    assert not asked
    # One after the other, and none after the first that notices.
    assert mutate.survivors(tmp_path, name, [second, first]) == (3, [])
    assert asked == ["second", "first", *["second"] * 3]
