"""How long work tells where it stands. The command line draws bars; a program may listen in the same way."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Something that is told how a piece of work goes on."""

    def start(self, total: int | None, what: str) -> None:
        """A piece of work begins: `total` steps (None: not known) of `what`; it ends the piece before it."""

    def advance(self, steps: int = 1) -> None:
        """So many more steps are done; none, where a long one goes on. What this raises ends the work."""

    def message(self, text: str) -> None:
        """A figure worth showing beside the bar."""


class NoProgress:
    """Says nothing."""

    def start(self, total: int | None, what: str) -> None:
        pass

    def advance(self, steps: int = 1) -> None:
        pass

    def message(self, text: str) -> None:
        pass
