"""Settings of `cmmixer bench embed`."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.check import at_least


@dataclass(frozen=True, kw_only=True)
class EmbedBenchSettings:
    """Embedding films.

    Attributes:
        films: folder of films, or a list of them; default: some are made, which takes a while
        made_films: how many are made, of 20 seconds each
        workers: decoder processes; 0 takes every core
    """

    films: str | None = None
    made_films: int = 16
    workers: int = 0

    def __post_init__(self) -> None:
        at_least("made_films", self.made_films, 2)
        at_least("workers", self.workers, 0)
