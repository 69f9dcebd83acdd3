"""Progress of long work. The command line draws bars from it; a program may pass its own listener."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of long work, which consists of one or more parts."""

    def start(self, total: int | None, what: str) -> None:
        """Starts a part of the work, and ends the previous one.

        Args:
            total: number of steps; None if it is not known.
            what: name of the part.
        """

    def advance(self, steps: int = 1) -> None:
        """Reports that more steps are done; 0 is a sign of life within a long step. An exception raised here stops the work."""

    def message(self, text: str) -> None:
        """Shows a short text beside the bar, such as the loss."""


class NoProgress:
    """A `Progress` that ignores everything."""

    def start(self, total: int | None, what: str) -> None:
        pass

    def advance(self, steps: int = 1) -> None:
        pass

    def message(self, text: str) -> None:
        pass
