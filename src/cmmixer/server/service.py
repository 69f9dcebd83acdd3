"""Everything the service holds: the library, the model, uploads, previews, jobs."""

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
from cmmixer.media.sandbox import IsolatedPool
from cmmixer.media.thumbnails import look
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
    """Made once; every request works on it."""

    def __init__(self, settings: ServeSettings, encoder: Encoder | None = None) -> None:
        """Opens the index and loads its model.

        Args:
            settings: of the command.
            encoder: the model, where it is loaded already.

        Raises:
            InputError: an index or a model that cannot be read, a model of another index, folders that are not there.
        """
        self.settings = settings
        self.token = _token(settings)
        folder = Path(settings.index)
        self.library = LiveLibrary(folder, lambda card: card.check_encoder(self.encoder, folder))
        card = self.library.now().index.card
        self.encoder = encoder or _encoder(settings, self.library.now())
        card.check_encoder(self.encoder, folder)
        self.folders = Folders(_roots(settings, self.library.now()))
        self.pool = IsolatedPool(look, workers=settings.workers, memory_mb=settings.memory_mb)
        cache = folder / "previews" if settings.cache is None else Path(settings.cache)
        self.cache = Cache(cache, settings.cache_mb)
        self.previews = Previews(self.cache, self.pool, settings.file_seconds)
        # Processes of their own: what takes long must not keep thumbnails waiting.
        self.converters = IsolatedPool(convert, workers=settings.workers, memory_mb=settings.memory_mb)
        self.playbacks = Playbacks(self.cache, self.pool, self.converters, settings.convert_seconds)
        self.queries = Queries(settings, self.encoder, card.cutting)
        self.embedders = ThreadPoolExecutor(settings.searches + settings.waiting, "cmmixer-embedding")
        self.dubs = Dubs(settings.dub_seconds, settings.memory_mb)
        self.jobs = Jobs(self._index_settings, self.encoder, self.library.look_again)
        self.embedders.submit(self.queries.warm)
        self.metrics = Metrics()
        self.metrics.watch("cmmixer_moments", "Moments in the index.", lambda: float(self.health().moments))
        self.metrics.watch("cmmixer_queries_kept", "Uploaded files that are kept.", lambda: float(len(self.queries)))
        self.metrics.watch("cmmixer_jobs_open", "Folders being indexed or waiting.", lambda: float(self.jobs.open))

    def close(self) -> None:
        """Stops what runs and removes uploads."""
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
        """Whether searches can be answered now."""
        try:
            library = self.library.now()
            moments, detail = library.index.count(), "ready"
        except SearchIndexError as fault:
            return schemas.Health(
                status="unready",
                ready=False,
                detail=str(fault),
                items=0,
                moments=0,
                model_id=self.encoder.id,
                version=__version__,
            )
        return schemas.Health(
            status="ok",
            ready=True,
            detail=detail,
            items=len(library.entries),
            moments=moments,
            model_id=self.encoder.id,
            version=__version__,
        )

    def file(self, entry: Entry, sense: str) -> str | bytes:
        """Where an item's picture or sound lies; see `Entry.file`."""
        return entry.file(sense, self.folders.roots)

    def _index_settings(self, job: Job) -> IndexSettings:
        return IndexSettings(
            model=self.encoder.path,
            data=job.path,
            index=self.settings.index,
            sync=job.remove_gone,
            workers=self.settings.workers,
            file_seconds=self.settings.file_seconds,
            device=self.settings.device,
        )


def _token(settings: ServeSettings) -> str | None:
    if settings.token_file is None:
        return settings.token
    try:
        text = Path(settings.token_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as fault:
        raise SettingsError(f"--token_file {settings.token_file}: cannot be read ({fault})") from fault
    return check_token(text, f"--token_file {settings.token_file}")


def _encoder(settings: ServeSettings, library: Snapshot) -> Encoder:
    card = library.index.card
    try:
        return load_encoder(settings.model or card.model, settings.device)
    except CheckpointError as fault:
        if settings.model is not None:
            raise
        raise SearchIndexError(
            f"{settings.index}: the model that made it, {card.model_id[:16]}, cannot be loaded from where it was ({fault}); "
            "say where it is with --model"
        ) from fault


def _roots(settings: ServeSettings, library: Snapshot) -> list[str]:
    """The folders of `--roots`, or those that the index was made from and that are still there."""
    if settings.roots is None:
        roots = sorted({row.root for row in library.index.files()})
        return [root for root in roots if os.path.isdir(root)]
    roots = [os.path.expanduser(root) for root in settings.roots.split(os.pathsep) if root]
    missing = [root for root in roots if not os.path.isdir(root)]
    if missing:
        raise SettingsError(f"--roots: got {', '.join(missing)}, expected folders that are there")
    return roots
