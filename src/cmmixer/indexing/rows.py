"""The columns of an index's two tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
        pa.field("extra", pa.string()),
    ]
)
# An index of before has no `extra`: it is read as it is, and gets the column from the next writer.
FILES_SCHEMA_BEFORE = pa.schema([entry for entry in FILES_SCHEMA if entry.name != "extra"])


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
        extra: the split and the manifest's other columns, as `extra_text` writes them; `metadata` reads them.
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
    extra: str | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """The split and the manifest's other columns."""
        return {} if self.extra is None else dict(json.loads(self.extra))


def extra_text(extra: Mapping[str, Any]) -> str | None:
    """A manifest's other columns as one JSON object, in order of their names, without empty cells; None
    where all are.

    What JSON or UTF-8 have no sign for is left out: infinite numbers, and halves of characters (as `?`).
    """
    given = {str(name): value for name, value in extra.items() if not (_is_empty(name) or _is_empty(value))}
    if not given:
        return None
    text = json.dumps(_finite(given), ensure_ascii=False, sort_keys=True)
    return text.encode("utf-8", "replace").decode()


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
