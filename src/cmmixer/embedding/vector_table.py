"""The folder of `cmmixer embed`: vectors as a Lance table that many machines fill, and that is gone on with after a kill.

    vectors.json         which model made them, how films are cut, how vectors are stored
    vectors.lance/       one row a moment: the columns of the Parquet file, and `entry`
    journal.jsonl        films that gave no moment, or only some
    skipped.json, .txt   the same as a report, written at the end

A film's rows are committed together; the rows and the journal say which films are done.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from cmmixer.config import ClipSettings, CuttingSettings
from cmmixer.config.base import from_dict
from cmmixer.data.manifest import Entry, Listing, distinct
from cmmixer.data.skips import Journal, Skip, SkipReport
from cmmixer.embedding.parquet import VectorWriter, parquet_schema
from cmmixer.embedding.pipeline import EmbeddedFilm
from cmmixer.encoders.base import Encoder
from cmmixer.errors import StoreError
from cmmixer.storage.folder import Folder, Held
from cmmixer.storage.lance_table import GrowingTable, write_beside
from cmmixer.version import __version__

FORMAT = 1
CARD, TABLE, JOURNAL, LOCK = "vectors.json", "vectors.lance", "journal.jsonl", ".lock"
OWN_FILES = (CARD, TABLE, JOURNAL, LOCK, "skipped.json", "skipped.txt")

COMMIT_SECONDS = 10.0
COMMIT_ROWS = 20_000


@dataclass(frozen=True, kw_only=True)
class VectorsCard:
    """What the folder holds and how it was made.

    Attributes:
        model_id: sha256 of the model's weights.
        model: where it was.
        embed_dim: length of a vector.
        clip: geometry of the model's clip.
        cutting: how films were cut into moments.
        vectors: how vectors are stored: fp32, bf16 or int8.
        frames: whether those of frames are there too.
        complete: whether every film was met; a killed `embed` leaves False.
        created_by: version of this package.
        format: of the folder.
    """

    model_id: str
    model: str
    embed_dim: int
    clip: ClipSettings
    cutting: CuttingSettings
    vectors: str
    frames: bool
    complete: bool = False
    created_by: str = f"cmmixer {__version__}"
    format: int = FORMAT

    @classmethod
    def of(cls, encoder: Encoder, cutting: CuttingSettings, vectors: str, *, frames: bool) -> VectorsCard:
        """The card of a new folder."""
        return cls(
            model_id=encoder.id,
            model=encoder.path,
            embed_dim=encoder.dim,
            clip=encoder.clip,
            cutting=cutting.of(encoder.clip),
            vectors=vectors,
            frames=frames,
        )

    @classmethod
    def read(cls, folder: Folder) -> VectorsCard:
        """The card of a folder.

        Raises:
            StoreError: none there, damaged, or of another version.
        """
        try:
            values = json.loads(folder.read_text(CARD))
            if values["format"] != FORMAT:
                raise StoreError(f"{folder}: format {values['format']}, expected {FORMAT}; embed into another folder")
            where = folder.child(CARD)
            clip, cutting = from_dict(ClipSettings, values["clip"], where), CuttingSettings(**values["cutting"])
            return cls(**{**values, "clip": clip, "cutting": cutting})
        except FileNotFoundError as fault:
            raise StoreError(
                f"{folder}: no vectors there ({CARD} is missing); make some with `cmmixer embed`"
            ) from fault
        except (ValueError, KeyError, TypeError) as fault:
            raise StoreError(f"{folder.child(CARD)}: damaged: {fault!r}; embed into another folder") from fault

    def write(self, folder: Folder) -> None:
        folder.write_text(CARD, json.dumps(asdict(self), indent=1) + "\n")

    def schema(self) -> pa.Schema:
        """Columns of the table; its metadata are those of the Parquet file."""
        about = {name: value for name, value in asdict(self).items() if name in _IN_METADATA}
        columns = parquet_schema(self.vectors, frames=self.frames)
        return pa.schema([*columns, pa.field("entry", pa.string())], {"cmmixer": json.dumps(about)})

    def refuse_other(self, asked: VectorsCard, folder: Folder) -> None:
        """Vectors of one folder are made alike.

        Raises:
            StoreError: says what differs.
        """
        names = [field.name for field in dataclasses.fields(self) if field.name not in _MAY_DIFFER]
        pairs = [(name, getattr(self, name), getattr(asked, name)) for name in names]
        told = "; ".join(
            f"{name} {there} there, {wanted} asked for" for name, there, wanted in pairs if there != wanted
        )
        if told:
            raise StoreError(f"{folder}: holds vectors made differently: {told}; choose another folder")


_IN_METADATA = ("model_id", "embed_dim", "clip", "vectors")
_MAY_DIFFER = ("model", "complete", "created_by", "format")


class WrittenFilms(NamedTuple):
    """Films whose rows are written and not committed.

    Attributes:
        films: of each its key, how many moments it has, and what was left out of it.
        fragments: Lance's description of the files.
    """

    films: list[tuple[str, int, Skip | None]]
    fragments: list[str]


def write_films(folder: Folder, card: VectorsCard, films: Iterable[EmbeddedFilm]) -> WrittenFilms:
    """Writes the moments of films beside the table, from whatever machine."""
    told: list[tuple[str, int, Skip | None]] = []
    batches = _Batches()
    writer = VectorWriter(batches, parquet_schema(card.vectors, frames=card.frames), card.vectors, card.embed_dim)
    for film in films:
        writer.write(film)
        count = len(film.moments)
        told.append((film.entry.key, count, Skip.of(film.faults[0], clips_used=count) if film.faults else None))
    writer.flush()
    keys = np.repeat(np.array([key for key, _, _ in told], dtype=object), [count for _, count, _ in told])
    schema = card.schema()
    rows = pa.Table.from_batches(batches.all, schema=parquet_schema(card.vectors, frames=card.frames))
    rows = rows.append_column(schema.field("entry"), pa.array(keys, pa.string())).cast(schema)
    return WrittenFilms(told, write_beside(folder, TABLE, rows))


class _Batches:
    """Keeps what a Parquet file would be given."""

    def __init__(self) -> None:
        self.all: list[pa.RecordBatch] = []

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self.all.append(batch)


class VectorFolder:
    """The one writer of a folder of vectors.

    Args:
        folder: exists.
        held: the right to write to it.
        card: of what shall be in it.

    Raises:
        StoreError: it holds something else, or vectors made differently.
    """

    def __init__(self, folder: Folder, held: Held, card: VectorsCard) -> None:
        foreign = [name for name in folder.names() if name not in OWN_FILES]
        if foreign:
            raise StoreError(
                f"{folder}: holds {foreign[0]!r}, which is not of a folder of vectors; choose an empty one"
            )
        if folder.has(CARD):
            VectorsCard.read(folder).refuse_other(card, folder)
        self.folder, self.card = folder, card
        card.write(folder)
        self._table = GrowingTable(folder, TABLE, card.schema(), held)
        self._journal = Journal(folder, JOURNAL)
        self._stored = set(self._table.open().to_table(columns=["entry"])["entry"].unique().to_pylist())
        self._fragments: list[str] = []
        self._rows = 0
        self._committed = time.monotonic()

    def todo(self, entries: list[Entry]) -> list[Entry]:
        """Those that are not done yet."""
        rest = distinct(entries)[0]
        return [entry for entry in rest if entry.key not in self._stored and not self._journal.settles(entry.key)]

    def take(self, written: WrittenFilms) -> None:
        """Notes films; they are committed every few seconds."""
        for key, moments, skip in written.films:
            if skip is not None:
                self._journal.add(key, skip)
            if moments:
                self._stored.add(key)
                self._rows += moments
        self._fragments += written.fragments
        if self._rows >= COMMIT_ROWS or time.monotonic() - self._committed > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Shows everything taken in one atomic step."""
        self._journal.commit()
        self._table.commit(self._fragments)
        self._fragments, self._rows, self._committed = [], 0, time.monotonic()

    def finish(self, listing: Listing) -> tuple[int, int, SkipReport]:
        """Commits the rest, writes the report, declares the folder complete.

        Returns:
            How many films and how many moments it holds, and what was left out.
        """
        self.commit()
        noted = self._journal.skips.items()
        told = [skip for key, skip in noted if skip.clips_used > 0 or key not in self._stored]
        skips = SkipReport([*told, *distinct(listing.entries)[1], *listing.ignored])
        skips.write(self.folder)
        self._table.tidy()
        replace(self.card, complete=True).write(self.folder)
        return len(self._stored), int(self._table.open().count_rows()), skips


def chunks(films: Iterable[EmbeddedFilm]) -> Iterator[list[EmbeddedFilm]]:
    """Films as they come, some seconds' worth at a time."""
    waiting: list[EmbeddedFilm] = []
    rows, since = 0, time.monotonic()
    for film in films:
        waiting.append(film)
        rows += len(film.moments)
        if rows >= COMMIT_ROWS or time.monotonic() - since > COMMIT_SECONDS:
            yield waiting
            waiting, rows, since = [], 0, time.monotonic()
    if waiting:
        yield waiting


def vectors_table(folder: Folder) -> Any:
    """The table of a folder, as a Lance data set to read.

    Raises:
        StoreError: no vectors there.
    """
    import lance

    VectorsCard.read(folder)
    return lance.dataset(folder.child(TABLE), storage_options=folder.storage_options)
