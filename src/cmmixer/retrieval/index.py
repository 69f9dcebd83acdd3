"""The folder of an index: reading it, writing to it, and why it survives a kill at any moment.

    library/
      index.json       which model made it, how files are cut, how each modality is searched
      files.lance      one row a file: its size, time and checksum, whether it is used, why not
      moments.lance    one row a moment: where it is, its vectors
      skipped.txt      files left out, and why (skipped.json for machines)
      writing          locked, and not empty, while a process writes

The row of a file names the `batch` key of its moments. Moments count only while a row names their key, so the row is the
commit mark: moments are added first, then the row is written, then the moments of the previous row are deleted. After a
kill at any point the index answers as before or as after; the next writer deletes moments that no row names.

Letters: Q query vectors, T frames of a moment, E values of a vector.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cmmixer.config import SegmentSettings
from cmmixer.data.skips import SkipReport
from cmmixer.encoders.base import Encoder
from cmmixer.errors import SearchIndexError
from cmmixer.retrieval.schema import (
    EXACT,
    FILES_SCHEMA,
    METADATA,
    VECTOR_COLUMNS,
    ANNSettings,
    FileRow,
    IndexMetadata,
    read_metadata,
)
from cmmixer.retrieval.tables import (
    MAX_APPROXIMATE,
    index_errors,
    lock_index,
    metadata_for_writing,
    nearest_rows,
    readable_dataset,
    writable_tables,
)
from cmmixer.storage.files import remove_leftovers, write_atomically

# A search that is running may still read an old version; an hour is longer than any search.
_KEEP_OLD_VERSIONS = timedelta(hours=1)
_KEYS_PER_STATEMENT = 500


@dataclass
class _Uncommitted:
    """The rows that the next commit writes, and the keys of the moments that it deletes."""

    files: list[dict[str, Any]] = field(default_factory=list)
    moments: list[dict[str, Any]] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)


class MomentIndex:
    """An open index. Reading takes no lock; `writing` lets in one process at a time."""

    def __init__(self, folder: Path, metadata: IndexMetadata, *, create: bool = False) -> None:
        self.folder = folder
        self.metadata = metadata
        self._uncommitted = _Uncommitted()
        self._files: Any = None
        self._moments: Any = None
        schemas = {"files": FILES_SCHEMA, "moments": metadata.moments_schema()}
        with index_errors(folder):
            if create:
                self._files, self._moments = writable_tables(folder, schemas)
            elif not all((folder / f"{name}.lance").is_dir() for name in schemas):
                raise SearchIndexError(f"{folder}: is damaged or was never filled; run `cmmixer index` on it again")
            self._read = {name: readable_dataset(folder, name, schema) for name, schema in schemas.items()}

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Opens an index for reading.

        Raises:
            SearchIndexError: it is missing, damaged or of another format.
        """
        folder = Path(folder)
        return cls(folder, read_metadata(folder))

    @classmethod
    @contextmanager
    def writing(
        cls, folder: str | Path, encoder: Encoder | None = None, segmentation: SegmentSettings | None = None
    ) -> Iterator[Self]:
        """Opens or creates an index for writing, and first deletes what a killed process left unfinished.

        Args:
            folder: of the index.
            encoder: the model, which must be the index's own; None: no moments will be added.
            segmentation: for a new index; of an existing one it must be the same, where it is not None.

        Raises:
            SearchIndexError: another model or segmentation, a folder that is not an index, another process is writing, or
                the disk is full.
        """
        folder = Path(folder)
        with index_errors(folder):
            metadata = metadata_for_writing(folder, encoder, segmentation or SegmentSettings())
            with lock_index(folder) as interrupted:
                remove_leftovers(folder)
                index = cls(folder, metadata, create=True)
                if interrupted:
                    index._delete_unnamed_moments()
                    index._drop_unnamed_ann_indexes()
                yield index
                index.commit()

    def files(self) -> Iterator[FileRow]:
        """Yields the rows of all files."""
        with index_errors(self.folder):
            table = self._dataset("files")
            for batch in table.to_batches(columns=[entry.name for entry in fields(FileRow)]):
                yield from (FileRow(**row) for row in batch.to_pylist())

    def count(self) -> int:
        """Returns the number of moments."""
        with index_errors(self.folder):
            return int(self.moments.count_rows())

    @property
    def moments(self) -> Any:
        """The moments as a Lance dataset; a writer's includes what it has committed."""
        return self._dataset("moments")

    @property
    def table(self) -> Any:
        """The moments as a LanceDB table, for writers only."""
        return self._moments

    def _dataset(self, name: str) -> Any:
        table = {"files": self._files, "moments": self._moments}[name]
        return self._read[name] if table is None else table.to_lance()

    def ann_settings(self, modality: str) -> ANNSettings | None:
        """Returns how a modality is searched through its ANN index; None for exact search."""
        ann = self.metadata.ann_settings.get(modality)
        if ann is None or ann.kind == EXACT:
            return None
        with index_errors(self.folder):
            # Lance uses the first index of a column, sorted by name, and names begin with the time of building.
            return ann if self._ann_indexes(modality)[:1] == [ann.name] else None

    def nearest(
        self,
        vectors_QE: NDArray[np.float32],
        modality: str,
        limit: int,
        *,
        frames: bool = False,
        batches: Collection[str] | None = None,
        exact: bool = False,
    ) -> list[dict[str, Any]]:
        """Finds the moments nearest to each query vector: through the modality's ANN index, or exactly without one.

        Moments that were added since the ANN index was built are searched exactly.

        Args:
            vectors_QE: unit vectors.
            modality: `audio`, `video` or `any`: the vectors of moments to compare with.
            limit: moments for each query vector; more than 1,000 are always searched exactly.
            frames: include the vectors of the moments' frames.
            batches: only moments with these keys; None: all.
            exact: search exactly, whatever the metadata says.

        Returns:
            Rows of moments without their vectors, and with `query` (number of the query vector), `score` (cosine
            similarity) and, if wanted, `frames` (float32 [T, E] or None). Sorted by query, best first.

        Raises:
            SearchIndexError: vectors of another length, or a damaged index.
        """
        if vectors_QE.ndim != 2 or vectors_QE.shape[1] != self.metadata.embed_dim:
            raise SearchIndexError(
                f"{self.folder}: got vectors of shape {vectors_QE.shape}, expected (queries, {self.metadata.embed_dim}); "
                "embed the query with the model that made the index"
            )
        frame_column = f"{modality}_frames"
        columns = ["id", "batch", "path", "audio_path", "source", "label", "start_seconds", "end_seconds"]
        # Recall was measured over all moments, not over a few.
        use_ann = not exact and batches is None and limit <= MAX_APPROXIMATE
        ann = self.ann_settings(modality) if use_ann else None
        advice = "make an index in a new folder"
        if ann is not None:
            advice = (
                f"search with --exact, or run `cmmixer index --index {self.folder} --optimize`; failing that, {advice}"
            )
        with index_errors(self.folder, advice):
            wanted = [*columns, frame_column] if frames else columns
            only = None if batches is None else _is_in(sorted(batches))
            table = nearest_rows(self.moments, vectors_QE, modality, limit, wanted, ann, only=only)
        rows: list[dict[str, Any]] = table.drop_columns([frame_column] if frames else []).to_pylist()
        for row in rows:
            row.update(query=row.pop("query_index"), score=1.0 - row.pop("_distance"))
        if frames and rows:
            for row, frames_TE in zip(rows, self._frames(table[frame_column]), strict=True):
                row["frames"] = frames_TE
        return rows

    def _frames(self, column: pa.ChunkedArray) -> list[NDArray[np.float32] | None]:
        """Converts a column of frame vectors to one array [T, E] a row; None where a moment has none."""
        stored = column.combine_chunks()
        present = stored.drop_null()
        values: NDArray[np.float32] = present.flatten().to_numpy().astype(np.float32)
        frames_NTE = iter(values.reshape(len(present), self.metadata.frames, self.metadata.embed_dim))
        return [next(frames_NTE) if valid else None for valid in stored.is_valid().to_pylist()]

    def time_ranges(self) -> dict[str, tuple[float, float]]:
        """Returns for each key of moments where the first of them starts and the last one ends, in seconds."""
        ranges: dict[str, tuple[float, float]] = {}
        with index_errors(self.folder):
            for part in self.moments.to_batches(columns=["batch", "start_seconds", "end_seconds"]):
                ends = (
                    pa.Table.from_batches([part])
                    .group_by("batch")
                    .aggregate([("start_seconds", "min"), ("end_seconds", "max")])
                )
                for row in ends.to_pylist():
                    first, last = row["start_seconds_min"], row["end_seconds_max"]
                    start, end = ranges.get(row["batch"], (first, last))
                    ranges[row["batch"]] = (min(start, first), max(end, last))
        return ranges

    def moments_of(self, batch: str, *, frames: bool = False) -> list[dict[str, Any]]:
        """Returns the moments of one key in order of time, with their vectors `video`, `audio` (or None) and `any`.

        Args:
            batch: the key.
            frames: include `video_frames` and `audio_frames`, float32 [T, E] or None.
        """
        columns = ["id", "start_seconds", "end_seconds", "video", "audio", "any"]
        frame_columns = ["video_frames", "audio_frames"] if frames else []
        with index_errors(self.folder):
            table = self.moments.to_table(columns=[*columns, *frame_columns], filter=_is_in([batch]))
        rows: list[dict[str, Any]] = table.select(columns).to_pylist()
        for name in frame_columns:
            for row, frames_TE in zip(rows, self._frames(table[name]), strict=True):
                row[name] = frames_TE
        return sorted(rows, key=lambda row: (row["start_seconds"], row["id"]))

    def named(self, batches: Iterable[str]) -> set[str]:
        """Returns those of these keys that the row of a file names; moments with other keys do not count."""
        named: set[str] = set()
        with index_errors(self.folder):
            for chunk in _chunks(sorted(set(batches))):
                rows = self._dataset("files").to_table(columns=["batch"], filter=_is_in(chunk))
                named |= set(rows["batch"].to_pylist())
        return named

    def put(self, row: FileRow, moments: Sequence[dict[str, Any]], before: FileRow | None) -> None:
        """Queues a file and its moments for `commit`.

        Args:
            row: of the file.
            moments: rows of its moments.
            before: the file's row in the index, whose moments are replaced.
        """
        self._uncommitted.files.append(asdict(row))
        self._uncommitted.moments += moments
        if before is not None and before.batch is not None and before.batch != row.batch:
            self._uncommitted.outdated.append(before.batch)

    @property
    def uncommitted_rows(self) -> int:
        """Number of rows that the next commit writes."""
        return len(self._uncommitted.files) + len(self._uncommitted.moments)

    def commit(self) -> None:
        """Writes the queue: new moments, then the rows that name them; then deletes the outdated moments.

        Raises:
            SearchIndexError: the disk is full; what was committed before stays valid.
        """
        if not self._uncommitted.files:
            return
        queue, self._uncommitted = self._uncommitted, _Uncommitted()
        with index_errors(self.folder):
            if queue.moments:
                self._moments.add(pa.Table.from_pylist(queue.moments, schema=self.metadata.moments_schema()))
            rows = pa.Table.from_pylist(queue.files, schema=FILES_SCHEMA)
            self._files.merge_insert("name").when_matched_update_all().when_not_matched_insert_all().execute(rows)
            self._delete_batches(queue.outdated)

    def remove(self, rows: Iterable[FileRow]) -> None:
        """Removes files from the index: first their rows, so that they no longer count, then their moments."""
        rows = list(rows)
        with index_errors(self.folder):
            for chunk in _chunks([row.name for row in rows]):
                self._files.delete(_is_in(chunk, "name"))
            self._delete_batches([row.batch for row in rows if row.batch is not None])

    def write_skips(self, skips: SkipReport) -> None:
        """Writes skipped.json and skipped.txt."""
        with index_errors(self.folder):
            skips.write(self.folder)

    def tidy(self) -> None:
        """Merges the many small fragments that commits leave, and deletes versions that no search still reads.

        ANN indexes are not touched: LanceDB's own `optimize` would merge their cells without clustering again, which lowers
        their recall (docs/lab-notebook.md, 2026-11-25).
        """
        with index_errors(self.folder):
            for table in (self._files, self._moments):
                dataset = table.to_lance()
                dataset.optimize.compact_files()
                dataset.cleanup_old_versions(older_than=_KEEP_OLD_VERSIONS)
                table.checkout_latest()

    def unindexed_rows(self, modality: str) -> int:
        """Returns how many moments were added since the modality's ANN index was built; they are searched exactly."""
        ann = self.ann_settings(modality)
        with index_errors(self.folder):
            found = [entry for entry in self._moments.list_indices() if ann is not None and entry.name == ann.name]
        return sum(entry.num_unindexed_rows or 0 for entry in found)

    def write_ann_settings(self, modality: str, ann: ANNSettings) -> None:
        """Writes how a modality is searched to the metadata; searches that open the index from now on follow it."""
        self._write_ann_settings({**self.metadata.ann_settings, modality: ann})

    def drop_ann_indexes(self, modality: str, *, keep: str | None = None) -> None:
        """Drops the ANN indexes of a modality, except the one named `keep`."""
        with index_errors(self.folder):
            for name in self._ann_indexes(modality):
                if name != keep:
                    self._moments.drop_index(name)

    def _ann_indexes(self, modality: str) -> list[str]:
        return [entry.name for entry in self.moments.describe_indices() if entry.field_names == [modality]]

    def _write_ann_settings(self, by_modality: dict[str, ANNSettings]) -> None:
        self.metadata = replace(self.metadata, ann_settings=by_modality)
        with index_errors(self.folder):
            write_atomically(self.folder / METADATA, self.metadata.to_text())

    def _drop_unnamed_ann_indexes(self) -> None:
        """Drops ANN indexes that the metadata does not name, and forgets those that do not exist: exact search takes over."""
        existing: set[str] = set()
        for modality in VECTOR_COLUMNS:
            ann = self.metadata.ann_settings.get(modality)
            self.drop_ann_indexes(modality, keep=None if ann is None else ann.name)
            existing |= set(self._ann_indexes(modality))
        valid = {
            modality: ann
            for modality, ann in self.metadata.ann_settings.items()
            if ann.kind == EXACT or ann.name in existing
        }
        if valid != self.metadata.ann_settings:
            self._write_ann_settings(valid)

    def _delete_unnamed_moments(self) -> None:
        named = {row.batch for row in self.files()}
        existing: set[str] = set()
        with index_errors(self.folder):
            for batch in self.moments.to_batches(columns=["batch"]):
                existing |= set(batch["batch"].unique().to_pylist())
        self._delete_batches(sorted(existing - named))

    def _delete_batches(self, batches: Sequence[str]) -> None:
        with index_errors(self.folder):
            for chunk in _chunks(batches):
                self._moments.delete(_is_in(chunk))


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), _KEYS_PER_STATEMENT):
        yield items[start : start + _KEYS_PER_STATEMENT]


def _is_in(values: Sequence[str], column: str = "batch") -> str:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"
