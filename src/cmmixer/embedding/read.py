"""Reading what `cmmixer embed` wrote: a Parquet file, or a folder that holds a Lance table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cmmixer.config.base import is_remote
from cmmixer.config.retrieval import VECTOR_BYTES
from cmmixer.embedding.parquet import (
    FRAME_COLUMNS,
    METADATA_KEY,
    MOMENT_COLUMNS,
    ListLayout,
    Stored,
    parquet_schema,
    restored,
)
from cmmixer.errors import DataError
from cmmixer.storage.folder import open_folder

_READ_ROWS = 8192


def vector_batches(path: str | Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file or folder of `cmmixer embed`, some thousand at a time, with float32 unit vectors whatever it stores.

    Args:
        path: the file, or the folder, which may be s3://BUCKET/NAME.
        columns: only these; None: all.

    Raises:
        DataError: it is no such file, or lacks a column.
    """
    return _Reader(path, columns).batches()


def read_vectors(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The same as one table; its metadata name the model (key `cmmixer`, JSON).

    Raises:
        DataError: as `vector_batches`.
    """
    reader = _Reader(path, columns)
    return pa.Table.from_batches(reader.batches(), reader.schema)


class _Reader:
    """A file that is looked at before a row is read."""

    def __init__(self, path: str | Path, columns: Sequence[str] | None) -> None:
        self._path = path
        self._table: Any = None
        if is_remote(path) or Path(path).is_dir():
            from cmmixer.embedding.vector_table import vectors_table

            self._table = vectors_table(open_folder(path))
        stands = _parquet_columns(path) if self._table is None else self._table.schema
        card = _card(stands, path)
        self._kind, self._dim = card.get("vectors", "fp32"), card["embed_dim"]
        if self._kind not in VECTOR_BYTES:
            known = ", ".join(VECTOR_BYTES)
            raise DataError(f"{path}: stores vectors as {self._kind!r}, expected {known}; read it with a newer cmmixer")
        known_names = [name for name in stands.names if not name.endswith("_scale") and name != "entry"]
        wanted = known_names if columns is None else list(columns)
        unknown = [name for name in wanted if name not in known_names]
        if unknown:
            raise DataError(f"{path}: got columns {', '.join(unknown)}, expected some of {', '.join(known_names)}")
        fields = [entry for entry in parquet_schema(frames=True) if entry.name in wanted]
        self.schema = pa.schema(fields, {METADATA_KEY: json.dumps({**card, "vectors": "fp32"})})
        self._columns = [name for name in stands.names if name.removesuffix("_scale") in wanted]

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._stored_batches():
            arrays = [self._column(batch, entry.name).cast(entry.type) for entry in self.schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _stored_batches(self) -> Iterator[pa.RecordBatch]:
        if self._table is not None:
            yield from self._table.to_batches(columns=self._columns, batch_size=_READ_ROWS, scan_in_order=True)
            return
        with pq.ParquetFile(self._path) as file:
            yield from file.iter_batches(_READ_ROWS, columns=self._columns)

    def _column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        column = batch.column(name)
        if name not in MOMENT_COLUMNS + FRAME_COLUMNS or self._kind == "fp32":
            return column
        deep = name in FRAME_COLUMNS
        missing_R = column.is_null().to_numpy(zero_copy_only=False)
        counts_R = column.value_lengths().fill_null(0).to_numpy() if deep else (~missing_R).astype(np.int32)
        values = column.flatten().flatten() if deep else column.flatten()
        scale_K = None
        if self._kind == "int8":
            scales = batch.column(f"{name}_scale")
            scale_K = (scales.flatten() if deep else scales.drop_null()).to_numpy()
        vectors_KE = restored(Stored(values.to_numpy().reshape(-1, self._dim), scale_K), self._kind)
        return ListLayout(counts_R, missing_R, deep=deep).vectors(vectors_KE)


def _parquet_columns(path: str | Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as fault:
        raise DataError(f"{path}: cannot be read as Parquet ({' '.join(str(fault).split())[:200]})") from fault


def _card(schema: pa.Schema, path: str | Path) -> dict[str, Any]:
    text = (schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise DataError(
            f"{path}: is not a file that cmmixer embed wrote; its metadata have no key {METADATA_KEY.decode()}"
        )
    card: dict[str, Any] = json.loads(text)
    return card
