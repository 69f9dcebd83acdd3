"""`cmmixer embed`: every moment of films and sounds as a row, of a Parquet file or of a table in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from cmmixer.config import CuttingSettings, EmbedSettings
from cmmixer.config.base import FILMS_ELSEWHERE, is_remote, pick, refuse_remote
from cmmixer.config.data import ClusterSettings
from cmmixer.config.retrieval import PARQUET
from cmmixer.data.manifest import Entry, Listing, absolute, read_layout
from cmmixer.data.skips import SkipReport
from cmmixer.embedding.parquet import written_parquet
from cmmixer.embedding.pipeline import EmbeddedFilm, embed_moments, in_order
from cmmixer.embedding.vector_table import LOCK, VectorFolder, VectorsCard, WrittenFilms, chunks, write_films
from cmmixer.encoders.base import Encoder
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import InputError, StoreError
from cmmixer.progress import NoProgress, Progress
from cmmixer.ray_cluster import Cluster, connected
from cmmixer.storage.files import explain_full_disk, temporary_folder
from cmmixer.storage.folder import Folder, absolute_place, open_folder


@dataclass(frozen=True)
class EmbedReport:
    """What `cmmixer embed` did.

    Attributes:
        out: the Parquet file, or the folder.
        films: files that gave moments.
        moments: rows in it.
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
    """Embeds every moment of films and sounds, in the order of the data: into a Parquet file, or into a folder with a
    Lance table, which a run that was stopped goes on with.

    Args:
        settings: of the command.
        progress: told about every film.
        encoder: the model of `settings.model`, where it is loaded already; actors of a cluster load their own.

    Raises:
        InputError: data or model that cannot be read, a place that cannot be written to, a cluster that does not answer.
    """
    progress = progress or NoProgress()
    refuse_remote("data", settings.data, FILMS_ELSEWHERE)
    listing = read_layout(settings.data)
    with explain_full_disk(settings.out, InputError), connected(pick(ClusterSettings, settings)) as cluster:
        # Actors have the GPUs; here the model only says who it is.
        device = settings.device if cluster is None else "cpu"
        encoder = encoder or load_encoder(settings.model, device, settings.precision)
        progress.start(len(listing.entries), "embedding films")
        into = _into_parquet if settings.out.endswith(PARQUET) else _into_folder
        return into(settings, listing, encoder, cluster, progress)


def _into_parquet(
    settings: EmbedSettings, listing: Listing, encoder: Encoder, cluster: Cluster | None, progress: Progress
) -> EmbedReport:
    assert cluster is None  # the settings refuse it
    skips = SkipReport(listing.ignored)
    used = rows = 0
    films = _films(settings, listing.entries, encoder, progress)
    with (
        _local_file(settings.out) as out,
        written_parquet(out, encoder, settings.vectors, frames=settings.frames) as writer,
    ):
        for film in in_order(films):
            skip = film.skip()
            if skip is not None:
                skips.add_skip(skip)
            if film.moments:
                writer.write(film)
                used, rows = used + 1, rows + len(film.moments)
    return EmbedReport(settings.out, used, rows, skips)


def _into_folder(
    settings: EmbedSettings, listing: Listing, encoder: Encoder, cluster: Cluster | None, progress: Progress
) -> EmbedReport:
    folder = open_folder(settings.out)
    try:
        folder.make()
    except (FileExistsError, NotADirectoryError) as fault:
        raise StoreError(f"{folder}: is a file; vectors go into a folder, or into a file named *{PARQUET}") from fault
    card = VectorsCard.of(encoder, pick(CuttingSettings, settings), settings.vectors, frames=settings.frames)
    busy = StoreError(f"{folder}: another `embed` is writing to it; wait for it or choose another folder")
    with folder.held(LOCK, busy) as held:
        vectors = VectorFolder(folder, held, card)
        todo = vectors.todo(listing.entries)
        progress.advance(len(listing.entries) - len(todo))
        if cluster is None:
            films = in_order(_films(settings, todo, encoder, progress))
            for chunk in chunks(films):
                vectors.take(write_films(folder, card, chunk))
        else:
            for part in _on_cluster(settings, card, folder, todo, cluster):
                vectors.take(part)
                progress.advance(len(part.films))
        films_there, moments, skips = vectors.finish(listing)
    return EmbedReport(settings.out, films_there, moments, skips)


def _on_cluster(
    settings: EmbedSettings, card: VectorsCard, folder: Folder, todo: list[Entry], cluster: Cluster
) -> Iterator[WrittenFilms]:
    from cmmixer.embedding.embed_ray import FILMS_PER_PART, PartEmbedder

    model = settings.model
    embedder = PartEmbedder(
        place=absolute_place(folder),
        card=card,
        model=os.path.abspath(model) if os.path.exists(model) else model,
        device=settings.device if settings.ray_gpus else "cpu",
        precision=settings.precision,
        batch_size=settings.batch_size,
        workers=settings.workers or settings.ray_cpus,
        file_seconds=settings.file_seconds,
    )
    return cluster.map(embedder, cluster.parts([absolute(entry) for entry in todo], FILMS_PER_PART))


def _films(
    settings: EmbedSettings, entries: list[Entry], encoder: Encoder, progress: Progress
) -> Iterator[EmbeddedFilm]:
    return embed_moments(
        entries,
        encoder,
        cutting=pick(CuttingSettings, settings),
        batch_size=settings.batch_size,
        workers=settings.workers,
        file_seconds=settings.file_seconds,
        progress=progress,
    )


@contextmanager
def _local_file(out: str) -> Iterator[Path]:
    """Where a Parquet file is written: in its place, or beside nothing and then uploaded whole."""
    if not is_remote(out):
        yield Path(out)
        return
    from cmmixer.storage.s3 import ObjectFolder

    parent, _, name = out.rpartition("/")
    folder = ObjectFolder(parent, whole_bucket=True)
    folder.make()
    with temporary_folder("cmmixer-embed-") as here:
        yield here / name
        folder.write_file(name, here / name)
