"""The Lance tables of an index: opening them, locking them for one writer, and nearest neighbour search in one.

Errors of the system, of Lance and of LanceDB become one line about the index.

Letters: Q query vectors, E values of a vector.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cmmixer.config import SegmentSettings
from cmmixer.encoders.base import Encoder
from cmmixer.errors import SearchIndexError
from cmmixer.retrieval.schema import METADATA, ANNSettings, IndexMetadata, read_metadata
from cmmixer.storage.files import explain_full_disk, lock_file, write_atomically

# Locked and not empty while a process writes; a writer that finds it filled cleans up after the one before.
WRITING = "writing"

# An ANN index is tuned for the 10 best; whoever wants more than this gets an exact search.
MAX_APPROXIMATE = 1000


@contextmanager
def index_errors(folder: Path, advice: str = "make an index in a new folder") -> Iterator[None]:
    """Turns errors of Lance, LanceDB and the system into one line about the index.

    Args:
        folder: of the index.
        advice: what to do if it is damaged.

    Raises:
        SearchIndexError: in place of theirs.
    """
    with explain_full_disk(folder, SearchIndexError):
        try:
            yield
        except (RuntimeError, OSError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            # Lance and LanceDB pass the system's errors on as text, in exceptions of varying types.
            for code in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                if f"os error {code})" in str(error):
                    raise OSError(code, os.strerror(code)) from error
            raise SearchIndexError(f"{folder}: is damaged ({one_line(error)}); {advice}") from error


@contextmanager
def lock_index(folder: Path) -> Iterator[bool]:
    """Locks the index for one writer; yields whether the writer before was interrupted.

    Raises:
        SearchIndexError: another process is writing.
    """
    busy = SearchIndexError(f"{folder}: another process is writing to this index; wait until it is done")
    with lock_file(folder / WRITING, busy) as file:
        file.seek(0)
        interrupted = bool(file.read())
        file.write(b"a process is writing; if none is, it was killed and the next writer cleans up\n")
        file.flush()
        os.fsync(file.fileno())
        yield interrupted
        file.truncate(0)


def one_line(error: BaseException) -> str:
    """Returns the beginning of an error's message, on one line."""
    return " ".join(str(error).split())[:160]


def writable_tables(folder: Path, schemas: dict[str, pa.Schema]) -> list[Any]:
    """Opens the tables for writing and creates missing ones. Importing LanceDB takes a second; searching does without."""
    import lancedb

    database = lancedb.connect(folder)
    tables = []
    for name, schema in schemas.items():
        try:
            tables.append(database.create_table(name, schema=schema, exist_ok=True))
        except (ValueError, KeyError) as error:
            raise _damaged_table(folder, name, error) from error
    return tables


def readable_dataset(folder: Path, name: str, schema: pa.Schema) -> Any:
    """Opens a table as a Lance dataset for reading.

    Raises:
        SearchIndexError: it is damaged, or has other columns.
    """
    try:
        dataset = lance.dataset(str(folder / f"{name}.lance"))
    except (ValueError, KeyError) as error:
        raise _damaged_table(folder, name, error) from error
    if dataset.schema != schema:
        raise SearchIndexError(f"{folder}: {name}.lance has other columns than expected; make an index in a new folder")
    return dataset


def _damaged_table(folder: Path, name: str, error: BaseException) -> SearchIndexError:
    return SearchIndexError(f"{folder}: {name}.lance is damaged ({one_line(error)}); make an index in a new folder")


def metadata_for_writing(folder: Path, encoder: Encoder | None, segmentation: SegmentSettings) -> IndexMetadata:
    """Reads and checks the metadata of an index, or writes that of a new one.

    Raises:
        SearchIndexError: another model or segmentation, or not an index.
    """
    if encoder is None:
        return read_metadata(folder)
    if folder.is_dir() and any(folder.iterdir()):
        metadata = read_metadata(folder)
        metadata.check_encoder(encoder, folder)
        _check_segmentation(folder, metadata.segmentation, segmentation)
        return metadata
    if folder.exists() and not folder.is_dir():
        raise SearchIndexError(f"{folder}: got a file, expected the folder of an index")
    metadata = IndexMetadata.of(encoder, segmentation)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / METADATA, metadata.to_text())
    return metadata


def _check_segmentation(folder: Path, own: SegmentSettings, wanted: SegmentSettings) -> None:
    """Refuses settings that differ from the index's; those left at None fit any.

    Raises:
        SearchIndexError: says what differs.
    """
    for name, words in (("stride_seconds", "start every"), ("moment_seconds", "last")):
        got, expected = getattr(wanted, name), getattr(own, name)
        if got is not None and got != expected:
            raise SearchIndexError(
                f"{folder}: its moments {words} {expected:g} s, got --{name} {got:g}; leave it out, or make an index in a new folder"
            )
    if wanted.shots and not own.shots:
        raise SearchIndexError(
            f"{folder}: its moments do not keep to shots, got --shots; leave it out, or make an index in a new folder"
        )


def nearest_rows(
    dataset: Any,
    vectors_QE: NDArray[np.float32],
    modality: str,
    limit: int,
    columns: Sequence[str],
    ann: ANNSettings | None,
    *,
    row_ids: bool = False,
    only: str | None = None,
) -> pa.Table:
    """Finds the rows nearest to each query vector.

    Rows that were added after the ANN index was built are searched exactly; deleted rows are not found.

    Args:
        dataset: the moments, a Lance dataset.
        vectors_QE: unit vectors.
        modality: the column of vectors to compare with.
        limit: rows for each query vector.
        columns: columns of the result.
        ann: the ANN index to use; None: exact search.
        row_ids: include the column `_rowid`.
        only: a condition on the rows, in SQL; for exact search.

    Returns:
        The columns, `_distance` (1 - cosine) and `query_index`, sorted by query and distance.
    """
    # An exact search takes one query at a time: Lance's pass for many is no faster and takes more memory.
    batches = [vectors_QE] if ann is not None and len(vectors_QE) > 1 else vectors_QE
    tables = [_search(dataset, vectors, modality, limit, columns, ann, row_ids, only) for vectors in batches]
    if len(tables) == 1 and "query_index" in tables[0].column_names:
        return tables[0].sort_by([("query_index", "ascending"), ("_distance", "ascending")])
    numbers = [np.full(len(table), number, np.int32) for number, table in enumerate(tables)]
    return pa.concat_tables(tables).append_column("query_index", pa.array(np.concatenate(numbers)))


def _search(
    dataset: Any,
    vectors: Any,
    modality: str,
    limit: int,
    columns: Sequence[str],
    ann: ANNSettings | None,
    row_ids: bool,
    only: str | None,
) -> pa.Table:
    nearest: dict[str, Any] = {"column": modality, "q": vectors, "k": limit}
    if ann is None:
        nearest.update(metric="dot", use_index=False)
    else:
        factor = ann.refine_factor(limit)
        nearest.update(metric="cosine", nprobes=ann.probes, refine_factor=factor)
        nearest["ef"] = max(ann.ef, limit * (factor or 1)) if ann.ef else None
    where = {} if only is None else {"filter": only, "prefilter": True}
    return dataset.to_table(columns=[*columns, "_distance"], nearest=nearest, with_row_id=row_ids, **where)
