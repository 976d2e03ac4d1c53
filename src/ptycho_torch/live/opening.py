"""Sources of a session, as its settings ask for them. Needs no torch."""

from __future__ import annotations

from typing import Any

from ptycho_torch.errors import ConfigError, brief
from ptycho_torch.live.options import LiveConfig
from ptycho_torch.live.sources import SOURCES, Source, SourceOptions, source_name

__all__ = ["sources_of"]


def sources_of(address: str, config: LiveConfig) -> list[Source]:
    """Return the source of the frames, and that of the positions where they come separately.

    Raises
    ------
    ConfigError
        When the protocol is not known.
    DependencyError
        When a library for it is missing.
    """
    name = config.source or source_name(address)
    if name is None:
        raise ConfigError(
            f"{brief(address)}: several protocols have such addresses; give --source simplon2 or another of"
            f" {', '.join(SOURCES.names())}"
        )
    options: dict[str, Any] = {
        "most_bytes": config.max_message << 20,
        "frames_key": config.frames_key,
        "numbers_key": config.numbers_key,
    }
    kind = SOURCES.get(name)
    if "frame" not in kind.gives:
        raise ConfigError(f"--source {name}: expected one that gives frames, found one of positions alone")
    keys = config.keys()
    if config.positions is None:
        return [kind(address, SourceOptions(**options, positions_keys=keys))]
    other = "swmr" if source_name(config.positions) == "swmr" else "panda"
    places = SourceOptions(
        most_bytes=config.max_message << 20, positions_keys=keys, samples=config.samples_per_frame
    )
    return [kind(address, SourceOptions(**options)), SOURCES.get(other)(config.positions, places)]
