"""`cmmixer embed`: every moment of films and sounds as a row of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from cmmixer.atomic import explain_full_disk
from cmmixer.config import CuttingSettings, EmbedSettings
from cmmixer.config.check import pick
from cmmixer.data.manifest import read_layout
from cmmixer.data.skips import SkipReport
from cmmixer.embedding.films import EmbeddedFilm, embed_moments
from cmmixer.embedding.parquet import written_parquet
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
    out = Path(settings.out)
    with (
        explain_full_disk(out, InputError),
        written_parquet(out, encoder, settings.vectors, frames=settings.frames) as writer,
    ):
        for film in _in_order(films):
            skip = film.skip()
            if skip is not None:
                skips.add_skip(skip)
            if film.moments:
                writer.write(film)
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
