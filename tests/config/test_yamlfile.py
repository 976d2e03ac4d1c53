"""YAML that describes more than it holds, and files that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peak import MIB, peak
from ptycho_torch.config import ExecutionConfig, TrainingConfig, from_dict, load_yaml, read_yaml, to_yaml
from ptycho_torch.errors import ConfigError

_TENFOLD = "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)

HOSTILE = {
    "aliases": f"a: &a [1]\n{_TENFOLD}seed: *h\n",
    "merged": "a: &a {x: 1}\n" + "b: {<<: [*a, *a]}\n",
    "itself": "seed: &a [*a]\n",
    "deep": "seed: " + "[" * 5000,
    "deep block": "".join(" " * i + "a:\n" for i in range(200)),
    "large": "seed: 1 #" + " " * (1 << 20),
    "month 13": "seed: 2024-13-41\n",
    "odd truth": "seed: !!bool x\n",
    "odd number": "seed: !!int ''\n",
    "odd time": "seed: !!timestamp x\n",
    "long number": "seed: " + "9" * 5000 + "\n",
    "unhashable": "? [1]\n: 2\n",
    "object": "seed: !!python/object/apply:os.system ['true']\n",
    "escape": 'seed: "\\e[31mred"\n',
    "latin-1": "seed: gr\udcf6\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "a list": "- 1\n",
    "nothing YAML": "\x00\x01",
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_one_line_and_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(HOSTILE[name].encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load_yaml(TrainingConfig, path)
    assert "c.yaml: " in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_aliases_take_no_memory(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(HOSTILE["aliases"])
    setup = "from ptycho_torch.config import TrainingConfig, load_yaml; import yaml"
    found = peak(setup, "load_yaml(TrainingConfig, args[0])", tmp_path / "c.yaml")
    assert found.error == "ConfigError"
    assert "aliases (*a) are not read" in found.text
    assert found.grown < 8 * MIB


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match="expected a regular file"):
            read_yaml(path)
    with pytest.raises(ConfigError, match="no such configuration file"):
        read_yaml(tmp_path / "none")


@pytest.mark.parametrize("value", [5, "text", [1]])
def test_a_section_that_is_none(value: object) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml: execution: expected keys and values, found"):
        from_dict(ExecutionConfig, value, "c.yaml: execution.")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="model: expected keys and values"):
        from_dict(TrainingConfig, {"model": value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2**32),
        ("subsample_seed", 2**40),
        ("learning_rate", 1e300),
        ("learning_rate", 10**400),
        ("model.N", 10**400),
        ("max_steps", -(10**400)),
    ],
)
def test_values_past_every_use(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        from_dict(TrainingConfig, {key: value})
    with pytest.raises(ConfigError, match="threads: expected a value at most 1024"):
        from_dict(ExecutionConfig, {"threads": 10**8})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    config = TrainingConfig(output_dir=Path("größe 名前"))
    (tmp_path / "c.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_yaml(TrainingConfig, tmp_path / "c.yaml") == config
