"""Reads the vectors that `cmmixer embed` wrote: a Parquet file, or a folder with a Lance table."""

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
    Quantized,
    dequantize,
    parquet_schema,
)
from cmmixer.errors import DataError
from cmmixer.storage.folder import open_folder

_READ_ROWS = 8192


def read_vectors(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads the vectors of `cmmixer embed` into one table.

    Vectors are float32 unit vectors, however they are stored. The schema's metadata names the model, as JSON under the
    key `cmmixer`.

    Args:
        path: the Parquet file or the folder, which may be s3://BUCKET/NAME.
        columns: the columns to read; None: all.

    Raises:
        DataError: not a file of `cmmixer embed`, or a missing column.
        StoreError: not a folder of `cmmixer embed`.
    """
    reader = _Reader(path, columns)
    return pa.Table.from_batches(reader.batches(), reader.schema)


def vector_batches(path: str | Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Reads the same in batches of a few thousand rows, for files that do not fit into memory; see `read_vectors`."""
    return _Reader(path, columns).batches()


class _Reader:
    """A file or folder whose schema and metadata are checked before rows are read."""

    def __init__(self, path: str | Path, columns: Sequence[str] | None) -> None:
        self._path = path
        self._table: Any = None
        if is_remote(path) or Path(path).is_dir():
            from cmmixer.embedding.vector_table import vectors_table

            self._table = vectors_table(open_folder(path))
        stored_schema = _parquet_columns(path) if self._table is None else self._table.schema
        metadata = _metadata(stored_schema, path)
        self._kind, self._dim = metadata.get("vectors", "fp32"), metadata["embed_dim"]
        if self._kind not in VECTOR_BYTES:
            known = ", ".join(VECTOR_BYTES)
            raise DataError(f"{path}: stores vectors as {self._kind!r}, expected {known}; read it with a newer cmmixer")
        known_names = [name for name in stored_schema.names if not name.endswith("_scale") and name != "entry"]
        wanted = known_names if columns is None else list(columns)
        unknown = [name for name in wanted if name not in known_names]
        if unknown:
            raise DataError(f"{path}: got columns {', '.join(unknown)}, expected some of {', '.join(known_names)}")
        fields = [entry for entry in parquet_schema(frames=True) if entry.name in wanted]
        self.schema = pa.schema(fields, {METADATA_KEY: json.dumps({**metadata, "vectors": "fp32"})})
        self._columns = [name for name in stored_schema.names if name.removesuffix("_scale") in wanted]

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
        nested = name in FRAME_COLUMNS
        missing_R = column.is_null().to_numpy(zero_copy_only=False)
        counts_R = column.value_lengths().fill_null(0).to_numpy() if nested else (~missing_R).astype(np.int32)
        values = column.flatten().flatten() if nested else column.flatten()
        scale_K = None
        if self._kind == "int8":
            scales = batch.column(f"{name}_scale")
            scale_K = (scales.flatten() if nested else scales.drop_null()).to_numpy()
        vectors_KE = dequantize(Quantized(values.to_numpy().reshape(-1, self._dim), scale_K), self._kind)
        return ListLayout(counts_R, missing_R, nested=nested).vectors(vectors_KE)


def _parquet_columns(path: str | Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())[:200]})") from error


def _metadata(schema: pa.Schema, path: str | Path) -> dict[str, Any]:
    text = (schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise DataError(
            f"{path}: not a file of `cmmixer embed`: its metadata has no key {METADATA_KEY.decode()}; "
            "write one with `cmmixer embed`"
        )
    metadata: dict[str, Any] = json.loads(text)
    return metadata
