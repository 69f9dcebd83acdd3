"""The Parquet file of `cmmixer embed`: its columns, its writer, and vectors quantized to bfloat16 or int8.

    bf16    upper half of a float32, rounded to nearest even: 8 significant bits          stored as uint16
    int8    round(127 x / max |x|); times the scale 1 / |q| it is a unit vector again     stored as int8 and a float32

Rounding moves a unit vector off the sphere, so reading normalizes it again: readers get unit vectors from any storage.

Letters: R rows, N or K vectors, T frames of a moment, E values of a vector.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cmmixer.data.manifest import Entry, readable
from cmmixer.embedding.pipeline import EmbeddedFile, Moment, Vector
from cmmixer.encoders.base import Encoder
from cmmixer.storage.files import atomic_file

Vectors = NDArray[np.float32]

ARROW_TYPES = {"fp32": pa.float32(), "bf16": pa.uint16(), "int8": pa.int8()}

METADATA_KEY = b"cmmixer"

MOMENT_COLUMNS, FRAME_COLUMNS = ("video", "audio"), ("video_frames", "audio_frames")

_ABOUT = [
    pa.field("path", pa.string(), nullable=False),
    pa.field("audio_path", pa.string()),
    pa.field("source", pa.string(), nullable=False),
    pa.field("label", pa.string()),
    pa.field("start_seconds", pa.float64(), nullable=False),
    pa.field("end_seconds", pa.float64(), nullable=False),
]

_INT8_MAX = 127

# Vectors of a row group: few enough to wait in memory, enough that its header does not count.
_GROUP_BYTES = 16_000_000


def parquet_schema(vectors: str = "fp32", *, frames: bool = False) -> pa.Schema:
    """Returns the columns of the file.

    Args:
        vectors: how vectors are stored: fp32, bf16 or int8.
        frames: include the vectors of frames.
    """
    fields = list(_ABOUT)
    vector, scale = pa.list_(ARROW_TYPES[vectors]), pa.float32()
    fields += [pa.field(name, vector) for name in MOMENT_COLUMNS]
    fields += [pa.field(f"{name}_scale", scale) for name in MOMENT_COLUMNS if vectors == "int8"]
    if frames:
        fields += [pa.field(name, pa.list_(vector)) for name in FRAME_COLUMNS]
        fields += [pa.field(f"{name}_scale", pa.list_(scale)) for name in FRAME_COLUMNS if vectors == "int8"]
    return pa.schema(fields)


@contextmanager
def parquet_writer(path: Path, encoder: Encoder, vectors: str, *, frames: bool) -> Iterator[VectorWriter]:
    """Opens a Parquet file of vectors for writing. The file appears when it is complete; after an error nothing is left.

    Args:
        path: the file.
        encoder: the model, for the file's metadata.
        vectors: how vectors are stored: fp32, bf16 or int8.
        frames: include the vectors of frames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"model_id": encoder.id, "embed_dim": encoder.dim, "clip": asdict(encoder.clip), "vectors": vectors}
    schema = parquet_schema(vectors, frames=frames).with_metadata({METADATA_KEY: json.dumps(metadata)})
    dictionary = _dictionary_columns(schema, vectors)
    with atomic_file(path) as file, pq.ParquetWriter(file, schema, use_dictionary=dictionary) as parquet:
        writer = VectorWriter(parquet, schema, vectors, encoder.dim)
        yield writer
        writer.flush()


def _dictionary_columns(schema: pa.Schema, vectors: str) -> list[str]:
    """Returns the columns that dictionary encoding makes smaller.

    Parquet stores small integers as four bytes each. In a dictionary an int8 takes one byte, a bfloat16 less than two.
    Floats are all different: they would be stored in the dictionary and beside it.
    """
    names = [entry.name for entry in schema if pa.types.is_string(entry.type)]
    if vectors != "fp32":
        names += [f"{name}.list.element" for name in MOMENT_COLUMNS]
        names += [f"{name}.list.element.list.element" for name in FRAME_COLUMNS]
    return names


class VectorWriter:
    """Collects the moments of files and writes them in row groups; `parquet_writer` makes one."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema, vectors: str, dim: int) -> None:
        self._file, self._schema, self._vectors, self._dim = file, schema, vectors, dim
        self._columns = [name for name in schema.names if name in MOMENT_COLUMNS + FRAME_COLUMNS]
        self._rows: list[tuple[Entry, Moment]] = []
        self._bytes = 0

    def write(self, file: EmbeddedFile) -> None:
        """Queues the moments of a file; the queue is bounded."""
        for moment in file.moments:
            self._rows.append((file.entry, moment))
            vectors = (getattr(moment, name) for name in self._columns)
            self._bytes += sum(vector.nbytes for vector in vectors if vector is not None)
            if self._bytes >= _GROUP_BYTES:
                self.flush()

    def flush(self) -> None:
        """Writes the queue as a row group."""
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
        """Returns a column of vectors, [E] or [T, E] a row, and the column of their scales if they have one."""
        present = [row.reshape(-1, self._dim) for row in rows if row is not None]
        vectors_KE = np.concatenate(present) if present else np.zeros((0, self._dim), np.float32)
        quantized = quantize(vectors_KE, self._vectors)
        counts_R = np.array([0 if row is None else row.size // self._dim for row in rows])
        layout = ListLayout(counts_R, np.array([row is None for row in rows]), nested=name in FRAME_COLUMNS)
        columns = {name: layout.vectors(quantized.values_NE)}
        if quantized.scale_N is not None:
            columns[f"{name}_scale"] = layout.scales(quantized.scale_N)
        return columns


class ListLayout:
    """How K consecutive vectors are distributed over R rows of an Arrow list column.

    Args:
        counts_R: vectors in each row.
        missing_R: whether a row is null.
        nested: rows are lists of vectors, not single vectors.
    """

    def __init__(self, counts_R: NDArray[Any], missing_R: NDArray[Any], *, nested: bool) -> None:
        self._offsets = np.concatenate([[0], np.cumsum(counts_R)]).astype(np.int32)
        self._missing = missing_R.astype(bool)
        self._nested = nested

    def vectors(self, values_KE: NDArray[Any]) -> pa.Array:
        """Returns a column with a list of E values in a row, or with T such lists."""
        count, dim = values_KE.shape
        flat = pa.array(values_KE.reshape(-1))
        if not self._nested:
            return self._lists(self._offsets * dim, flat)
        return self._lists(self._offsets, pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * dim, flat))

    def scales(self, scale_K: NDArray[Any]) -> pa.Array:
        """Returns a column with a number in a row, or with a list of T."""
        if self._nested:
            return self._lists(self._offsets, pa.array(scale_K))
        numbers_R = np.zeros(len(self._missing), np.float32)
        numbers_R[~self._missing] = scale_K
        return pa.array(numbers_R, mask=self._missing)

    def _lists(self, offsets: NDArray[Any], values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=pa.array(self._missing))


class Quantized(NamedTuple):
    """Stored vectors: `values_NE` float32, uint16 or int8, and for int8 the factor of each vector."""

    values_NE: NDArray[Any]
    scale_N: Vectors | None = None


def quantize(vectors_NE: Vectors, kind: str) -> Quantized:
    """Converts unit vectors to what is stored.

    Args:
        vectors_NE: float32, finite.
        kind: fp32, bf16 or int8.
    """
    if kind == "bf16":
        bits_NE = np.ascontiguousarray(vectors_NE, np.float32).view(np.uint32)
        # Round to the nearest upper half, ties to even.
        return Quantized(((bits_NE + 0x7FFF + (bits_NE >> 16 & 1)) >> 16).astype(np.uint16))
    if kind == "int8":
        largest_N1 = np.abs(vectors_NE).max(axis=1, keepdims=True)
        values_NE = np.rint(vectors_NE * (_INT8_MAX / np.maximum(largest_N1, 1e-30))).astype(np.int8)
        return Quantized(values_NE, np.float32(1.0) / _lengths(values_NE))
    return Quantized(np.asarray(vectors_NE, np.float32))


def dequantize(quantized: Quantized, kind: str) -> Vectors:
    """Converts stored values back to unit vectors, float32 [N, E]."""
    if kind == "bf16":
        vectors_NE: Vectors = (quantized.values_NE.astype(np.uint32) << 16).view(np.float32)
        return vectors_NE / _lengths(vectors_NE)[:, None]
    if kind == "int8":
        assert quantized.scale_N is not None
        return quantized.values_NE.astype(np.float32) * quantized.scale_N[:, None]
    return np.asarray(quantized.values_NE, np.float32)


def _lengths(values_NE: NDArray[Any]) -> Vectors:
    return np.asarray(np.maximum(np.linalg.norm(values_NE.astype(np.float32), axis=1), 1e-30), dtype=np.float32)
