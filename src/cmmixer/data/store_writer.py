"""Writing to a clip store: rows of videos, a few at a time; each commit shows all its rows or none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cmmixer.data.clip_encoding import EncodedMedia
from cmmixer.data.manifest import Entry, readable
from cmmixer.data.store import FILE_VERSION, SCHEMA, TABLE, open_table
from cmmixer.storage.folder import Folder, WriteLock
from cmmixer.storage.lance_table import GrowingTable, read_uncommitted, write_uncommitted

# An entry's key and a clip's id.
RowKey = tuple[str, str]


def rows_of(entry: Entry, video: EncodedMedia, sample_rate_hz: int) -> list[dict[str, Any]]:
    """Returns the clips of a video as rows of the table."""
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
            "video_fingerprint": video.fingerprint,
        }
        for clip in video.clips
    ]


@dataclass(frozen=True)
class WrittenPart:
    """Rows written to the table's folder that no version of the table includes yet.

    Attributes:
        fragments: Lance's description of each file, as JSON.
        keys: entry and clip of each row. Both, because stretches of one video may hold the same clip.
    """

    fragments: list[str]
    keys: list[RowKey]

    def __add__(self, other: WrittenPart) -> WrittenPart:
        return WrittenPart(self.fragments + other.fragments, self.keys + other.keys)


def write_part(folder: Folder, rows: list[dict[str, Any]]) -> WrittenPart:
    """Writes rows beside the table, from any machine; `StoreWriter.commit` makes them part of it."""
    return WrittenPart(write_uncommitted(folder, TABLE, pa.Table.from_pylist(rows, SCHEMA)), list(map(_key, rows)))


class StoreWriter:
    """Adds rows of videos to a store. Only one process at a time may write.

    Args:
        folder: an existing folder that is empty or holds a store.
        held: the lock on it.
    """

    def __init__(self, folder: Folder, held: WriteLock) -> None:
        self.folder = folder
        self._table = GrowingTable(folder, TABLE, SCHEMA, held, FILE_VERSION)
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0
        self._parts: list[str] = []

    def videos(self) -> dict[str, tuple[str, str]]:
        """Returns the videos whose rows are committed: entry key -> (path, fingerprint)."""
        columns = open_table(self.folder).to_table(columns=["entry", "path", "video_fingerprint"], scan_in_order=True)
        return {row["entry"]: (row["path"], row["video_fingerprint"]) for row in columns.to_pylist()}

    def add(self, entry: Entry, video: EncodedMedia, sample_rate_hz: int) -> None:
        """Adds the clips of a video; `commit` writes them."""
        self._pending += rows_of(entry, video, sample_rate_hz)
        self._pending_bytes += video.bytes

    def add_part(self, part: WrittenPart, kept: Collection[RowKey]) -> None:
        """Adds rows that a worker has written, limited to the keys in `kept`; `commit` makes them part of the table."""
        if set(part.keys) == set(kept):
            self._parts += part.fragments
        elif kept:  # some are duplicates: the others are written again, and `tidy` removes the old file
            rows = read_uncommitted(self.folder, TABLE, part.fragments).to_pylist()
            self._parts += write_part(self.folder, [row for row in rows if _key(row) in kept]).fragments

    @property
    def pending_bytes(self) -> int:
        """Bytes of frames and audio in memory that are not committed yet."""
        return self._pending_bytes

    def commit(self) -> None:
        """Makes all pending rows part of the table in one atomic step."""
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
