"""The folder that `cmmixer embed` writes: vectors as a Lance table that many machines fill and a killed run resumes.

    vectors.json         which model made them, how files are cut, how vectors are stored
    vectors.lance/       one row a moment: the columns of the Parquet file, and `entry`
    journal.jsonl        files without a moment, or with only some
    skipped.json, .txt   the same as a report, written at the end

The rows of a file are committed together. The rows and the journal record which files are done.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from cmmixer.config import ClipSettings, SegmentSettings
from cmmixer.data.manifest import Entry, Listing, distinct
from cmmixer.data.skips import Journal, Skip, SkipReport
from cmmixer.embedding.parquet import VectorWriter, parquet_schema
from cmmixer.embedding.pipeline import EmbeddedFile
from cmmixer.encoders.base import Encoder
from cmmixer.errors import StoreError
from cmmixer.storage.folder import Folder, WriteLock
from cmmixer.storage.lance_table import GrowingTable, write_uncommitted
from cmmixer.storage.metadata import FolderMetadata, MetadataFile
from cmmixer.version import __version__

FORMAT = 2
METADATA, TABLE, JOURNAL, LOCK = "vectors.json", "vectors.lance", "journal.jsonl", ".lock"
OWN_FILES = (METADATA, TABLE, JOURNAL, LOCK, "skipped.json", "skipped.txt")

COMMIT_SECONDS = 10.0
COMMIT_ROWS = 20_000


@dataclass(frozen=True, kw_only=True)
class VectorsMetadata(FolderMetadata):
    """What a folder of vectors holds and how it was made: `vectors.json`.

    Attributes:
        model_id: sha256 of the model's weights.
        model: path of the model when the folder was made.
        embed_dim: length of a vector.
        clip: geometry of the model's clip.
        segmentation: how files are cut into moments.
        vectors: how vectors are stored: fp32, bf16 or int8.
        frames: whether the vectors of frames are stored too.
        complete: whether every file was processed; False after a kill.
        created_by: version of this package.
    """

    FILE: ClassVar[MetadataFile] = MetadataFile(
        what="vectors",
        name=METADATA,
        format=FORMAT,
        error=StoreError,
        make="make some with `cmmixer embed`",
        remake="embed into another folder",
    )

    model_id: str
    model: str
    embed_dim: int
    clip: ClipSettings
    segmentation: SegmentSettings
    vectors: str
    frames: bool
    complete: bool = False
    created_by: str = f"cmmixer {__version__}"

    @classmethod
    def of(cls, encoder: Encoder, segmentation: SegmentSettings, vectors: str, *, frames: bool) -> VectorsMetadata:
        """Describes a new folder."""
        return cls(
            model_id=encoder.id,
            model=encoder.path,
            embed_dim=encoder.dim,
            clip=encoder.clip,
            segmentation=segmentation.complete(encoder.clip),
            vectors=vectors,
            frames=frames,
        )

    def schema(self) -> pa.Schema:
        """Columns of the table; its schema metadata is that of the Parquet file."""
        about = {name: value for name, value in asdict(self).items() if name in _IN_SCHEMA}
        columns = parquet_schema(self.vectors, frames=self.frames)
        return pa.schema([*columns, pa.field("entry", pa.string())], {"cmmixer": json.dumps(about)})

    def check_same(self, wanted: VectorsMetadata, folder: Folder) -> None:
        """Refuses to mix vectors that are made differently.

        Raises:
            StoreError: names what differs.
        """
        names = [field.name for field in dataclasses.fields(self) if field.name not in _MAY_DIFFER]
        pairs = [(name, getattr(self, name), getattr(wanted, name)) for name in names]
        differences = "; ".join(f"{name}: got {new}, holds {own}" for name, own, new in pairs if own != new)
        if differences:
            raise StoreError(f"{folder}: holds vectors made differently: {differences}; choose another folder")


_IN_SCHEMA = ("model_id", "embed_dim", "clip", "vectors")
_MAY_DIFFER = ("model", "complete", "created_by")


class WrittenFiles(NamedTuple):
    """Files whose rows are written but not committed.

    Attributes:
        files: of each its key, its number of moments, and what was left out of it.
        fragments: Lance's description of the data files.
    """

    files: list[tuple[str, int, Skip | None]]
    fragments: list[str]


def write_files(folder: Folder, metadata: VectorsMetadata, files: Iterable[EmbeddedFile]) -> WrittenFiles:
    """Writes the moments of files next to the table, on any machine; `VectorFolder.add` adds them to it."""
    written: list[tuple[str, int, Skip | None]] = []
    batches = _Batches()
    columns = parquet_schema(metadata.vectors, frames=metadata.frames)
    writer = VectorWriter(batches, columns, metadata.vectors, metadata.embed_dim)
    for file in files:
        writer.write(file)
        count = len(file.moments)
        skip = Skip.of(file.errors[0], clips_used=count) if file.errors else None
        written.append((file.entry.key, count, skip))
    writer.flush()
    keys = np.repeat(np.array([key for key, _, _ in written], dtype=object), [count for _, count, _ in written])
    schema = metadata.schema()
    rows = pa.Table.from_batches(batches.all, schema=columns)
    rows = rows.append_column(schema.field("entry"), pa.array(keys, pa.string())).cast(schema)
    return WrittenFiles(written, write_uncommitted(folder, TABLE, rows))


class _Batches:
    """Collects batches in memory, in place of a Parquet file."""

    def __init__(self) -> None:
        self.all: list[pa.RecordBatch] = []

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self.all.append(batch)


class VectorFolder:
    """The one writer of a folder of vectors.

    Args:
        folder: an existing folder.
        lock: its write lock.
        metadata: of the vectors to write.

    Raises:
        StoreError: the folder holds something else, or vectors made differently.
    """

    def __init__(self, folder: Folder, lock: WriteLock, metadata: VectorsMetadata) -> None:
        foreign = [name for name in folder.names() if name not in OWN_FILES]
        if foreign:
            raise StoreError(f"{folder}: holds {foreign[0]!r}, expected only vectors; choose an empty folder")
        if folder.has(METADATA):
            VectorsMetadata.read(folder).check_same(metadata, folder)
        self.folder, self.metadata = folder, metadata
        metadata.write(folder)
        self._table = GrowingTable(folder, TABLE, metadata.schema(), lock)
        self._journal = Journal(folder, JOURNAL)
        self._stored = set(self._table.open().to_table(columns=["entry"])["entry"].unique().to_pylist())
        self._fragments: list[str] = []
        self._rows = 0
        self._committed = time.monotonic()

    def missing(self, entries: list[Entry]) -> list[Entry]:
        """Returns the entries that are not done yet."""
        rest = distinct(entries)[0]
        return [entry for entry in rest if entry.key not in self._stored and not self._journal.settles(entry.key)]

    def add(self, written: WrittenFiles) -> None:
        """Records files; commits every few seconds."""
        for key, moments, skip in written.files:
            if skip is not None:
                self._journal.add(key, skip)
            if moments:
                self._stored.add(key)
                self._rows += moments
        self._fragments += written.fragments
        if self._rows >= COMMIT_ROWS or time.monotonic() - self._committed > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Makes everything recorded visible in one atomic step."""
        self._journal.commit()
        self._table.commit(self._fragments)
        self._fragments, self._rows, self._committed = [], 0, time.monotonic()

    def finish(self, listing: Listing) -> tuple[int, int, SkipReport]:
        """Commits the rest, writes the report and marks the folder complete.

        Returns:
            Number of files with moments, number of moments, and what was left out.
        """
        self.commit()
        journaled = self._journal.skips.items()
        skipped = [skip for key, skip in journaled if skip.clips_used > 0 or key not in self._stored]
        skips = SkipReport([*skipped, *distinct(listing.entries)[1], *listing.ignored])
        skips.write(self.folder)
        self._table.tidy()
        replace(self.metadata, complete=True).write(self.folder)
        return len(self._stored), int(self._table.open().count_rows()), skips


def in_groups(files: Iterable[EmbeddedFile]) -> Iterator[list[EmbeddedFile]]:
    """Groups files as they come, a few seconds' worth at a time."""
    group: list[EmbeddedFile] = []
    rows, since = 0, time.monotonic()
    for file in files:
        group.append(file)
        rows += len(file.moments)
        if rows >= COMMIT_ROWS or time.monotonic() - since > COMMIT_SECONDS:
            yield group
            group, rows, since = [], 0, time.monotonic()
    if group:
        yield group


def vectors_table(folder: Folder) -> Any:
    """Opens the table of a folder as a Lance dataset.

    Raises:
        StoreError: there are no vectors.
    """
    import lance

    VectorsMetadata.read(folder)
    return lance.dataset(folder.child(TABLE), storage_options=folder.storage_options)
