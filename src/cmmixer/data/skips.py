"""Files that were left out, and why: a report for people and programs, and a journal that survives a kill."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cmmixer.errors import MediaError
from cmmixer.storage.folder import Folder, Location, open_folder

# How a report describes each reason of `MediaError.REASONS`.
DESCRIPTIONS = {
    "missing": "missing",
    "not-a-file": "not a file",
    "not-media": "neither video nor audio by their ending",
    "empty": "empty",
    "unreadable": "unreadable or damaged",
    "no-video": "without video",
    "no-audio": "without audio",
    "silent": "silent",
    "too-short": "too short",
    "duplicate": "duplicate",
    "time-limit": "over the time limit",
    "crashed": "crashed the decoder",
}


@dataclass(frozen=True)
class Skip:
    """One file that was left out.

    Attributes:
        path: the file; bytes of its name that are not UTF-8 are written in hexadecimal.
        reason: one of `MediaError.REASONS`.
        message: what was found and what was expected, in one line.
        clips_used: how many of its clips are used all the same; 0 if the whole file was left out.
    """

    path: str
    reason: str
    message: str
    clips_used: int = 0

    @classmethod
    def of(cls, error: MediaError, *, clips_used: int = 0) -> Skip:
        """Returns the entry of the report for an error."""
        return cls(os.fsencode(error.path).decode("utf-8", "backslashreplace"), error.reason, error.message, clips_used)


class SkipReport:
    """A growing list of files that were left out."""

    def __init__(self, skips: Iterable[Skip] = ()) -> None:
        self._skips = list(skips)

    def add(self, path: str | Path, reason: str, message: str, *, clips_used: int = 0) -> None:
        """Adds a file; the arguments are those of `Skip`."""
        self.add_skip(Skip.of(MediaError(path, reason, message), clips_used=clips_used))

    def add_skip(self, skip: Skip) -> None:
        """Adds a file."""
        self._skips.append(skip)

    @property
    def total(self) -> int:
        """Number of files that were left out."""
        return len(self._skips)

    def __len__(self) -> int:
        return len(self._skips)

    def __iter__(self) -> Iterator[Skip]:
        return iter(self._skips)

    @property
    def counts(self) -> dict[str, int]:
        """Number of files by reason, the most frequent first."""
        return dict(Counter(skip.reason for skip in self._skips).most_common())

    @property
    def summary(self) -> str:
        """One line, e.g. "5 files left out: 3 silent, 2 too short"."""
        if not self._skips:
            return "no file left out"
        counts = ", ".join(f"{count} {DESCRIPTIONS[reason]}" for reason, count in self.counts.items())
        return f"{len(self)} {'file' if len(self) == 1 else 'files'} left out: {counts}"

    @classmethod
    def read(cls, place: Location) -> SkipReport:
        """Reads the report of a folder; an empty one if there is none."""
        try:
            text = open_folder(place).read_text("skipped.json")
        except FileNotFoundError:
            return cls()
        return cls(Skip(**values) for values in json.loads(text)["files"])

    def write(self, place: Location) -> None:
        """Writes `skipped.json` for programs and `skipped.txt` for people; each file appears whole or not at all."""
        values = {"counts": self.counts, "files": [asdict(skip) for skip in self._skips]}
        folder = open_folder(place)
        folder.write_text("skipped.json", json.dumps(values, indent=1))
        folder.write_text("skipped.txt", self.text())

    def text(self) -> str:
        """Returns the report as text, grouped by reason."""
        lines = [self.summary, ""]
        for reason in self.counts:
            lines.append(f"{DESCRIPTIONS[reason]}:")
            lines += [f"  {skip.path}: {_described(skip)}" for skip in self._skips if skip.reason == reason]
            lines.append("")
        return "\n".join(lines)


def _described(skip: Skip) -> str:
    return skip.message if skip.clips_used == 0 else f"{skip.message} ({skip.clips_used} of its clips are used)"


# Files left out for these reasons are tried again in the next run: the cause may be gone by then.
RETRIED_REASONS = ("missing", "time-limit", "crashed")


class Journal:
    """Videos of a job that were left out, wholly or in part, over all its runs: a text file that grows by whole lines.

    Args:
        folder: where the file lies.
        name: its name.

    Attributes:
        skips: by entry key, in the order they were added.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        self.skips: dict[str, Skip] = {}
        self._pending: list[str] = []
        for line in folder.read_lines(name):
            values = json.loads(line)
            self.skips[values["entry"]] = Skip(**values["skip"])

    def add(self, key: str, skip: Skip) -> None:
        """Adds a video, or replaces its entry; `commit` writes it."""
        self.skips.pop(key, None)
        self.skips[key] = skip
        self._pending.append(json.dumps({"entry": key, "skip": asdict(skip)}) + "\n")

    def commit(self) -> None:
        """Appends everything added since the last commit to the file."""
        self._folder.append_lines(self._name, self._pending)
        self._pending = []

    def settles(self, key: str) -> bool:
        """Whether a video gave nothing, for a reason that does not pass."""
        skip = self.skips.get(key)
        return skip is not None and skip.clips_used == 0 and skip.reason not in RETRIED_REASONS
