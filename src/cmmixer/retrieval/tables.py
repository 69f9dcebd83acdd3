"""Opening the tables of an index, and its card: what is there is checked, what is not is made.

One writer at a time, and every complaint of the system or of LanceDB as one line about the index.

Asking a data set of moments for the nearest to some vectors, with a plan or by looking at all.

Letters: Q query vectors, E values of a vector.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cmmixer.config import CuttingSettings
from cmmixer.encoders.base import Encoder
from cmmixer.errors import SearchIndexError
from cmmixer.retrieval.schema import FILES_SCHEMA, FILES_SCHEMA_BEFORE, NAME, IndexCard, SearchPlan, read_card
from cmmixer.storage.files import explain_full_disk, write_atomically
from cmmixer.version import __version__


@contextmanager
def told_clearly(folder: Path, advice: str = "make an index in a new folder") -> Iterator[None]:
    """Lance's, LanceDB's and the system's errors as one line about the index, and what to do about damage."""
    with explain_full_disk(folder, SearchIndexError):
        try:
            yield
        except (RuntimeError, OSError, pa.ArrowException) as fault:
            if isinstance(fault, OSError) and fault.errno is not None:
                raise
            # Lance and LanceDB hand the system's complaints on as text, in whatever error is at hand.
            for code in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                if f"os error {code})" in str(fault):
                    raise OSError(code, os.strerror(code)) from fault
            raise SearchIndexError(f"{folder}: is damaged ({short(fault)}); {advice}") from fault


@contextmanager
def only_writer(folder: Path) -> Iterator[bool]:
    """Holds the folder's lock; yields whether the writer before was stopped half way."""
    with (folder / "writing").open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            if fault.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise SearchIndexError(
                f"{folder}: another process is writing to this index; wait until it is done"
            ) from fault
        file.seek(0)
        interrupted = bool(file.read())
        file.write(b"a process is writing; if none is, it was stopped and the next one clears up\n")
        file.flush()
        os.fsync(file.fileno())
        yield interrupted
        file.truncate(0)


def short(fault: BaseException) -> str:
    """A library's complaint on one line, its beginning."""
    return " ".join(str(fault).split())[:160]


def add_extra(folder: Path) -> None:
    """Gives an index of before the column `extra`, empty; one commit, so a kill leaves the table as before or as after."""
    try:
        files = lance.dataset(str(folder / "files.lance"))
    except (ValueError, KeyError):
        return  # not there yet, or damaged, which opening the tables tells
    if files.schema == FILES_SCHEMA_BEFORE:
        files.add_columns(FILES_SCHEMA.field("extra"))


def writable_tables(folder: Path, schemas: dict[str, pa.Schema]) -> list[Any]:
    """The tables for writing; made where they are not there. LanceDB takes a second to import, and searching needs none of it."""
    import lancedb

    database = lancedb.connect(folder)
    tables = []
    for name, schema in schemas.items():
        try:
            tables.append(database.create_table(name, schema=schema, exist_ok=True))
        except (ValueError, KeyError) as fault:
            raise SearchIndexError(
                f"{folder}: {name}.lance is damaged ({short(fault)}); make an index in a new folder"
            ) from fault
    return tables


def readable_dataset(folder: Path, name: str, schema: pa.Schema) -> Any:
    """A table as a Lance data set to read.

    Raises:
        SearchIndexError: it is damaged, or has other columns.
    """
    try:
        dataset = lance.dataset(str(folder / f"{name}.lance"))
    except (ValueError, KeyError) as fault:
        raise SearchIndexError(
            f"{folder}: {name}.lance is damaged ({short(fault)}); make an index in a new folder"
        ) from fault
    if dataset.schema not in ([FILES_SCHEMA, FILES_SCHEMA_BEFORE] if name == "files" else [schema]):
        raise SearchIndexError(f"{folder}: {name}.lance has other columns than expected; make an index in a new folder")
    return dataset


def card_for_writing(folder: Path, encoder: Encoder | None, cutting: CuttingSettings) -> IndexCard:
    """The card that is there, checked, or that of a new index."""
    if encoder is None:
        return read_card(folder)
    if folder.is_dir() and any(folder.iterdir()):
        card = read_card(folder)
        card.check_encoder(encoder, folder)
        _refuse_other_cutting(folder, card, cutting)
        return card
    if folder.exists() and not folder.is_dir():
        raise SearchIndexError(f"{folder}: got a file, expected the folder of an index")
    known = cutting.of(encoder.clip)
    assert known.stride_seconds is not None
    card = IndexCard(
        model_id=encoder.id,
        model=encoder.path,
        embed_dim=encoder.dim,
        clip=encoder.clip,
        stride_seconds=known.stride_seconds,
        moment_seconds=known.moment_seconds,
        shots=known.shots,
        version=__version__,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / NAME, card.text())
    return card


def _refuse_other_cutting(folder: Path, card: IndexCard, asked: CuttingSettings) -> None:
    """Moments of one index are cut alike.

    Raises:
        SearchIndexError: says what differs.
    """
    there = card.cutting.of(card.clip)
    for name, words in (("stride_seconds", "start every"), ("moment_seconds", "last")):
        got, own = getattr(asked, name), getattr(there, name)
        if got is not None and got != own:
            raise SearchIndexError(
                f"{folder}: its moments {words} {own:g} s, got --{name} {got:g}; leave it out, or make an index in a new folder"
            )
    if asked.shots and not there.shots:
        raise SearchIndexError(
            f"{folder}: its moments do not keep to shots, got --shots; leave it out, or make an index in a new folder"
        )


# Whoever asks for more than this is told exactly: an index is tuned for the best few.
MOST_APPROXIMATE = 1000


def ask(
    dataset: Any,
    vectors_QE: NDArray[np.float32],
    sense: str,
    limit: int,
    columns: Sequence[str],
    plan: SearchPlan | None,
    *,
    row_ids: bool = False,
    only: str | None = None,
) -> pa.Table:
    """The nearest rows to each query vector.

    Rows that were added after the index was built are all looked at; rows that were deleted are passed over.

    Args:
        dataset: the moments, in Lance.
        vectors_QE: unit vectors.
        sense: the column of vectors to compare with.
        limit: how many rows for each query vector.
        columns: of the rows, that are wanted.
        plan: the index to use; None looks at all.
        row_ids: whether the column `_rowid` is wanted too.
        only: a condition on the rows, in SQL; without a plan.

    Returns:
        The columns, `_distance` (one minus the cosine) and `query_index`, by query and distance.
    """
    numbers, tables = [], []
    # Without an index a query at a time: Lance's pass for many at once takes no less, and more memory.
    batches = [vectors_QE] if plan is not None and len(vectors_QE) > 1 else vectors_QE
    for number, vectors in enumerate(batches):
        found = _search(dataset, vectors, sense, limit, columns, plan, row_ids, only)
        tables.append(found)
        numbers.append(np.full(len(found), number, np.int32))
    if len(tables) == 1 and "query_index" in tables[0].column_names:
        return tables[0].sort_by([("query_index", "ascending"), ("_distance", "ascending")])
    return pa.concat_tables(tables).append_column("query_index", pa.array(np.concatenate(numbers)))


def _search(
    dataset: Any,
    vectors: Any,
    sense: str,
    limit: int,
    columns: Sequence[str],
    plan: SearchPlan | None,
    row_ids: bool,
    only: str | None,
) -> pa.Table:
    nearest: dict[str, Any] = {"column": sense, "q": vectors, "k": limit}
    if plan is None:
        nearest.update(metric="dot", use_index=False)
    else:
        factor = plan.refine_factor(limit)
        nearest.update(metric="cosine", nprobes=plan.probes, refine_factor=factor)
        nearest["ef"] = max(plan.ef, limit * (factor or 1)) if plan.ef else None
    where = {} if only is None else {"filter": only, "prefilter": True}
    return dataset.to_table(columns=[*columns, "_distance"], nearest=nearest, with_row_id=row_ids, **where)
