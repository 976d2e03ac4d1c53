"""Names: one owner each, imported when asked for."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ptycho_torch import registry
from ptycho_torch.errors import ConfigError
from ptycho_torch.registry import Registry

KINDS = Registry[object]("kind", "example.kinds", {})
"""What the modules written by the tests register in; replaced for each of them."""


@pytest.fixture
def kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    """A registry with two modules of its own, one of which fails to register its name."""
    source = "from test_registry import KINDS\n@KINDS.register({0!r})\ndef made(): ...\n"
    (tmp_path / "home_of_round.py").write_text(source.format("round"))
    (tmp_path / "home_of_empty.py").write_text("")
    (tmp_path / "home_of_foreign.py").write_text(source.format("foreign"))
    (tmp_path / "home_of_broken.py").write_text(source.format("broken") + "raise OSError('no such disk')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [m for m in sys.modules if m.startswith("home_of_")]:
        monkeypatch.delitem(sys.modules, name)
    homes = {name: f"home_of_{name}" for name in ("round", "empty", "broken")}
    made = Registry[object]("kind", "example.kinds", homes)
    monkeypatch.setattr(sys.modules[__name__], "KINDS", made)
    return made


def advertise(monkeypatch: pytest.MonkeyPatch, *pairs: tuple[str, str]) -> None:
    points = [EntryPoint(name, module, "example.kinds") for name, module in pairs]
    monkeypatch.setattr(registry, "entry_points", lambda group: [p for p in points if p.group == group])


def test_names_are_listed_without_importing_and_imported_when_asked_for(
    kinds: Registry[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    advertise(monkeypatch, ("foreign", "home_of_foreign"))
    assert kinds.names() == list(kinds) == ["broken", "empty", "foreign", "round"]
    assert not [m for m in sys.modules if m.startswith("home_of_")]
    for name in ("round", "foreign"):
        assert kinds.get(name) is sys.modules[f"home_of_{name}"].made
    assert "round" in kinds
    assert "square" not in kinds


@pytest.mark.parametrize("name", ["mine", "round"])
def test_a_taken_name_is_refused(kinds: Registry[object], name: str) -> None:
    if name == "mine":
        kinds.register(name)(len)
    with pytest.raises(
        ConfigError, match=rf"kind '{name}'.*another name"
    ):  # round: even before its module is loaded
        kinds.register(name)(lambda: None)
    assert kinds.get(name) is not None


def test_two_distributions_with_one_name_are_refused_and_the_others_work(
    kinds: Registry[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    advertise(monkeypatch, ("round", "theirs"), ("twice", "one"), ("twice", "other"))
    with pytest.raises(ConfigError, match=r"'round'.*home_of_round and theirs"):
        kinds.get("round")
    with pytest.raises(ConfigError, match=r"'twice'.*one and other"):
        kinds.get("twice")
    kinds.register("fine")(len)
    assert kinds.get("fine") is len


def test_unknown_names_and_modules_that_register_nothing_are_named(kinds: Registry[object]) -> None:
    with pytest.raises(ConfigError, match="kind: expected one of broken, empty, round, found 'square'"):
        kinds.get("square")
    with pytest.raises(ConfigError, match="home_of_empty does not register"):
        kinds.get("empty")


def test_a_module_that_fails_says_the_same_at_the_second_attempt(kinds: Registry[object]) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="no such disk"):
            kinds.get("broken")
