"""The folder of an index: what is in it, and how it stays whole whatever kills the process.

    library/
      index.json       which model made it, how moments are cut
      files.lance      one row a file: what it was when it was read, whether it is used, why not
      moments.lance    one row a moment: where it is, its vectors
      skipped.txt      files left out, and why (skipped.json for machines)
      writing          locked, and not empty, while a process writes

A file's row names the `batch` key of its moments, and moments count only while a row names their key. So the row is the
commit mark: moments are added first, then the row is written, then the moments of the row before are removed. Killed
anywhere between, the index answers as before or as after; the next writer removes what no row names.

Letters: Q query vectors, E values of a vector.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cmmixer.atomic import remove_leftovers, write_atomically
from cmmixer.data.skips import SkipReport
from cmmixer.embedding import Encoder
from cmmixer.errors import SearchIndexError
from cmmixer.indexing.card import NAME, IndexCard, read_card
from cmmixer.indexing.guard import only_writer, short, told_clearly
from cmmixer.indexing.rows import FILES_SCHEMA, FileRow
from cmmixer.version import __version__

# A search that began before a clean-up may still read what it removes; an hour is longer than any search.
_KEEP_OLD_VERSIONS = timedelta(hours=1)
_KEYS_PER_STATEMENT = 500


@dataclass
class _Waiting:
    """What the next commit writes."""

    files: list[dict[str, Any]] = field(default_factory=list)
    moments: list[dict[str, Any]] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)


class MomentIndex:
    """An open index. Reading needs no lock; `writing` gives one process at a time the right to write."""

    def __init__(self, folder: Path, card: IndexCard, *, create: bool = False) -> None:
        self.folder = folder
        self.card = card
        self._waiting = _Waiting()
        with told_clearly(folder):
            database = lancedb.connect(folder)
            there = set(database.list_tables().tables)
            if not create and not {"files", "moments"} <= there:
                raise SearchIndexError(f"{folder}: is damaged or was never filled; run `cmmixer index` on it again")
            self._files = _table(database, "files", FILES_SCHEMA)
            self._moments = _table(database, "moments", card.moments_schema())

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Opens an index for searching.

        Raises:
            SearchIndexError: it is missing or damaged.
        """
        folder = Path(folder)
        return cls(folder, read_card(folder))

    @classmethod
    @contextmanager
    def writing(cls, folder: str | Path, encoder: Encoder, stride_seconds: float | None) -> Iterator[Self]:
        """Opens or makes an index for writing; what a killed process left half done is cleared away first.

        Args:
            folder: of the index.
            encoder: the model; another one than the index's own is refused.
            stride_seconds: for a new index; None: half a clip, or the index's own.

        Raises:
            SearchIndexError: another model or stride, a folder that is no index, another process writing, a full disk.
        """
        folder = Path(folder)
        with told_clearly(folder):
            card = _card_for_writing(folder, encoder, stride_seconds)
            with only_writer(folder) as interrupted:
                remove_leftovers(folder)
                index = cls(folder, card, create=True)
                if interrupted:
                    index._remove_unnamed()
                yield index
                index.commit()

    # ---------------------------------------------------------------------------------------------------- reading

    def files(self) -> Iterator[FileRow]:
        """All rows of files."""
        names = [entry.name for entry in fields(FileRow)]
        with told_clearly(self.folder):
            for batch in self._files.search().select(names).to_batches():
                yield from (FileRow(**row) for row in batch.to_pylist())

    def count(self) -> int:
        """How many moments it holds."""
        with told_clearly(self.folder):
            return int(self._moments.count_rows())

    def nearest(
        self,
        vectors_QE: NDArray[np.float32],
        sense: str,
        limit: int,
        *,
        frames: bool = False,
        batches: Collection[str] | None = None,
    ) -> list[dict[str, Any]]:
        """The moments nearest to each query vector, found exactly (by looking at all).

        Args:
            vectors_QE: unit vectors, of one sense.
            sense: `audio` or `video`, the moments' sense to compare with.
            limit: how many for each query vector.
            frames: whether the vectors of the moments' frames are wanted too.
            batches: only moments with these keys; None: all.

        Returns:
            Rows with `query` (its place), the moment's columns but its vectors, `score`, the cosine similarity, and where
            wanted `frames`, float32 [T, E].
        """
        in_order = f"{sense}_frames"
        columns = ["id", "batch", "path", "audio_path", "source", "label", "start_seconds", "end_seconds", "_distance"]
        rows: list[dict[str, Any]] = []
        with told_clearly(self.folder):
            for query, vector_E in enumerate(vectors_QE):
                search = self._moments.search(vector_E, vector_column_name=sense).distance_type("dot")
                if batches is not None:
                    search = search.where(_is_in(sorted(batches)), prefilter=True)
                found = search.select([*columns, in_order] if frames else columns).limit(limit).to_arrow()
                for row in found.drop_columns([in_order] if frames else []).to_pylist():
                    rows.append({**row, "query": query, "score": 1.0 - row.pop("_distance")})
                if frames and len(found):
                    values = found[in_order].combine_chunks().flatten().to_numpy().astype(np.float32)
                    shaped_NTE = values.reshape(len(found), self.card.clip.frames, self.card.embed_dim)
                    for row, frames_TE in zip(rows[-len(found) :], shaped_NTE, strict=True):
                        row["frames"] = frames_TE
        return rows

    def stretches(self) -> dict[str, tuple[float, float]]:
        """For each key of moments the second at which its first moment begins and its last one ends."""
        stretches: dict[str, tuple[float, float]] = {}
        with told_clearly(self.folder):
            for part in self._moments.search().select(["batch", "start_seconds", "end_seconds"]).to_batches():
                ends = pa.table(part).group_by("batch").aggregate([("start_seconds", "min"), ("end_seconds", "max")])
                for row in ends.to_pylist():
                    first, last = row["start_seconds_min"], row["end_seconds_max"]
                    start, end = stretches.get(row["batch"], (first, last))
                    stretches[row["batch"]] = (min(start, first), max(end, last))
        return stretches

    def moments(self, batch: str) -> list[dict[str, Any]]:
        """The moments of one key in order of time, with the vectors of both senses and of the film (None where missing)."""
        columns = ["id", "start_seconds", "end_seconds", "video", "audio", "film"]
        with told_clearly(self.folder):
            rows: list[dict[str, Any]] = self._moments.search().where(_is_in([batch])).select(columns).to_list()
        return sorted(rows, key=lambda row: (row["start_seconds"], row["id"]))

    def named(self, batches: Iterable[str]) -> set[str]:
        """Those of these keys that a file's row names; moments of others do not count."""
        names: set[str] = set()
        with told_clearly(self.folder):
            for chunk in _chunks(sorted(set(batches))):
                rows = self._files.search().where(_is_in(chunk)).select(["batch"]).limit(len(chunk)).to_list()
                names |= {row["batch"] for row in rows}
        return names

    # ---------------------------------------------------------------------------------------------------- writing

    def put(self, row: FileRow, moments: Sequence[dict[str, Any]], before: FileRow | None) -> None:
        """Queues a file and its moments, in place of what is there; see `commit`."""
        self._waiting.files.append(asdict(row))
        self._waiting.moments += moments
        if before is not None and before.batch is not None and before.batch != row.batch:
            self._waiting.outdated.append(before.batch)

    @property
    def waiting(self) -> int:
        """How many rows the next commit writes."""
        return len(self._waiting.files) + len(self._waiting.moments)

    def commit(self) -> None:
        """Writes what is queued: new moments, then the rows that name them, then away with the old moments.

        Raises:
            SearchIndexError: the disk is full; what was committed before stays valid.
        """
        if not self._waiting.files:
            return
        waiting, self._waiting = self._waiting, _Waiting()
        with told_clearly(self.folder):
            if waiting.moments:
                self._moments.add(pa.Table.from_pylist(waiting.moments, schema=self.card.moments_schema()))
            rows = pa.Table.from_pylist(waiting.files, schema=FILES_SCHEMA)
            self._files.merge_insert("name").when_matched_update_all().when_not_matched_insert_all().execute(rows)
            self._delete_batches(waiting.outdated)

    def remove(self, rows: Iterable[FileRow]) -> None:
        """Takes files out of the index: first the rows, so that they no longer count, then their moments."""
        rows = list(rows)
        with told_clearly(self.folder):
            for chunk in _chunks([row.name for row in rows]):
                self._files.delete(_is_in(chunk, "name"))
            self._delete_batches([row.batch for row in rows if row.batch is not None])

    def write_skips(self, skips: SkipReport) -> None:
        """Writes skipped.json and skipped.txt."""
        with told_clearly(self.folder):
            skips.write(self.folder)

    def tidy(self) -> None:
        """Joins the many small parts that commits leave, and drops versions that no search still reads."""
        with told_clearly(self.folder):
            for table in (self._files, self._moments):
                table.optimize(cleanup_older_than=_KEEP_OLD_VERSIONS)

    def _remove_unnamed(self) -> None:
        named = {row.batch for row in self.files()}
        there: set[str] = set()
        with told_clearly(self.folder):
            for batch in self._moments.search().select(["batch"]).to_batches():
                there |= set(batch["batch"].unique().to_pylist())
        self._delete_batches(sorted(there - named))

    def _delete_batches(self, batches: Sequence[str]) -> None:
        with told_clearly(self.folder):
            for chunk in _chunks(batches):
                self._moments.delete(_is_in(chunk))


def _table(database: Any, name: str, schema: pa.Schema) -> Any:
    try:
        table = database.create_table(name, schema=schema, exist_ok=True)
    except (ValueError, KeyError) as fault:
        raise SearchIndexError(
            f"{database.uri}: {name}.lance is damaged ({short(fault)}); make an index in a new folder"
        ) from fault
    if table.schema != schema:
        raise SearchIndexError(
            f"{database.uri}: {name}.lance has other columns than expected; make an index in a new folder"
        )
    return table


def _card_for_writing(folder: Path, encoder: Encoder, stride_seconds: float | None) -> IndexCard:
    """The card that is there, checked, or that of a new index."""
    if folder.is_dir() and any(folder.iterdir()):
        card = read_card(folder)
        card.check_encoder(encoder, folder)
        if stride_seconds is not None and stride_seconds != card.stride_seconds:
            raise SearchIndexError(
                f"{folder}: its moments start every {card.stride_seconds:g} s, got --stride_seconds {stride_seconds:g}; "
                "leave it out, or make an index in a new folder"
            )
        return card
    if folder.exists() and not folder.is_dir():
        raise SearchIndexError(f"{folder}: got a file, expected the folder of an index")
    stride = encoder.clip.clip_seconds / 2 if stride_seconds is None else stride_seconds
    card = IndexCard(
        model_id=encoder.id,
        model=encoder.path,
        embed_dim=encoder.dim,
        clip=encoder.clip,
        stride_seconds=stride,
        version=__version__,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / NAME, card.text())
    return card


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), _KEYS_PER_STATEMENT):
        yield items[start : start + _KEYS_PER_STATEMENT]


def _is_in(values: Sequence[str], column: str = "batch") -> str:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"
