"""`cmmixer prepare`: decodes every video once, into a clip store.

Decoder processes open the videos; this process writes. A kill at any moment loses nothing that was committed: first a line
in the journal for each video that gave no clip or only some, then the rows of the videos before it, in one atomic commit.
Rows and journal together say which videos are done, and the next run continues after them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cmmixer.config.base import VIDEOS_ELSEWHERE, pick, refuse_remote
from cmmixer.config.data import ClusterSettings, PrepareSettings
from cmmixer.config.fields import accepts_settings
from cmmixer.data.clip_encoding import EncodedMedia, encode_entry
from cmmixer.data.manifest import Entry, Listing, distinct, read_layout, readable
from cmmixer.data.segments import is_silent, training_spec
from cmmixer.data.skips import Journal, Skip, SkipReport
from cmmixer.data.store import JOURNAL, METADATA, OWN_FILES, ClipStore, StoreMetadata
from cmmixer.data.store_writer import StoreWriter
from cmmixer.errors import DataError, MediaError, StoreError
from cmmixer.media.sandbox import map_sandboxed
from cmmixer.progress import NoProgress, Progress
from cmmixer.ray_cluster import Cluster, connected
from cmmixer.storage.files import LOCK, explain_full_disk
from cmmixer.storage.folder import Folder, WriteLock, absolute_location, open_folder
from cmmixer.version import __version__

# A commit costs a file and some milliseconds; a kill costs what was decoded since the last one.
COMMIT_SECONDS = 10.0
COMMIT_BYTES = 64 << 20


@dataclass(frozen=True)
class PrepareReport:
    """Result of `prepare`.

    Attributes:
        store: the folder.
        videos: number of videos, and stretches of videos, in the data.
        clips: number of clips in the store.
        clips_before: how many of them were there before this run.
        skips: files left out by this run and those before.
        seconds: duration of this run.
    """

    store: str
    videos: int
    clips: int
    clips_before: int
    skips: SkipReport
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Returns the report as plain JSON values."""
        return {
            "store": self.store,
            "videos": self.videos,
            "clips": self.clips,
            "clips_before": self.clips_before,
            "skipped": self.skips.total,
            "skipped_by_reason": self.skips.counts,
            "seconds": round(self.seconds, 3),
        }

    def render(self) -> str:
        """Returns the report as one line."""
        return f"{self.store}: {self.clips} clips of {self.videos} videos; {self.skips.summary}"


@accepts_settings(PrepareSettings)
def prepare(settings: PrepareSettings, progress: Progress | None = None) -> PrepareReport:
    """Decodes videos into a clip store. Called again with the same settings, it resumes where it stopped.

    Args:
        settings: see `PrepareSettings`.
        progress: advances with every video.

    Raises:
        DataError: there are no videos, or none of them gives a clip (the store's report lists why).
        StoreError: the folder holds something else or a store made with other settings, another `prepare` writes to it, or
            the disk is full. What was committed stays valid.
        SettingsError: the Ray cluster does not answer.
        InputError: object storage does not answer or refuses access.
    """
    started = time.monotonic()
    metadata = _metadata(settings)
    refuse_remote("data", settings.data, VIDEOS_ELSEWHERE)
    layout = read_layout(settings.data, settings.split)
    folder = open_folder(settings.out)
    busy = StoreError(f"{folder}: another `prepare` is writing to it; wait for it or choose another folder")
    with explain_full_disk(folder, StoreError), connected(pick(ClusterSettings, settings)) as cluster:
        _make_folder(folder)
        with folder.lock(LOCK, busy) as lock:
            _start_or_resume(folder, metadata, overwrite=settings.overwrite)
            run = _Run(folder, lock, settings, metadata)
            before = len(run.ids)
            run.decode(layout.entries, cluster, progress or NoProgress())
            skips = run.finish(layout)
    if len(run.ids) == 0:
        raise DataError(f"{settings.data}: no video gives a clip; {skips.summary}; see {folder.child('skipped.txt')}")
    return PrepareReport(str(folder), len(layout.entries), len(run.ids), before, skips, time.monotonic() - started)


class _Run:
    """One run of `prepare`, on a locked folder."""

    def __init__(self, folder: Folder, lock: WriteLock, settings: PrepareSettings, metadata: StoreMetadata) -> None:
        self.folder, self.settings, self.metadata = folder, settings, metadata
        self.writer = StoreWriter(folder, lock)
        self.journal = Journal(folder, JOURNAL)
        videos = self.writer.videos()
        self.stored = set(videos)
        self.path_of_fingerprint = {fingerprint: path for path, fingerprint in videos.values()}
        self.ids = set(ClipStore.open(folder).ids)
        self._commit_seconds = time.monotonic()

    def decode(self, entries: list[Entry], cluster: Cluster | None, progress: Progress) -> None:
        """Decodes the videos that are not done yet and commits their rows."""
        todo = [entry for entry in distinct(entries)[0] if not self._is_done(entry)]
        progress.start(len(entries), "decoding videos")
        progress.advance(len(entries) - len(todo))
        settings = self.settings
        function = partial(
            encode_entry,
            spec=training_spec(self.metadata.clip, self.metadata.stride_seconds, settings.file_seconds),
            jpeg_quality=self.metadata.jpeg_quality,
        )
        if cluster is not None:
            self._decode_on_ray(cluster, function, todo, progress)
            return
        results = map_sandboxed(function, todo, workers=settings.workers, seconds_each=settings.file_seconds)
        for entry, result in results:
            video = self._accept(entry, result)
            if video is not None:
                self.writer.add(entry, video, self.metadata.clip.sample_rate_hz)
            self._advance(1, progress)
        self._commit()

    def finish(self, layout: Listing) -> SkipReport:
        """Writes the report and marks the store as complete."""
        failed = [skip for key, skip in self.journal.skips.items() if skip.clips_used > 0 or key not in self.stored]
        skips = SkipReport([*failed, *distinct(layout.entries)[1], *layout.ignored])
        skips.write(self.folder)
        self.writer.tidy()
        replace(self.metadata, complete=True).write(self.folder)
        return skips

    def _decode_on_ray(
        self, cluster: Cluster, function: partial[EncodedMedia], todo: list[Entry], progress: Progress
    ) -> None:
        """Decodes on a cluster, whose actors write the rows themselves; they count once they are committed here."""
        from cmmixer.data.prepare_ray import PartDecoder, decode_on_ray

        settings = self.settings
        decoder = PartDecoder(
            absolute_location(self.folder),
            function,
            self.metadata.clip.sample_rate_hz,
            settings.silence_dbfs,
            settings.workers or settings.ray_cpus,
            settings.file_seconds,
        )
        for part in decode_on_ray(todo, decoder, cluster):
            videos = [(entry, self._accept(entry, result)) for entry, result in part.videos]
            accepted = {(entry.key, clip.id) for entry, video in videos if video is not None for clip in video.clips}
            self.writer.add_part(part.written, accepted)
            self._advance(len(videos), progress)
        self._commit()

    def _advance(self, videos: int, progress: Progress) -> None:
        waited = time.monotonic() - self._commit_seconds
        if waited > COMMIT_SECONDS or self.writer.pending_bytes > COMMIT_BYTES:
            self._commit()
        progress.advance(videos)
        progress.message(f"{len(self.ids)} clips, {len(self.journal.skips)} left out")

    def _is_done(self, entry: Entry) -> bool:
        return entry.key in self.stored or self.journal.settles(entry.key)

    def _accept(self, entry: Entry, result: EncodedMedia | MediaError) -> EncodedMedia | None:
        """Returns the part of a video that goes into the store; whatever does not is noted in the journal."""
        if isinstance(result, EncodedMedia):  # stretches of one video may share a clip
            result = replace(result, clips=[clip for clip in result.clips if clip.id not in self.ids])
        error = result if isinstance(result, MediaError) else self._rejection(entry, result)
        if error is not None:
            self.journal.add(entry.key, Skip.of(error))
            return None
        assert isinstance(result, EncodedMedia)
        if result.failure is not None:
            self.journal.add(entry.key, Skip.of(result.failure, clips_used=len(result.clips)))
        self.path_of_fingerprint[result.fingerprint] = readable(entry.path)
        self.stored.add(entry.key)
        self.ids.update(clip.id for clip in result.clips)
        return result

    def _rejection(self, entry: Entry, video: EncodedMedia) -> MediaError | None:
        """Returns why a video that could be decoded is left out, if it is."""
        if is_silent(video.loudest_dbfs, self.settings.silence_dbfs):
            message = f"its loudest window has {video.loudest_dbfs:.0f} dBFS, below {self.settings.silence_dbfs:g} dBFS"
            return MediaError(entry.path, "silent", message)
        if not video.clips:
            return MediaError(entry.path, "duplicate", "all its clips are in the store as part of another stretch")
        if video.fingerprint in self.path_of_fingerprint:
            first = self.path_of_fingerprint[video.fingerprint]
            return MediaError(entry.path, "duplicate", f"the same frames and audio as {first}")
        return None

    def _commit(self) -> None:
        self.journal.commit()
        self.writer.commit()
        self._commit_seconds = time.monotonic()


def _metadata(settings: PrepareSettings) -> StoreMetadata:
    clip = settings.clip_settings(settings.preset)
    return StoreMetadata(
        clip=clip,
        data=readable(Path(settings.data).resolve()),
        split=settings.split,
        stride_seconds=clip.clip_seconds if settings.stride_seconds is None else settings.stride_seconds,
        jpeg_quality=settings.jpeg_quality,
        silence_dbfs=settings.silence_dbfs,
        complete=False,
        created_by=f"cmmixer {__version__}",
    )


def _make_folder(folder: Folder) -> None:
    try:
        folder.make()
    except (FileExistsError, NotADirectoryError) as error:
        raise StoreError(f"{folder}: is a file; a clip store is a folder") from error


def _start_or_resume(folder: Folder, metadata: StoreMetadata, *, overwrite: bool) -> None:
    """Makes `folder` a store with this metadata, or continues the one that it holds.

    Raises:
        StoreError: it holds something else, or a store made with other settings.
    """
    foreign = [name for name in folder.names() if name not in OWN_FILES]
    if foreign:
        raise StoreError(
            f"{folder}: holds {foreign[0]!r}, which does not belong to a clip store; choose an empty folder"
        )
    if overwrite:
        # The metadata go first: a store that is half removed must not look like one.
        folder.remove(METADATA)
    if folder.has(METADATA):
        differing = StoreMetadata.read(folder).differences(metadata)
        if differing:
            message = "; ".join(differing)
            raise StoreError(
                f"{folder}: holds a store made differently: {message}; choose another folder or --overwrite"
            )
    else:
        for name in set(OWN_FILES) - {LOCK}:
            folder.remove(name)
    metadata.write(folder)
