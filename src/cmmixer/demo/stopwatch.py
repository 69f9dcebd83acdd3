"""How long a long job took, over all the goes it needed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cmmixer.storage.files import write_atomically


class Goes:
    """Minutes of a job's steps in a file that a later call of the same job adds to.

    Attributes:
        minutes: of each step, over all goes.
        count: goes so far, this one included.
        killed: how many of them were killed, so that the step they were in lacks their minutes.
    """

    def __init__(self, file: Path) -> None:
        """Begins a go.

        Args:
            file: where the minutes stand; made if it is not there, begun anew if it cannot be read.
        """
        self._file = file
        self.minutes: dict[str, float] = {}
        self.count = self.killed = 0
        try:
            before = json.loads(file.read_text())
            self.minutes, self.count = dict(before["minutes"]), int(before["goes"])
            self.killed = int(before["killed"]) + bool(before["runs"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.count += 1

    def __enter__(self) -> Self:
        self._write(runs=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(runs=False)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Counts the time of a step, also of one that is interrupted."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.minutes[step] = self.minutes.get(step, 0.0) + (time.monotonic() - begun) / 60
            self._write(runs=True)

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values; `total` is the sum of the steps."""
        rounded = {step: round(minutes, 2) for step, minutes in self.minutes.items()}
        return {
            "minutes": {**rounded, "total": round(sum(self.minutes.values()), 2)},
            "goes": self.count,
            "goes_killed": self.killed,
        }

    def _write(self, *, runs: bool) -> None:
        values = {"minutes": self.minutes, "goes": self.count, "killed": self.killed, "runs": runs}
        write_atomically(self._file, json.dumps(values) + "\n")


def took(values: Mapping[str, Any]) -> str:
    """What `as_json` gives, in words."""
    told = f"{values['minutes']['total']:.1f} minutes"
    if values["goes"] > 1:
        told += f" in {values['goes']} goes"
    if values["goes_killed"]:
        told = f"at least {told} (killed: {values['goes_killed']}, the minutes of the step it was in are not counted)"
    return told
