"""Adds films to a clip store, a few at a time; each commit shows all its rows or none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cmmixer.data.clip_encoding import FilmRows
from cmmixer.data.manifest import Entry, readable
from cmmixer.data.store import FILE_VERSION, SCHEMA, TABLE, open_table
from cmmixer.storage.folder import Folder, Held
from cmmixer.storage.lance_table import GrowingTable, read_beside, write_beside

# An entry's key and a clip's id.
RowKey = tuple[str, str]


def rows_of(entry: Entry, film: FilmRows, sample_rate_hz: int) -> list[dict[str, Any]]:
    """The clips of a film as rows of the table."""
    return [
        {
            "id": clip.id,
            "entry": entry.key,
            "path": readable(entry.path),
            "source": entry.source,
            "label": entry.label,
            "split": entry.split,
            "start_seconds": clip.span.start_seconds,
            "end_seconds": clip.span.end_seconds,
            "frame_times": clip.times_seconds,
            "frame_bytes": list(map(len, clip.jpegs)),
            "frames": b"".join(clip.jpegs),
            "windows": clip.windows,
            "sample_rate_hz": sample_rate_hz,
            "film_fingerprint": film.fingerprint,
        }
        for clip in film.clips
    ]


@dataclass(frozen=True)
class WrittenPart:
    """Rows that lie in the table's folder and belong to no version of the table yet.

    Attributes:
        fragments: Lance's description of each file, as JSON.
        keys: of their rows, the entry's and the clip's: stretches of one film may hold the same clip.
    """

    fragments: list[str]
    keys: list[RowKey]

    def __add__(self, other: WrittenPart) -> WrittenPart:
        return WrittenPart(self.fragments + other.fragments, self.keys + other.keys)


def write_part(folder: Folder, rows: list[dict[str, Any]]) -> WrittenPart:
    """Writes rows beside the table, from whatever machine; they show once `StoreWriter.commit` takes them up."""
    return WrittenPart(write_beside(folder, TABLE, pa.Table.from_pylist(rows, SCHEMA)), list(map(_key, rows)))


class StoreWriter:
    """Adds the rows of films to a store. One process at a time may write.

    Args:
        folder: an existing folder that holds nothing but a store, or nothing.
        held: the right to write to it.
    """

    def __init__(self, folder: Folder, held: Held) -> None:
        self.folder = folder
        self._table = GrowingTable(folder, TABLE, SCHEMA, held, FILE_VERSION)
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0
        self._parts: list[str] = []

    def films(self) -> dict[str, tuple[str, str]]:
        """The films whose rows are committed: entry key -> (path, fingerprint)."""
        columns = open_table(self.folder).to_table(columns=["entry", "path", "film_fingerprint"], scan_in_order=True)
        return {row["entry"]: (row["path"], row["film_fingerprint"]) for row in columns.to_pylist()}

    def add(self, entry: Entry, film: FilmRows, sample_rate_hz: int) -> None:
        """Takes the clips of a film; `commit` shows them."""
        self._pending += rows_of(entry, film, sample_rate_hz)
        self._pending_bytes += film.bytes

    def add_part(self, part: WrittenPart, kept: Collection[RowKey]) -> None:
        """Takes those of the rows that a worker has written whose keys are in `kept`; `commit` shows them."""
        if set(part.keys) == set(kept):
            self._parts += part.fragments
        elif kept:  # a few are duplicates of what came before: the rest is written anew, and the old file cleared away
            rows = read_beside(self.folder, TABLE, part.fragments).to_pylist()
            self._parts += write_part(self.folder, [row for row in rows if _key(row) in kept]).fragments

    @property
    def pending_bytes(self) -> int:
        """Bytes of pictures and sound that are not committed yet and lie in memory."""
        return self._pending_bytes

    def commit(self) -> None:
        """Shows the pending rows in one atomic step."""
        if self._pending:
            self._table.append(pa.Table.from_pylist(self._pending, SCHEMA))
            self._pending, self._pending_bytes = [], 0
        self._table.commit(self._parts)
        self._parts = []

    def tidy(self) -> None:
        """Removes older versions of the table's list of files, and files that killed writers left."""
        self._table.tidy()


def _key(row: dict[str, Any]) -> RowKey:
    return row["entry"], row["id"]
