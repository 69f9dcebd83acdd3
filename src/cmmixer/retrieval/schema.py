"""What an index stores: the columns of its two tables, and `index.json`, which a person can read.

An index is searched exactly, or through an approximate nearest neighbour (ANN) index of LanceDB whose recall was measured.
The metadata names the ANN index of each modality. Searches use it only while the metadata names it, so whatever a killed
process leaves behind is ignored and the search is exact.

Letters: T frames of a moment, E values of a vector.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from cmmixer.config import ClipSettings, SegmentSettings
from cmmixer.encoders.base import Encoder
from cmmixer.errors import SearchIndexError
from cmmixer.storage.folder import LocalFolder
from cmmixer.storage.metadata import FolderMetadata, MetadataFile
from cmmixer.version import __version__

FORMAT = 3
METADATA = "index.json"

# The columns of vectors of a moment: of each modality, and of both fused (`embedding.pipeline.both_modalities`).
VECTOR_COLUMNS = ("video", "audio", "any")

EXACT = "exact"

# Recall is measured over the 10 nearest moments.
RECALL_K = 10


@dataclass(frozen=True, kw_only=True)
class ANNSettings:
    """How one modality is searched, and what was measured when that was chosen.

    Attributes:
        kind: `exact`, or the type of the ANN index, as `--index_kind`.
        why: for `exact`, the reason; otherwise the queries it was tuned with.
        rows: moments with this modality at that time.
        name: of the LanceDB index.
        partitions: cells that the vectors are divided into.
        probes: how many cells, those nearest to a query, are read.
        candidates: how many of the best rows there are scored again with their full vectors; 0: every row is.
        ef: how many candidates a graph search keeps; 0: there is no graph.
        recall: the part of the exact 10 nearest moments that was found.
        target: the recall that was required.
        p50_ms: median time of a search through the ANN index.
        exact_p50_ms: median time of an exact search, measured in the same minute.
        build_seconds: time to build the ANN index.
        bytes_per_row: size of the ANN index on disk, without the vectors themselves.
    """

    kind: str
    why: str
    rows: int
    name: str = ""
    partitions: int = 0
    probes: int = 0
    candidates: int = 0
    ef: int = 0
    recall: float = 1.0
    target: float = 1.0
    p50_ms: float = 0.0
    exact_p50_ms: float = 0.0
    build_seconds: float = 0.0
    bytes_per_row: float = 0.0

    def refine_factor(self, limit: int) -> int | None:
        """Returns how many times `limit` rows are scored again, so that at least `candidates` are; None: no rescoring."""
        return max(1, math.ceil(self.candidates / limit)) if self.candidates else None

    @property
    def message(self) -> str:
        """One line for people."""
        if self.kind == EXACT:
            return f"exact search: {self.why}"
        return (
            f"{self.kind}, {self.probes} of {self.partitions} cells read; measured with {self.why}: recall@{RECALL_K} "
            f"{self.recall:.3f} (required: {self.target:g}), {self.p50_ms:.1f} ms a search against {self.exact_p50_ms:.1f} ms; "
            f"built in {self.build_seconds:.0f} s, {self.bytes_per_row:.0f} bytes a moment"
        )


@dataclass(frozen=True, kw_only=True)
class IndexMetadata(FolderMetadata):
    """The content of `index.json`: which model made the index and how. Vectors of another model are refused.

    Attributes:
        model_id: sha256 of the model's weights.
        model: path of the checkpoint when the index was made.
        embed_dim: E, length of a vector.
        clip: geometry of the model's clip.
        segmentation: how files are cut into moments; queries too.
        created_by: version of this package.
        ann_settings: how each modality is searched, once `--optimize` has chosen; the others are searched exactly.
    """

    FILE: ClassVar[MetadataFile] = MetadataFile(
        what="index",
        name=METADATA,
        format=FORMAT,
        error=SearchIndexError,
        make="make one with `cmmixer index --model RUN --data DIR --index {folder}`",
        remake="make an index in a new folder",
    )

    model_id: str
    model: str
    embed_dim: int
    clip: ClipSettings
    segmentation: SegmentSettings
    created_by: str = f"cmmixer {__version__}"
    ann_settings: dict[str, ANNSettings] = field(default_factory=dict)

    @classmethod
    def of(cls, encoder: Encoder, segmentation: SegmentSettings) -> IndexMetadata:
        """Describes a new index."""
        return cls(
            model_id=encoder.id,
            model=encoder.path,
            embed_dim=encoder.dim,
            clip=encoder.clip,
            segmentation=segmentation.complete(encoder.clip),
        )

    @property
    def frames(self) -> int:
        """T, frames of a moment."""
        return self.segmentation.moment_clip(self.clip).frames

    def moments_schema(self) -> pa.Schema:
        """Returns the columns of the table of moments."""
        return moments_schema(self.embed_dim, self.frames)

    def check_encoder(self, encoder: Encoder, folder: Path) -> None:
        """Refuses another model.

        Raises:
            SearchIndexError: names both ids.
        """
        if encoder.id != self.model_id:
            raise SearchIndexError(
                f"{folder}: its vectors are of model {self.model_id[:16]} ({self.model}), got model {encoder.id[:16]} "
                f"({encoder.path}); use that model, or make an index in a new folder"
            )
        if (encoder.dim, encoder.clip) != (self.embed_dim, self.clip):
            raise SearchIndexError(
                f"{folder}: made with {self.embed_dim} values a vector and {self.clip}, got {encoder.dim} and "
                f"{encoder.clip}; {METADATA} was altered; make an index in a new folder"
            )


def read_metadata(folder: Path) -> IndexMetadata:
    """Reads the metadata of an index.

    Raises:
        SearchIndexError: there is no index, or its metadata is damaged or of another format.
    """
    if folder.exists() and not (folder / METADATA).is_file():
        what = (
            f"is damaged: {METADATA} is missing"
            if (folder / "moments.lance").exists()
            else f"is not an index: no {METADATA}"
        )
        raise SearchIndexError(f"{folder}: {what}; make an index in a new folder")
    return IndexMetadata.read(LocalFolder(folder))


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


def moments_schema(embed_dim: int, frames: int) -> pa.Schema:
    """Returns the columns of the table of moments. The T x E values of a moment's frames are one list, in half precision."""
    vector = pa.list_(pa.float32(), embed_dim)
    frame_vectors = pa.list_(pa.float16(), frames * embed_dim)
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
            pa.field("any", vector, nullable=False),
            pa.field("video_frames", frame_vectors),
            pa.field("audio_frames", frame_vectors),
        ]
    )


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """A file of the index. Text is readable everywhere: bytes that are not UTF-8 are written in hexadecimal.

    Attributes:
        name: unique in the index: absolute path, audio file, and part of the file.
        path, audio_path: absolute.
        root: the data it came from, absolute; `--sync` removes only files of the same data.
        source, label: from the data's layout.
        sizes, mtimes_ns: of the file and its audio file when they were read; -1 for one that is missing.
        sha256: of their content.
        status: `used` or `skipped`.
        reason, message: why the file, or a part of it, was left out.
        limit_seconds: its time limit; a file that exceeded it is tried again with a longer one.
        moments: number of moments.
        batch: key of its moments.
        extra: the split and the manifest's other columns, written by `extra_json`; `metadata` parses them.
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


def extra_json(extra: Mapping[str, Any]) -> str | None:
    """Writes a manifest's other columns as a JSON object, sorted by name, without empty cells; None if all are empty.

    What JSON or UTF-8 cannot hold is dropped: non-finite numbers become null, lone surrogates `?`.
    """
    cells = {str(name): value for name, value in extra.items() if not (_is_empty(name) or _is_empty(value))}
    if not cells:
        return None
    text = json.dumps(_finite(cells), ensure_ascii=False, sort_keys=True)
    return text.encode("utf-8", "replace").decode()


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
