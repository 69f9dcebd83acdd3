"""The columns of an index's two tables."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

FILES_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("audio_path", pa.string()),
        pa.field("root", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("sizes", pa.list_(pa.int64())),
        pa.field("mtimes_ns", pa.list_(pa.int64())),
        pa.field("sha256", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
        pa.field("limit_seconds", pa.float64(), nullable=False),
        pa.field("moments", pa.int64(), nullable=False),
        pa.field("batch", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """A file of the index; all text is readable (bytes that are not UTF-8 are written in hexadecimal).

    Attributes:
        name: names it in this index: absolute path, sound file and stretch.
        path, audio_path: absolute.
        root: the data it came from, absolute; `--sync` removes only what came from the same.
        source, label: as the layout has them.
        sizes, mtimes_ns: of the file and its sound file, when it was read; -1 for one that is not there.
        sha256: of their content.
        status: `used` or `skipped`.
        reason, message: why it, or a part of it, was left out.
        limit_seconds: time it was given; one that ran out of it is tried again with more.
        moments: how many moments it has.
        batch: key of its moments.
    """

    name: str
    path: str
    audio_path: str | None
    root: str
    source: str
    label: str | None
    sizes: list[int]
    mtimes_ns: list[int]
    sha256: str | None
    status: str
    reason: str | None
    message: str | None
    limit_seconds: float
    moments: int
    batch: str | None


def moments_schema(embed_dim: int, frames: int) -> pa.Schema:
    """Columns of the table of moments; the vectors of a moment's frames lie one after the other, in half precision."""
    vector = pa.list_(pa.float32(), embed_dim)
    in_order = pa.list_(pa.float16(), frames * embed_dim)
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("batch", pa.string(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("audio_path", pa.string()),
            pa.field("source", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("start_seconds", pa.float64(), nullable=False),
            pa.field("end_seconds", pa.float64(), nullable=False),
            pa.field("video", vector),
            pa.field("audio", vector),
            pa.field("film", vector, nullable=False),
            pa.field("video_frames", in_order),
            pa.field("audio_frames", in_order),
        ]
    )
