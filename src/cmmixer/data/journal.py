"""Films that gave nothing, or only a part: a text file beside a table, which grows by whole lines."""

from __future__ import annotations

import json
from dataclasses import asdict

from cmmixer.data.manifest import Entry, readable
from cmmixer.data.skips import Skip
from cmmixer.storage import Folder

# What stood in the way may be gone when the command is run again.
TRY_AGAIN = ("missing", "time-limit", "crashed")


class Journal:
    """The films of a job that were left out, wholly or in part, through all its runs.

    Attributes:
        skips: by the entry's key, in the order they were met.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        self.skips: dict[str, Skip] = {}
        self._pending: list[str] = []
        for line in folder.read_lines(name):
            values = json.loads(line)
            self.skips[values["entry"]] = Skip(**values["skip"])

    def add(self, key: str, skip: Skip) -> None:
        """Notes a film; `commit` writes it down."""
        self.skips.pop(key, None)
        self.skips[key] = skip
        self._pending.append(json.dumps({"entry": key, "skip": asdict(skip)}) + "\n")

    def commit(self) -> None:
        """Writes down what was noted."""
        self._folder.append_lines(self._name, self._pending)
        self._pending = []

    def settles(self, key: str) -> bool:
        """Whether a film gave nothing and would give nothing again."""
        skip = self.skips.get(key)
        return skip is not None and skip.clips_used == 0 and skip.reason not in TRY_AGAIN


def distinct(entries: list[Entry]) -> tuple[list[Entry], list[Skip]]:
    """The entries without those that name the same stretch of the same file again, and a word on these."""
    seen: dict[str, Entry] = {}
    repeated = []
    for entry in entries:
        if seen.setdefault(entry.key, entry) is not entry:
            repeated.append(
                Skip(readable(entry.path), "duplicate", "the same stretch of the same file is listed before")
            )
    return list(seen.values()), repeated
