"""Settings of `cmmixer bench data` and `bench embed`."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.check import at_least, within


@dataclass(frozen=True, kw_only=True)
class FilmBenchSettings:
    """Feeding training, preparing clips, embedding films.

    Attributes:
        films: folder of films, or a list of them; default: some are made, which takes a while
        made_films: how many are made, of 20 seconds each
        workers: processes that read, decode or prepare; 0 takes every core
        turn_seconds: about how long each kind of reading works before it is the next one's turn
    """

    films: str | None = None
    made_films: int = 16
    workers: int = 0
    turn_seconds: float = 3.0

    def __post_init__(self) -> None:
        at_least("made_films", self.made_films, 2)
        at_least("workers", self.workers, 0)
        within("turn_seconds", self.turn_seconds, 0.1, 60.0)
