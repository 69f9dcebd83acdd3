"""`cmmixer embed`: the vectors of every moment of media files, written as a Parquet file or as a table in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from cmmixer.config import EmbedSettings, SegmentSettings
from cmmixer.config.base import VIDEOS_ELSEWHERE, is_remote, pick, refuse_remote
from cmmixer.config.data import ClusterSettings
from cmmixer.config.fields import accepts_settings
from cmmixer.config.retrieval import PARQUET
from cmmixer.data.manifest import Entry, Listing, absolute, read_layout
from cmmixer.data.skips import SkipReport
from cmmixer.embedding.parquet import parquet_writer
from cmmixer.embedding.pipeline import EmbeddedFile, embed_moments, in_order
from cmmixer.embedding.vector_table import LOCK, VectorFolder, VectorsMetadata, WrittenFiles, in_groups, write_files
from cmmixer.encoders.base import Encoder
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import InputError, StoreError
from cmmixer.progress import NoProgress, Progress
from cmmixer.ray_cluster import Cluster, connected
from cmmixer.storage.files import explain_full_disk, temporary_folder
from cmmixer.storage.folder import Folder, absolute_location, open_folder


@dataclass(frozen=True)
class EmbedReport:
    """The result of `cmmixer embed`.

    Attributes:
        out: the Parquet file or the folder.
        videos: files with at least one moment.
        moments: rows in it.
        skips: files left out, wholly or in part.
    """

    out: str
    videos: int
    moments: int
    skips: SkipReport

    def as_json(self) -> dict[str, Any]:
        return {
            "out": self.out,
            "videos": self.videos,
            "moments": self.moments,
            "skipped": self.skips.counts,
            "skipped_files": [
                {"path": skip.path, "reason": skip.reason, "message": skip.message} for skip in self.skips
            ],
        }

    def render(self) -> Text:
        """Formats the report for people; without markup, because a file may be called [red].mp4."""
        lines = [f"{self.out}: {self.moments} moments of {self.videos} files"]
        if self.skips.total:
            lines += [self.skips.summary, *(f"  {skip.path}: {skip.message}" for skip in self.skips)]
        return Text("\n".join(lines))


@accepts_settings(EmbedSettings)
def embed(settings: EmbedSettings, progress: Progress | None = None, *, encoder: Encoder | None = None) -> EmbedReport:
    """Embeds every moment of videos and audio files, in the order of the data.

    The vectors are written to a Parquet file, or to a folder with a Lance table. A folder can be resumed: files that
    are in it are not embedded again.

    Args:
        settings: options of the command.
        progress: advanced for every file.
        encoder: the model of `settings.model`, if it is loaded already. Actors of a cluster load their own.

    Raises:
        InputError: unreadable data or model, an output that cannot be written, or a cluster that does not answer.
    """
    progress = progress or NoProgress()
    refuse_remote("data", settings.data, VIDEOS_ELSEWHERE)
    listing = read_layout(settings.data)
    with explain_full_disk(settings.out, InputError), connected(pick(ClusterSettings, settings)) as cluster:
        # On a cluster the actors have the GPUs; here only the model's id is needed.
        device = settings.device if cluster is None else "cpu"
        encoder = encoder or load_encoder(settings.model, device, settings.precision)
        progress.start(len(listing.entries), "embedding videos")
        if settings.out.endswith(PARQUET):
            assert cluster is None  # the settings refuse it
            return _embed_to_parquet(settings, listing, encoder, progress)
        return _embed_to_folder(settings, listing, encoder, cluster, progress)


def _embed_to_parquet(settings: EmbedSettings, listing: Listing, encoder: Encoder, progress: Progress) -> EmbedReport:
    skips = SkipReport(listing.ignored)
    used = rows = 0
    files = _embedded(settings, listing.entries, encoder, progress)
    with (
        _local_file(settings.out) as out,
        parquet_writer(out, encoder, settings.vectors, frames=settings.frames) as writer,
    ):
        for file in in_order(files):
            skip = file.skip()
            if skip is not None:
                skips.add_skip(skip)
            if file.moments:
                writer.write(file)
                used, rows = used + 1, rows + len(file.moments)
    return EmbedReport(settings.out, used, rows, skips)


def _embed_to_folder(
    settings: EmbedSettings, listing: Listing, encoder: Encoder, cluster: Cluster | None, progress: Progress
) -> EmbedReport:
    folder = open_folder(settings.out)
    try:
        folder.make()
    except (FileExistsError, NotADirectoryError) as error:
        raise StoreError(f"{folder}: is a file; vectors go into a folder, or into a file named *{PARQUET}") from error
    metadata = VectorsMetadata.of(encoder, pick(SegmentSettings, settings), settings.vectors, frames=settings.frames)
    busy = StoreError(f"{folder}: another `embed` is writing to it; wait for it or choose another folder")
    with folder.lock(LOCK, busy) as lock:
        vectors = VectorFolder(folder, lock, metadata)
        todo = vectors.missing(listing.entries)
        progress.advance(len(listing.entries) - len(todo))
        if cluster is None:
            files = in_order(_embedded(settings, todo, encoder, progress))
            for group in in_groups(files):
                vectors.add(write_files(folder, metadata, group))
        else:
            for part in _embedded_on_cluster(settings, metadata, folder, todo, cluster):
                vectors.add(part)
                progress.advance(len(part.files))
        used, moments, skips = vectors.finish(listing)
    return EmbedReport(settings.out, used, moments, skips)


def _embedded_on_cluster(
    settings: EmbedSettings, metadata: VectorsMetadata, folder: Folder, todo: list[Entry], cluster: Cluster
) -> Iterator[WrittenFiles]:
    from cmmixer.embedding.embed_ray import VIDEOS_PER_PART, PartEmbedder

    model = settings.model
    embedder = PartEmbedder(
        place=absolute_location(folder),
        metadata=metadata,
        model=os.path.abspath(model) if os.path.exists(model) else model,
        device=settings.device if settings.ray_gpus else "cpu",
        precision=settings.precision,
        batch_size=settings.batch_size,
        workers=settings.workers or settings.ray_cpus,
        file_seconds=settings.file_seconds,
    )
    return cluster.map(embedder, cluster.parts([absolute(entry) for entry in todo], VIDEOS_PER_PART))


def _embedded(
    settings: EmbedSettings, entries: list[Entry], encoder: Encoder, progress: Progress
) -> Iterator[EmbeddedFile]:
    return embed_moments(
        entries,
        encoder,
        segmentation=pick(SegmentSettings, settings),
        batch_size=settings.batch_size,
        workers=settings.workers,
        file_seconds=settings.file_seconds,
        progress=progress,
    )


@contextmanager
def _local_file(out: str) -> Iterator[Path]:
    """Yields the path to write a Parquet file to: `out` itself, or a temporary file that is uploaded to it at the end."""
    if not is_remote(out):
        yield Path(out)
        return
    from cmmixer.storage.s3 import ObjectFolder

    parent, _, name = out.rpartition("/")
    folder = ObjectFolder(parent, whole_bucket=True)
    folder.make()
    with temporary_folder("cmmixer-embed-") as local:
        yield local / name
        folder.write_file(name, local / name)
