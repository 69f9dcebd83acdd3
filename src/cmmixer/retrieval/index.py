"""The folder of an index: what is in it, and how it stays whole whatever kills the process.

    library/
      index.json       which model made it, how moments are cut, how each sense is searched
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
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cmmixer.config import CuttingSettings
from cmmixer.data.skips import SkipReport
from cmmixer.encoders.base import Encoder
from cmmixer.errors import SearchIndexError
from cmmixer.retrieval.schema import EXACT, FILES_SCHEMA, NAME, FileRow, IndexCard, SearchPlan, read_card
from cmmixer.retrieval.tables import (
    MOST_APPROXIMATE,
    add_extra,
    ask,
    card_for_writing,
    only_writer,
    readable_dataset,
    told_clearly,
    writable_tables,
)
from cmmixer.storage.files import remove_leftovers, write_atomically

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
        self._files: Any = None
        self._moments: Any = None
        schemas = {"files": FILES_SCHEMA, "moments": card.moments_schema()}
        with told_clearly(folder):
            if create:
                add_extra(folder)
                self._files, self._moments = writable_tables(folder, schemas)
            elif not all((folder / f"{name}.lance").is_dir() for name in schemas):
                raise SearchIndexError(f"{folder}: is damaged or was never filled; run `cmmixer index` on it again")
            self._read = {name: readable_dataset(folder, name, schema) for name, schema in schemas.items()}

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
    def writing(
        cls, folder: str | Path, encoder: Encoder | None = None, cutting: CuttingSettings | None = None
    ) -> Iterator[Self]:
        """Opens or makes an index for writing; what a killed process left half done is cleared away first.

        Args:
            folder: of the index.
            encoder: the model; another one than the index's own is refused. None: no moments will be added.
            cutting: for a new index; what it leaves open, and None, is as in the index that is there.

        Raises:
            SearchIndexError: another model or another cutting, a folder that is no index, another process writing, a full disk.
        """
        folder = Path(folder)
        with told_clearly(folder):
            card = card_for_writing(folder, encoder, cutting or CuttingSettings())
            with only_writer(folder) as interrupted:
                remove_leftovers(folder)
                index = cls(folder, card, create=True)
                if interrupted:
                    index._remove_unnamed()
                    index._remove_unplanned()
                yield index
                index.commit()

    # ---------------------------------------------------------------------------------------------------- reading

    def files(self) -> Iterator[FileRow]:
        """All rows of files."""
        with told_clearly(self.folder):
            table = self._dataset("files")
            names = [entry.name for entry in fields(FileRow) if entry.name in table.schema.names]
            for batch in table.to_batches(columns=names):
                yield from (FileRow(**row) for row in batch.to_pylist())

    def count(self) -> int:
        """How many moments it holds."""
        with told_clearly(self.folder):
            return int(self.moments.count_rows())

    @property
    def moments(self) -> Any:
        """The moments, as a Lance data set to read; of a writer, as it is now."""
        return self._dataset("moments")

    @property
    def table(self) -> Any:
        """The moments, as a LanceDB table; writers only have it."""
        return self._moments

    def _dataset(self, name: str) -> Any:
        table = {"files": self._files, "moments": self._moments}[name]
        return self._read[name] if table is None else table.to_lance()

    def plan(self, sense: str) -> SearchPlan | None:
        """The plan by which a sense is searched; None where all moments are looked at."""
        plan = self.card.plans.get(sense)
        if plan is None or plan.kind == EXACT:
            return None
        with told_clearly(self.folder):
            # Lance asks the oldest index of a column; it lists them by name, and names begin with when they were built.
            return plan if self._indexes(sense)[:1] == [plan.name] else None

    def nearest(
        self,
        vectors_QE: NDArray[np.float32],
        sense: str,
        limit: int,
        *,
        frames: bool = False,
        batches: Collection[str] | None = None,
        exact: bool = False,
    ) -> list[dict[str, Any]]:
        """The moments nearest to each query vector, as the sense's plan finds them: without one, exactly.

        Moments that were added after the plan was made are all looked at.

        Args:
            vectors_QE: unit vectors, of one sense.
            sense: `audio`, `video` or `film`, the moments' sense to compare with.
            limit: how many for each query vector; more than 1,000 are always found exactly.
            frames: whether the vectors of the moments' frames are wanted too.
            batches: only moments with these keys; None: all.
            exact: look at every moment whatever the plan.

        Returns:
            Rows with `query` (its place), the moment's columns but its vectors, `score`, the cosine similarity, and where
            wanted `frames`, float32 [T, E] or None; by query, best first.

        Raises:
            SearchIndexError: vectors of another length, a damaged index.
        """
        if vectors_QE.ndim != 2 or vectors_QE.shape[1] != self.card.embed_dim:
            raise SearchIndexError(
                f"{self.folder}: got vectors of shape {vectors_QE.shape}, expected (queries, {self.card.embed_dim}); "
                "embed the query with the model that made the index"
            )
        in_order = f"{sense}_frames"
        columns = ["id", "batch", "path", "audio_path", "source", "label", "start_seconds", "end_seconds"]
        # A plan's recall was measured over all moments, not over a few.
        plan = None if exact or batches is not None or limit > MOST_APPROXIMATE else self.plan(sense)
        advice = "make an index in a new folder"
        if plan is not None:
            advice = (
                f"search with --exact, or run `cmmixer index --index {self.folder} --optimize`; failing that, {advice}"
            )
        with told_clearly(self.folder, advice):
            wanted = [*columns, in_order] if frames else columns
            only = None if batches is None else _is_in(sorted(batches))
            found = ask(self.moments, vectors_QE, sense, limit, wanted, plan, only=only)
        rows: list[dict[str, Any]] = found.drop_columns([in_order] if frames else []).to_pylist()
        for row in rows:
            row.update(query=row.pop("query_index"), score=1.0 - row.pop("_distance"))
        if frames and rows:
            for row, frames_TE in zip(rows, self._frames(found[in_order]), strict=True):
                row["frames"] = frames_TE
        return rows

    def _frames(self, column: pa.ChunkedArray) -> list[NDArray[np.float32] | None]:
        """Vectors of moments' frames [T, E] as they stand in the table; None where a moment has none."""
        stored = column.combine_chunks()
        there = stored.drop_null()
        values: NDArray[np.float32] = there.flatten().to_numpy().astype(np.float32)
        shaped_NTE = iter(values.reshape(len(there), self.card.frames, self.card.embed_dim))
        return [next(shaped_NTE) if valid else None for valid in stored.is_valid().to_pylist()]

    def stretches(self) -> dict[str, tuple[float, float]]:
        """For each key of moments the second at which its first moment begins and its last one ends."""
        stretches: dict[str, tuple[float, float]] = {}
        with told_clearly(self.folder):
            for part in self.moments.to_batches(columns=["batch", "start_seconds", "end_seconds"]):
                ends = (
                    pa.Table.from_batches([part])
                    .group_by("batch")
                    .aggregate([("start_seconds", "min"), ("end_seconds", "max")])
                )
                for row in ends.to_pylist():
                    first, last = row["start_seconds_min"], row["end_seconds_max"]
                    start, end = stretches.get(row["batch"], (first, last))
                    stretches[row["batch"]] = (min(start, first), max(end, last))
        return stretches

    def moments_of(self, batch: str, *, frames: bool = False) -> list[dict[str, Any]]:
        """The moments of one key in order of time, with the vectors of both senses and of the film (None where missing).

        Args:
            batch: the key.
            frames: whether `video_frames` and `audio_frames` are wanted too, float32 [T, E] or None.
        """
        columns = ["id", "start_seconds", "end_seconds", "video", "audio", "film"]
        in_order = ["video_frames", "audio_frames"] if frames else []
        with told_clearly(self.folder):
            found = self.moments.to_table(columns=[*columns, *in_order], filter=_is_in([batch]))
        rows: list[dict[str, Any]] = found.select(columns).to_pylist()
        for name in in_order:
            for row, frames_TE in zip(rows, self._frames(found[name]), strict=True):
                row[name] = frames_TE
        return sorted(rows, key=lambda row: (row["start_seconds"], row["id"]))

    def named(self, batches: Iterable[str]) -> set[str]:
        """Those of these keys that a file's row names; moments of others do not count."""
        names: set[str] = set()
        with told_clearly(self.folder):
            for chunk in _chunks(sorted(set(batches))):
                rows = self._dataset("files").to_table(columns=["batch"], filter=_is_in(chunk))
                names |= set(rows["batch"].to_pylist())
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
        """Joins the many small parts that commits leave, and drops versions that no search still reads.

        Approximate indexes are left as they are: LanceDB's own `optimize` would join their cells without looking at the
        vectors again, and their recall with it (docs/lab-notebook.md, 2026-11-25).
        """
        with told_clearly(self.folder):
            for table in (self._files, self._moments):
                dataset = table.to_lance()
                dataset.optimize.compact_files()
                dataset.cleanup_old_versions(older_than=_KEEP_OLD_VERSIONS)
                table.checkout_latest()

    def unplanned_rows(self, sense: str) -> int:
        """How many moments were added since a sense's index was built; they are all looked at."""
        plan = self.plan(sense)
        with told_clearly(self.folder):
            rows = [entry for entry in self._moments.list_indices() if plan is not None and entry.name == plan.name]
        return sum(entry.num_unindexed_rows or 0 for entry in rows)

    def write_plan(self, sense: str, plan: SearchPlan) -> None:
        """Puts a plan into the card: from then on searches that open the index follow it."""
        self._write_plans({**self.card.plans, sense: plan})

    def drop_indexes(self, sense: str, *, keep: str | None = None) -> None:
        """Drops the approximate indexes of a sense, but one."""
        with told_clearly(self.folder):
            for name in self._indexes(sense):
                if name != keep:
                    self._moments.drop_index(name)

    def _indexes(self, sense: str) -> list[str]:
        return [entry.name for entry in self.moments.describe_indices() if entry.field_names == [sense]]

    def _write_plans(self, plans: dict[str, SearchPlan]) -> None:
        self.card = replace(self.card, plans=plans)
        with told_clearly(self.folder):
            write_atomically(self.folder / NAME, self.card.text())

    def _remove_unplanned(self) -> None:
        """Drops indexes that no plan names, and plans whose index is not there: their sense is searched exactly."""
        there: set[str] = set()
        for sense in ("video", "audio", "film"):
            plan = self.card.plans.get(sense)
            self.drop_indexes(sense, keep=None if plan is None else plan.name)
            there |= set(self._indexes(sense))
        plans = {sense: plan for sense, plan in self.card.plans.items() if plan.kind == EXACT or plan.name in there}
        if plans != self.card.plans:
            self._write_plans(plans)

    def _remove_unnamed(self) -> None:
        named = {row.batch for row in self.files()}
        there: set[str] = set()
        with told_clearly(self.folder):
            for batch in self.moments.to_batches(columns=["batch"]):
                there |= set(batch["batch"].unique().to_pylist())
        self._delete_batches(sorted(there - named))

    def _delete_batches(self, batches: Sequence[str]) -> None:
        with told_clearly(self.folder):
            for chunk in _chunks(batches):
                self._moments.delete(_is_in(chunk))


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), _KEYS_PER_STATEMENT):
        yield items[start : start + _KEYS_PER_STATEMENT]


def _is_in(values: Sequence[str], column: str = "batch") -> str:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"
