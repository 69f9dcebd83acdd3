"""Which files were left out, and why: counted, readable by people and by machines.

Films that gave nothing, or only a part: a text file beside a table, which grows by whole lines.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cmmixer.errors import MediaError
from cmmixer.storage.folder import Folder, Place, open_folder

WORDS = {
    "missing": "not there",
    "not-a-file": "not a file",
    "not-media": "not films or sounds by their ending",
    "empty": "empty",
    "unreadable": "unreadable or damaged",
    "no-picture": "without picture",
    "no-sound": "without sound",
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
        path: the file, as text that any file can hold.
        reason: one of `MediaError.REASONS`.
        message: what was got and expected, one line.
        clips_used: clips of it that were used before it failed; 0 where all of it was left out.
    """

    path: str
    reason: str
    message: str
    clips_used: int = 0

    @classmethod
    def of(cls, error: MediaError, *, clips_used: int = 0) -> Skip:
        return cls(os.fsencode(error.path).decode("utf-8", "backslashreplace"), error.reason, error.message, clips_used)


class SkipReport:
    """A growing list of files that were left out."""

    def __init__(self, skips: Iterable[Skip] = ()) -> None:
        self._skips = list(skips)

    def add(self, path: str | Path, reason: str, message: str, *, clips_used: int = 0) -> None:
        self.add_skip(Skip.of(MediaError(path, reason, message), clips_used=clips_used))

    def add_skip(self, skip: Skip) -> None:
        self._skips.append(skip)

    @property
    def total(self) -> int:
        """How many files were left out."""
        return len(self._skips)

    def __len__(self) -> int:
        return len(self._skips)

    def __iter__(self) -> Iterator[Skip]:
        return iter(self._skips)

    @property
    def counts(self) -> dict[str, int]:
        """How many files for each reason, most frequent first."""
        return dict(Counter(skip.reason for skip in self._skips).most_common())

    @property
    def summary(self) -> str:
        """One line, e.g. "5 files left out: 3 silent, 2 too short"."""
        if not self._skips:
            return "no file left out"
        told = ", ".join(f"{count} {WORDS[reason]}" for reason, count in self.counts.items())
        return f"{len(self)} {'file' if len(self) == 1 else 'files'} left out: {told}"

    @classmethod
    def read(cls, place: Place) -> SkipReport:
        """The report that `write` left in a folder; an empty one where there is none."""
        try:
            text = open_folder(place).read_text("skipped.json")
        except FileNotFoundError:
            return cls()
        return cls(Skip(**values) for values in json.loads(text)["files"])

    def write(self, place: Place) -> None:
        """Writes `skipped.json` for machines and `skipped.txt` for people; each file appears whole or not at all."""
        card = {"counts": self.counts, "files": [asdict(skip) for skip in self._skips]}
        folder = open_folder(place)
        folder.write_text("skipped.json", json.dumps(card, indent=1))
        folder.write_text("skipped.txt", self.text())

    def text(self) -> str:
        lines = [self.summary, ""]
        for reason in self.counts:
            lines.append(f"{WORDS[reason]}:")
            lines += [f"  {skip.path}: {_told(skip)}" for skip in self._skips if skip.reason == reason]
            lines.append("")
        return "\n".join(lines)


def _told(skip: Skip) -> str:
    return skip.message if skip.clips_used == 0 else f"{skip.message} (its first {skip.clips_used} clips are used)"


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
