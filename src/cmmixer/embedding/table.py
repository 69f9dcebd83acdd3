"""`cmmixer embed`: every moment of films and sounds as a row of a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.text import Text

from cmmixer.atomic import explain_full_disk, file_written_whole
from cmmixer.config import CuttingSettings, EmbedSettings
from cmmixer.config.check import pick
from cmmixer.data.manifest import read_layout, readable
from cmmixer.data.skips import SkipReport
from cmmixer.embedding.films import EmbeddedFilm, Vector, embed_moments
from cmmixer.encoders import Encoder, load_encoder
from cmmixer.errors import InputError
from cmmixer.progress import NoProgress, Progress


@dataclass(frozen=True)
class EmbedReport:
    """What `cmmixer embed` did.

    Attributes:
        out: the Parquet file.
        films: files that gave moments.
        moments: rows written.
        skips: files left out, wholly or in part.
    """

    out: str
    films: int
    moments: int
    skips: SkipReport

    def as_json(self) -> dict[str, Any]:
        return {
            "out": self.out,
            "films": self.films,
            "moments": self.moments,
            "skipped": self.skips.counts,
            "skipped_files": [
                {"path": skip.path, "reason": skip.reason, "message": skip.message} for skip in self.skips
            ],
        }

    def render(self) -> Text:
        """The same for people; no markup, because a file may be called [red].mp4."""
        lines = [f"{self.out}: {self.moments} moments of {self.films} files"]
        if self.skips.total:
            lines += [self.skips.summary, *(f"  {skip.path}: {skip.message}" for skip in self.skips)]
        return Text("\n".join(lines))


PARQUET_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("audio_path", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("start_seconds", pa.float64(), nullable=False),
        pa.field("end_seconds", pa.float64(), nullable=False),
        pa.field("video", pa.list_(pa.float32())),
        pa.field("audio", pa.list_(pa.float32())),
    ]
)
# With --frames: T vectors of E values for each moment and sense.
FRAME_FIELDS = [pa.field(f"{sense}_frames", pa.list_(pa.list_(pa.float32()))) for sense in ("video", "audio")]


def embed(settings: EmbedSettings, progress: Progress | None = None, *, encoder: Encoder | None = None) -> EmbedReport:
    """Embeds every moment of films and sounds into a Parquet file, in the order of the data.

    Args:
        settings: of the command.
        progress: told about every film.
        encoder: the model of `settings.model`, where it is loaded already.

    Raises:
        InputError: data or model that cannot be read, or a place that cannot be written to.
    """
    progress = progress or NoProgress()
    listing = read_layout(settings.data)
    encoder = encoder or load_encoder(settings.model, settings.device)
    progress.start(len(listing.entries), "embedding films")
    films = embed_moments(
        listing.entries,
        encoder,
        cutting=pick(CuttingSettings, settings),
        batch_size=settings.batch_size,
        workers=settings.workers,
        file_seconds=settings.file_seconds,
        progress=progress,
    )
    skips = SkipReport(listing.ignored)
    used = rows = 0
    schema = pa.schema([*PARQUET_SCHEMA, *FRAME_FIELDS]) if settings.frames else PARQUET_SCHEMA
    with explain_full_disk(Path(settings.out), InputError), _parquet(Path(settings.out), encoder, schema) as write:
        for film in _in_order(films):
            skip = film.skip()
            if skip is not None:
                skips.add_skip(skip)
            if film.moments:
                write(film)
                used, rows = used + 1, rows + len(film.moments)
    return EmbedReport(settings.out, used, rows, skips)


def _in_order(films: Iterable[EmbeddedFilm]) -> Iterator[EmbeddedFilm]:
    """Films by number; a long one holds back the vectors of those behind it, not their pictures."""
    held: dict[int, EmbeddedFilm] = {}
    following = 0
    for film in films:
        held[film.number] = film
        while following in held:
            yield held.pop(following)
            following += 1


@contextmanager
def _parquet(path: Path, encoder: Encoder, schema: pa.Schema) -> Iterator[Callable[[EmbeddedFilm], None]]:
    """Writes films as rows to a temporary file that takes the path's name when everything is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    card = {"model_id": encoder.id, "embed_dim": encoder.dim, "clip": asdict(encoder.clip)}
    schema = schema.with_metadata({"cmmixer": json.dumps(card)})
    with file_written_whole(path) as file, pq.ParquetWriter(file, schema) as writer:
        yield lambda film: writer.write_table(pa.Table.from_pylist(_rows(film, schema.names), schema=schema))


def _rows(film: EmbeddedFilm, columns: Sequence[str]) -> list[dict[str, Any]]:
    entry = film.entry
    about = {
        "path": readable(entry.path),
        "audio_path": None if entry.audio_path is None else readable(entry.audio_path),
        "source": entry.source,
        "label": entry.label,
    }
    rows = []
    for moment in film.moments:
        own = {"start_seconds": moment.span.start_seconds, "end_seconds": moment.span.end_seconds}
        vectors = {name: getattr(moment, name) for name in columns if name not in about and name not in own}
        rows.append({**about, **own, **{name: _lists(vector) for name, vector in vectors.items()}})
    return rows


def _lists(vector: Vector | None) -> Any:
    """Arrow takes arrays of one axis; those of two become a list of such."""
    return list(vector) if vector is not None and vector.ndim == 2 else vector
