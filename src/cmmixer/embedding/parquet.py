"""The Parquet file of `cmmixer embed`: its columns, its writer, its reader.

Letters: R rows, K vectors that are there, T frames of a moment, E values of a vector.

Unit vectors in fewer bytes: bfloat16, or int8 with a scale for each vector.

    bf16    the upper half of a float32, rounded to even: 8 significant bits             kept as uint16
    int8    round(127 x / max |x|); times the scale 1 / |q| it is a unit vector again    kept as int8 and a float32

Reading gives unit vectors whatever the storage: rounding moves their ends off the sphere, so they are made unit length again.

Letters: N vectors, E values of each.
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
from cmmixer.embedding.pipeline import EmbeddedFilm, Moment, Vector
from cmmixer.encoders.base import Encoder
from cmmixer.storage.files import file_written_whole

Vectors = NDArray[np.float32]

ARROW_TYPES = {"fp32": pa.float32(), "bf16": pa.uint16(), "int8": pa.int8()}

_LARGEST = 127


class Stored(NamedTuple):
    """Vectors as they are kept: `values_NE` float32, uint16 or int8, and for int8 what each is multiplied with."""

    values_NE: NDArray[Any]
    scale_N: Vectors | None = None


def stored(vectors_NE: Vectors, kind: str) -> Stored:
    """Unit vectors, to be kept as `kind`.

    Args:
        vectors_NE: float32, finite.
        kind: fp32, bf16 or int8.
    """
    if kind == "bf16":
        bits_NE = np.ascontiguousarray(vectors_NE, np.float32).view(np.uint32)
        # To the nearest upper half; the even one where two are equally near.
        return Stored(((bits_NE + 0x7FFF + (bits_NE >> 16 & 1)) >> 16).astype(np.uint16))
    if kind == "int8":
        largest_N1 = np.abs(vectors_NE).max(axis=1, keepdims=True)
        values_NE = np.rint(vectors_NE * (_LARGEST / np.maximum(largest_N1, 1e-30))).astype(np.int8)
        return Stored(values_NE, np.float32(1.0) / _lengths(values_NE))
    return Stored(np.asarray(vectors_NE, np.float32))


def restored(kept: Stored, kind: str) -> Vectors:
    """Unit vectors, float32 [N, E], of what `stored` gave."""
    if kind == "bf16":
        vectors_NE: Vectors = (kept.values_NE.astype(np.uint32) << 16).view(np.float32)
        return vectors_NE / _lengths(vectors_NE)[:, None]
    if kind == "int8":
        assert kept.scale_N is not None
        return kept.values_NE.astype(np.float32) * kept.scale_N[:, None]
    return np.asarray(kept.values_NE, np.float32)


def _lengths(values_NE: NDArray[Any]) -> Vectors:
    return np.asarray(np.maximum(np.linalg.norm(values_NE.astype(np.float32), axis=1), 1e-30), dtype=np.float32)


METADATA_KEY = b"cmmixer"

_ABOUT = [
    pa.field("path", pa.string(), nullable=False),
    pa.field("audio_path", pa.string()),
    pa.field("source", pa.string(), nullable=False),
    pa.field("label", pa.string()),
    pa.field("start_seconds", pa.float64(), nullable=False),
    pa.field("end_seconds", pa.float64(), nullable=False),
]

MOMENT_COLUMNS, FRAME_COLUMNS = ("video", "audio"), ("video_frames", "audio_frames")

# Vectors of a row group: few enough to wait in memory, enough that its header is nothing beside them.
_GROUP_BYTES = 16_000_000


def parquet_schema(vectors: str = "fp32", *, frames: bool = False) -> pa.Schema:
    """The columns.

    Args:
        vectors: how vectors are stored: fp32, bf16 or int8.
        frames: with those of each frame.
    """
    fields = list(_ABOUT)
    vector, scale = pa.list_(ARROW_TYPES[vectors]), pa.float32()
    fields += [pa.field(name, vector) for name in MOMENT_COLUMNS]
    fields += [pa.field(f"{name}_scale", scale) for name in MOMENT_COLUMNS if vectors == "int8"]
    if frames:
        fields += [pa.field(name, pa.list_(vector)) for name in FRAME_COLUMNS]
        fields += [pa.field(f"{name}_scale", pa.list_(scale)) for name in FRAME_COLUMNS if vectors == "int8"]
    return pa.schema(fields)


# -------------------------------------------------------------------------------------------------------------- writing


class VectorWriter:
    """Takes films one by one and writes their moments in row groups; see `written_parquet`."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema, vectors: str, dim: int) -> None:
        self._file, self._schema, self._vectors, self._dim = file, schema, vectors, dim
        self._columns = [name for name in schema.names if name in MOMENT_COLUMNS + FRAME_COLUMNS]
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
        shape = ListLayout(counts_R, np.array([row is None for row in rows]), deep=name in FRAME_COLUMNS)
        columns = {name: shape.vectors(kept.values_NE)}
        if kept.scale_N is not None:
            columns[f"{name}_scale"] = shape.scales(kept.scale_N)
        return columns


@contextmanager
def written_parquet(path: Path, encoder: Encoder, vectors: str, *, frames: bool) -> Iterator[VectorWriter]:
    """Writes to a temporary file that takes the path's name when everything is in it; on any error nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    card = {"model_id": encoder.id, "embed_dim": encoder.dim, "clip": asdict(encoder.clip), "vectors": vectors}
    schema = parquet_schema(vectors, frames=frames).with_metadata({METADATA_KEY: json.dumps(card)})
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
        names += [f"{name}.list.element" for name in MOMENT_COLUMNS]
        names += [f"{name}.list.element.list.element" for name in FRAME_COLUMNS]
    return names


class ListLayout:
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
