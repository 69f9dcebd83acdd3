"""Adds up the time of a job over several attempts, in a file, so that a resumed job knows its total."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cmmixer.storage.files import write_atomically


class Stopwatch:
    """Minutes of the steps of a job, kept in a file. The next attempt at the same job adds to them.

    Attributes:
        minutes: of each step, over all attempts.
        attempts: including this one.
        killed: how many attempts were killed; the minutes of the step they were in are lost.
    """

    def __init__(self, file: Path) -> None:
        """Starts an attempt.

        Args:
            file: with the minutes so far; starts from zero if it does not exist or cannot be read.
        """
        self._file = file
        self.minutes: dict[str, float] = {}
        self.attempts = self.killed = 0
        try:
            before = json.loads(file.read_text())
            self.minutes, self.attempts = dict(before["minutes"]), int(before["attempts"])
            self.killed = int(before["killed"]) + bool(before["running"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.attempts += 1

    def __enter__(self) -> Self:
        self._write(running=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(running=False)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Adds the time of a step, even if it is interrupted."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.minutes[step] = self.minutes.get(step, 0.0) + (time.monotonic() - started) / 60
            self._write(running=True)

    def as_json(self) -> dict[str, Any]:
        """Returns JSON values; `total` is the sum of the steps."""
        rounded = {step: round(minutes, 2) for step, minutes in self.minutes.items()}
        return {
            "minutes": {**rounded, "total": round(sum(self.minutes.values()), 2)},
            "attempts": self.attempts,
            "attempts_killed": self.killed,
        }

    def _write(self, *, running: bool) -> None:
        values = {"minutes": self.minutes, "attempts": self.attempts, "killed": self.killed, "running": running}
        write_atomically(self._file, json.dumps(values) + "\n")


def describe_minutes(values: Mapping[str, Any]) -> str:
    """Describes the result of `Stopwatch.as_json` in words."""
    words = f"{values['minutes']['total']:.1f} minutes"
    if values["attempts"] > 1:
        words += f" in {values['attempts']} attempts"
    if values["attempts_killed"]:
        words = f"at least {words} ({values['attempts_killed']} killed; the minutes of the interrupted step are not counted)"
    return words
