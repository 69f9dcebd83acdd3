"""Everything that a running service holds: index, model, uploads, caches, decoder processes and jobs."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from cmmixer.config import IndexSettings
from cmmixer.config.apps import ServeSettings, check_token
from cmmixer.encoders.base import Encoder
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import CheckpointError, SearchIndexError, SettingsError
from cmmixer.media.sandbox import SandboxPool
from cmmixer.media.thumbnails import read_info
from cmmixer.server import schemas
from cmmixer.server.cache import Cache
from cmmixer.server.entry import Entry
from cmmixer.server.exports import Dubs
from cmmixer.server.jobs import Job, Jobs
from cmmixer.server.library import Folders, LiveLibrary, Snapshot
from cmmixer.server.metrics import Metrics
from cmmixer.server.playback import Playbacks
from cmmixer.server.previews import Previews
from cmmixer.server.transcode import convert
from cmmixer.server.uploads import Queries
from cmmixer.version import __version__

PREFIX = "/api/v1"


class Service:
    """The state of a running service. It is created once, and every request uses it."""

    def __init__(self, settings: ServeSettings, encoder: Encoder | None = None) -> None:
        """Opens the index and loads its model.

        Args:
            settings: of the command.
            encoder: the model, where it is already loaded.

        Raises:
            InputError: the index or the model cannot be read, they do not belong together, or a folder of `--roots` does
                not exist.
        """
        self.settings = settings
        self.token = _token(settings)
        folder = Path(settings.index)
        self.library = LiveLibrary(folder, lambda metadata: metadata.check_encoder(self.encoder, folder))
        metadata = self.library.snapshot().index.metadata
        self.encoder = encoder or _encoder(settings, self.library.snapshot())
        metadata.check_encoder(self.encoder, folder)
        self.folders = Folders(_roots(settings, self.library.snapshot()))
        self.pool = SandboxPool(read_info, workers=settings.workers, memory_mb=settings.memory_mb)
        cache = folder / "previews" if settings.cache is None else Path(settings.cache)
        self.cache = Cache(cache, settings.cache_mb)
        self.previews = Previews(self.cache, self.pool, settings.file_seconds)
        # Processes of their own, so that thumbnails never wait for a conversion.
        self.converters = SandboxPool(convert, workers=settings.workers, memory_mb=settings.memory_mb)
        self.playbacks = Playbacks(self.cache, self.pool, self.converters, settings.convert_seconds)
        self.queries = Queries(settings, self.encoder, metadata.segmentation)
        self.embedders = ThreadPoolExecutor(settings.searches + settings.waiting, "cmmixer-embedding")
        self.dubs = Dubs(settings.dub_seconds, settings.memory_mb)
        self.jobs = Jobs(self._index_settings, self.encoder, self.library.expire)
        self.embedders.submit(self.queries.warm_up)
        self.metrics = Metrics()
        self.metrics.add_gauge("cmmixer_moments", "Moments in the index.", lambda: float(self.health().moments))
        self.metrics.add_gauge("cmmixer_queries", "Uploaded files on disk.", lambda: float(len(self.queries)))
        self.metrics.add_gauge("cmmixer_jobs_open", "Folders being indexed or queued.", lambda: float(self.jobs.open))

    def close(self) -> None:
        """Cancels jobs, ends all processes and removes uploads."""
        self.jobs.close()
        self.embedders.shutdown(cancel_futures=True)
        self.queries.close()
        self.dubs.close()
        self.converters.close()
        self.pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def health(self) -> schemas.Health:
        """Returns whether searches can be answered now."""
        try:
            snapshot = self.library.snapshot()
            items, moments, detail, ready = len(snapshot.entries), snapshot.index.count(), "ready", True
        except SearchIndexError as error:
            items, moments, detail, ready = 0, 0, str(error), False
        return schemas.Health(
            status="ok" if ready else "unready",
            ready=ready,
            detail=detail,
            items=items,
            moments=moments,
            model_id=self.encoder.id,
            version=__version__,
        )

    def file(self, entry: Entry, modality: str) -> str | bytes:
        """Returns the path of the file that holds an entry's video or audio; see `Entry.file`."""
        return entry.file(modality, self.folders.roots)

    def _index_settings(self, job: Job) -> IndexSettings:
        return IndexSettings(
            model=self.encoder.path,
            data=job.path,
            index=self.settings.index,
            sync=job.remove_missing,
            workers=self.settings.workers,
            file_seconds=self.settings.file_seconds,
            device=self.settings.device,
        )


def _token(settings: ServeSettings) -> str | None:
    if settings.token_file is None:
        return settings.token
    try:
        text = Path(settings.token_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--token_file {settings.token_file}: cannot be read ({error})") from error
    return check_token(text, f"--token_file {settings.token_file}")


def _encoder(settings: ServeSettings, library: Snapshot) -> Encoder:
    metadata = library.index.metadata
    try:
        return load_encoder(settings.model or metadata.model, settings.device)
    except CheckpointError as error:
        if settings.model is not None:
            raise
        raise SearchIndexError(
            f"{settings.index}: its model {metadata.model_id[:16]} cannot be loaded from where it was ({error}); "
            "give its place with --model"
        ) from error


def _roots(settings: ServeSettings, library: Snapshot) -> list[str]:
    """Returns the folders of `--roots`, or by default the indexed folders that still exist."""
    if settings.roots is None:
        roots = sorted({row.root for row in library.index.files()})
        return [root for root in roots if os.path.isdir(root)]
    roots = [os.path.expanduser(root) for root in settings.roots.split(os.pathsep) if root]
    missing = [root for root in roots if not os.path.isdir(root)]
    if missing:
        raise SettingsError(f"--roots: got {', '.join(missing)}, expected existing folders")
    return roots
