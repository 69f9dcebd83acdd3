"""What an index says about itself: `index.json`, which a person can read and every vector is checked against.

How the moments of one sense are found: by looking at all, or through an approximate index whose recall was measured.

A plan stands in the index's card and names its LanceDB index. Searches use that index only while a plan names it; what a
killed process leaves behind is passed over, and the search looks at all.

The columns of an index's two tables.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from cmmixer.config import ClipSettings, CuttingSettings
from cmmixer.config.base import from_dict, pick
from cmmixer.encoders.base import Encoder
from cmmixer.errors import SearchIndexError, SettingsError

EXACT = "exact"

# Recall is measured among so many nearest moments.
K = 10


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """How one sense is searched, and what was measured when that was chosen.

    Attributes:
        kind: `exact`, or what the index is made of, as `--index_kind`.
        why: for `exact`, why; otherwise how many queries of what sort it was tuned with.
        rows: moments with this sense at that time.
        name: of the LanceDB index.
        partitions: cells that the vectors are divided into.
        probes: how many of them, the nearest to a query, are read.
        candidates: how many of the best there are scored anew with their full vectors; 0: all are, in the first place.
        ef: how many candidates a graph keeps while it is walked; 0: there is no graph.
        recall: part of the exact 10 nearest that were found.
        target: what the recall had to reach.
        p50_ms: median time of one search through the index.
        exact_p50_ms: of one that looks at all, in the same minute.
        build_seconds: what building took.
        bytes_per_row: of the index on disk, beside the vectors themselves.
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
        """How many times `limit` candidates are scored anew, so that at least `candidates` are; None: none have to be."""
        return max(1, math.ceil(self.candidates / limit)) if self.candidates else None

    @property
    def told(self) -> str:
        """One line for people."""
        if self.kind == EXACT:
            return f"every moment is looked at: {self.why}"
        return (
            f"{self.kind}, {self.probes} of {self.partitions} cells read; measured with {self.why}: recall@{K} {self.recall:.3f} "
            f"(asked for {self.target:g}), {self.p50_ms:.1f} ms a search against {self.exact_p50_ms:.1f} ms; "
            f"built in {self.build_seconds:.0f} s, {self.bytes_per_row:.0f} bytes a moment"
        )


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


FORMAT = 2

NAME = "index.json"


@dataclass(frozen=True, kw_only=True)
class IndexCard:
    """An index's parents; vectors of other ones are refused.

    Attributes:
        model_id: sha256 of the model's weights.
        model: the checkpoint's folder, where it was when the index was made.
        embed_dim: length of a vector.
        clip: geometry of a moment.
        stride_seconds: a moment starts every so many seconds.
        moment_seconds: length of a moment; None: of the model's clip.
        shots: whether moments keep to their shots.
        version: of the package that made it.
        format: of this folder.
        plans: how each sense is searched, where `--optimize` has chosen; a sense without one is searched exactly.
    """

    model_id: str
    model: str
    embed_dim: int
    clip: ClipSettings
    stride_seconds: float
    moment_seconds: float | None = None
    shots: bool = False
    version: str = ""
    format: int = FORMAT
    plans: dict[str, SearchPlan] = field(default_factory=dict)

    def text(self) -> str:
        """The file's content."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @property
    def cutting(self) -> CuttingSettings:
        """How its films are cut, and queries too."""
        return pick(CuttingSettings, self)

    @property
    def frames(self) -> int:
        """T, frames of a moment."""
        return self.cutting.moment(self.clip).frames

    def moments_schema(self) -> pa.Schema:
        """Columns of its table of moments."""
        return moments_schema(self.embed_dim, self.frames)

    def check_encoder(self, encoder: Encoder, where: Path) -> None:
        """Refuses another model.

        Raises:
            SearchIndexError: names both ids.
        """
        got = (encoder.id, encoder.dim, encoder.clip)
        if got[0] != self.model_id:
            raise SearchIndexError(
                f"{where}: its vectors are of model {self.model_id[:16]} ({self.model}), got model {encoder.id[:16]} "
                f"({encoder.path}); give that model, or make an index in a new folder"
            )
        if got[1:] != (self.embed_dim, self.clip):
            raise SearchIndexError(
                f"{where}: made with {self.embed_dim} values a vector and {self.clip}, got {encoder.dim} and "
                f"{encoder.clip}; index.json was altered; make an index in a new folder"
            )


def read_card(folder: Path) -> IndexCard:
    """The card of an index.

    Raises:
        SearchIndexError: there is no index, its card is damaged, or of a newer format.
    """
    file = folder / NAME
    if not folder.exists():
        raise SearchIndexError(
            f"{folder}: no such index; make one with `cmmixer index --model RUN --data DIR --index {folder}`"
        )
    if not file.is_file():
        what = (
            "is damaged: index.json is gone"
            if (folder / "moments.lance").exists()
            else "is not an index: no index.json"
        )
        raise SearchIndexError(f"{folder}: {what}; make an index in a new folder")
    try:
        values: dict[str, Any] = json.loads(file.read_text())
        if values["format"] != FORMAT:
            raise SearchIndexError(
                f"{file}: got format {values['format']}, expected {FORMAT}; use the version that wrote it, or make an index in a "
                "new folder"
            )
        values["clip"] = from_dict(ClipSettings, values["clip"], f"{file}: clip")
        plans = values.get("plans", {}).items()
        values["plans"] = {sense: from_dict(SearchPlan, plan, f"{file}: plan of {sense}") for sense, plan in plans}
        return from_dict(IndexCard, values, str(file))
    except SearchIndexError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SettingsError) as fault:
        raise SearchIndexError(f"{file}: is damaged ({fault}); make an index in a new folder") from fault
