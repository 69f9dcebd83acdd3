"""The Parquet file of `cmmixer embed`: its columns, its writer, its reader.

Letters: R rows, K vectors that are there, T frames of a moment, E values of a vector.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cmmixer.atomic import file_written_whole
from cmmixer.config.vectors import VECTOR_BYTES
from cmmixer.data.manifest import Entry, readable
from cmmixer.embedding.batch import Moment, Vector
from cmmixer.embedding.films import EmbeddedFilm
from cmmixer.embedding.storage import ARROW_TYPES, Stored, restored, stored
from cmmixer.encoders import Encoder
from cmmixer.errors import DataError
from cmmixer.storage import is_remote, open_folder

_KEY = b"cmmixer"
_ABOUT = [
    pa.field("path", pa.string(), nullable=False),
    pa.field("audio_path", pa.string()),
    pa.field("source", pa.string(), nullable=False),
    pa.field("label", pa.string()),
    pa.field("start_seconds", pa.float64(), nullable=False),
    pa.field("end_seconds", pa.float64(), nullable=False),
]
_OF_MOMENTS, _OF_FRAMES = ("video", "audio"), ("video_frames", "audio_frames")
# Vectors of a row group: few enough to wait in memory, enough that its header is nothing beside them.
_GROUP_BYTES = 16_000_000
_READ_ROWS = 8192


def parquet_schema(vectors: str = "fp32", *, frames: bool = False) -> pa.Schema:
    """The columns.

    Args:
        vectors: how vectors are stored: fp32, bf16 or int8.
        frames: with those of each frame.
    """
    fields = list(_ABOUT)
    vector, scale = pa.list_(ARROW_TYPES[vectors]), pa.float32()
    fields += [pa.field(name, vector) for name in _OF_MOMENTS]
    fields += [pa.field(f"{name}_scale", scale) for name in _OF_MOMENTS if vectors == "int8"]
    if frames:
        fields += [pa.field(name, pa.list_(vector)) for name in _OF_FRAMES]
        fields += [pa.field(f"{name}_scale", pa.list_(scale)) for name in _OF_FRAMES if vectors == "int8"]
    return pa.schema(fields)


# -------------------------------------------------------------------------------------------------------------- writing


class VectorWriter:
    """Takes films one by one and writes their moments in row groups; see `written_parquet`."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema, vectors: str, dim: int) -> None:
        self._file, self._schema, self._vectors, self._dim = file, schema, vectors, dim
        self._columns = [name for name in schema.names if name in _OF_MOMENTS + _OF_FRAMES]
        self._rows: list[tuple[Entry, Moment]] = []
        self._bytes = 0

    def write(self, film: EmbeddedFilm) -> None:
        """Queues the moments of a film; what waits is bounded."""
        for moment in film.moments:
            self._rows.append((film.entry, moment))
            found = (getattr(moment, name) for name in self._columns)
            self._bytes += sum(vector.nbytes for vector in found if vector is not None)
            if self._bytes >= _GROUP_BYTES:
                self.flush()

    def flush(self) -> None:
        """Writes what waits as a row group."""
        if self._rows:
            self._file.write_batch(self._batch())
            self._rows.clear()
            self._bytes = 0

    def _batch(self) -> pa.RecordBatch:
        columns: dict[str, Any] = {
            "path": [readable(entry.path) for entry, _ in self._rows],
            "audio_path": [entry.audio_path and readable(entry.audio_path) for entry, _ in self._rows],
            "source": [entry.source for entry, _ in self._rows],
            "label": [entry.label for entry, _ in self._rows],
            "start_seconds": [moment.span.start_seconds for _, moment in self._rows],
            "end_seconds": [moment.span.end_seconds for _, moment in self._rows],
        }
        for name in self._columns:
            columns |= self._vector_columns(name, [getattr(moment, name) for _, moment in self._rows])
        arrays = [pa.array(columns[entry.name], entry.type) for entry in self._schema]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _vector_columns(self, name: str, rows: Sequence[Vector | None]) -> dict[str, pa.Array]:
        """A column of vectors, [E] or [T, E] a row, and that of their scales where they have one."""
        there = [row.reshape(-1, self._dim) for row in rows if row is not None]
        kept = stored(np.concatenate(there) if there else np.zeros((0, self._dim), np.float32), self._vectors)
        counts_R = np.array([0 if row is None else row.size // self._dim for row in rows])
        shape = _Shape(counts_R, np.array([row is None for row in rows]), deep=name in _OF_FRAMES)
        columns = {name: shape.vectors(kept.values_NE)}
        if kept.scale_N is not None:
            columns[f"{name}_scale"] = shape.scales(kept.scale_N)
        return columns


@contextmanager
def written_parquet(path: Path, encoder: Encoder, vectors: str, *, frames: bool) -> Iterator[VectorWriter]:
    """Writes to a temporary file that takes the path's name when everything is in it; on any error nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    card = {"model_id": encoder.id, "embed_dim": encoder.dim, "clip": asdict(encoder.clip), "vectors": vectors}
    schema = parquet_schema(vectors, frames=frames).with_metadata({_KEY: json.dumps(card)})
    dictionary = _few_valued(schema, vectors)
    with file_written_whole(path) as file, pq.ParquetWriter(file, schema, use_dictionary=dictionary) as parquet:
        writer = VectorWriter(parquet, schema, vectors, encoder.dim)
        yield writer
        writer.flush()


def _few_valued(schema: pa.Schema, vectors: str) -> list[str]:
    """Columns that are smaller as numbers of a dictionary's entries.

    Parquet keeps whole numbers in four bytes each; as entries of a dictionary, int8 takes one and bfloat16 less than two. Floats
    are all different, and would stand in a dictionary and beside it.
    """
    names = [entry.name for entry in schema if pa.types.is_string(entry.type)]
    if vectors != "fp32":
        names += [f"{name}.list.element" for name in _OF_MOMENTS]
        names += [f"{name}.list.element.list.element" for name in _OF_FRAMES]
    return names


# -------------------------------------------------------------------------------------------------------------- reading


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
            from cmmixer.embedding.folder import vectors_table

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
        self.schema = pa.schema(fields, {_KEY: json.dumps({**card, "vectors": "fp32"})})
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
        if name not in _OF_MOMENTS + _OF_FRAMES or self._kind == "fp32":
            return column
        deep = name in _OF_FRAMES
        missing_R = column.is_null().to_numpy(zero_copy_only=False)
        counts_R = column.value_lengths().fill_null(0).to_numpy() if deep else (~missing_R).astype(np.int32)
        values = column.flatten().flatten() if deep else column.flatten()
        scale_K = None
        if self._kind == "int8":
            scales = batch.column(f"{name}_scale")
            scale_K = (scales.flatten() if deep else scales.drop_null()).to_numpy()
        vectors_KE = restored(Stored(values.to_numpy().reshape(-1, self._dim), scale_K), self._kind)
        return _Shape(counts_R, missing_R, deep=deep).vectors(vectors_KE)


def _parquet_columns(path: str | Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as fault:
        raise DataError(f"{path}: cannot be read as Parquet ({' '.join(str(fault).split())[:200]})") from fault


def _card(schema: pa.Schema, path: str | Path) -> dict[str, Any]:
    text = (schema.metadata or {}).get(_KEY)
    if text is None:
        raise DataError(f"{path}: is not a file that cmmixer embed wrote; its metadata have no key {_KEY.decode()}")
    card: dict[str, Any] = json.loads(text)
    return card


class _Shape:
    """How vectors that lie one behind the other are shared out among rows."""

    def __init__(self, counts_R: NDArray[Any], missing_R: NDArray[Any], *, deep: bool) -> None:
        self._offsets = np.concatenate([[0], np.cumsum(counts_R)]).astype(np.int32)
        self._missing = missing_R.astype(bool)
        self._deep = deep

    def vectors(self, values_KE: NDArray[Any]) -> pa.Array:
        """A list of E values a row, or of T such lists."""
        count, dim = values_KE.shape
        flat = pa.array(values_KE.reshape(-1))
        if not self._deep:
            return self._outer(self._offsets * dim, flat)
        return self._outer(self._offsets, pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * dim, flat))

    def scales(self, scale_K: NDArray[Any]) -> pa.Array:
        """A number a row, or a list of T."""
        if self._deep:
            return self._outer(self._offsets, pa.array(scale_K))
        numbers_R = np.zeros(len(self._missing), np.float32)
        numbers_R[~self._missing] = scale_K
        return pa.array(numbers_R, mask=self._missing)

    def _outer(self, offsets: NDArray[Any], values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=pa.array(self._missing))
