"""`cmmixer prepare`: decode every film once, into a clip store.

Decoder processes open the films; this process writes. What it writes survives a kill at any moment: first a line in the
journal for each film that gave no clip or only some, then the rows of the films before it in one atomic commit. The
rows and the journal together say which films are done, and the next run goes on behind them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cmmixer.config.base import FILMS_ELSEWHERE, pick, refuse_remote
from cmmixer.config.data import ClusterSettings, PrepareSettings
from cmmixer.data.clip_encoding import FilmRows, decode_film, too_quiet
from cmmixer.data.manifest import Entry, Listing, distinct, read_layout, readable
from cmmixer.data.skips import Journal, Skip, SkipReport
from cmmixer.data.store import CARD, JOURNAL, OWN_FILES, ClipStore, StoreCard
from cmmixer.data.store_writer import StoreWriter
from cmmixer.errors import DataError, MediaError, StoreError
from cmmixer.media.sandbox import map_isolated
from cmmixer.progress import NoProgress, Progress
from cmmixer.ray_cluster import Cluster, connected
from cmmixer.storage.files import LOCK, explain_full_disk
from cmmixer.storage.folder import Folder, Held, absolute_place, open_folder
from cmmixer.version import __version__

# A commit costs a file and some milliseconds; a kill costs what was decoded since the last one.
COMMIT_SECONDS = 10.0
COMMIT_BYTES = 64 << 20


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did.

    Attributes:
        store: the folder.
        films: films and stretches of films in the data.
        clips: clips in the store.
        clips_before: clips that were there already.
        skips: what was left out, of this run and those before.
        seconds: how long this run took.
    """

    store: str
    films: int
    clips: int
    clips_before: int
    skips: SkipReport
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "store": self.store,
            "films": self.films,
            "clips": self.clips,
            "clips_before": self.clips_before,
            "skipped": self.skips.total,
            "skipped_by_reason": self.skips.counts,
            "seconds": round(self.seconds, 3),
        }

    def render(self) -> str:
        """One line for people."""
        return f"{self.store}: {self.clips} clips of {self.films} films; {self.skips.summary}"


def prepare(settings: PrepareSettings, progress: Progress | None = None) -> PrepareReport:
    """Decodes films into a clip store; run again, it goes on where it was stopped.

    Args:
        settings: see `PrepareSettings`.
        progress: told about every film.

    Raises:
        DataError: no films there, or none that gives a clip (the store's report lists why).
        StoreError: the folder holds something else, a store made with other settings, another `prepare` writes to it,
            or the disk is full; what was committed stays valid.
        SettingsError: a Ray cluster that does not answer.
        InputError: object storage that does not answer or refuses.
    """
    started = time.monotonic()
    card = _card(settings)
    refuse_remote("data", settings.data, FILMS_ELSEWHERE)
    layout = read_layout(settings.data, settings.split)
    folder = open_folder(settings.out)
    busy = StoreError(f"{folder}: another `prepare` is writing to it; wait for it or choose another folder")
    with explain_full_disk(folder, StoreError), connected(pick(ClusterSettings, settings)) as cluster:
        _make(folder)
        with folder.held(LOCK, busy) as held:
            _enter(folder, card, overwrite=settings.overwrite)
            run = _Run(folder, held, settings, card)
            before = len(run.ids)
            run.decode(layout.entries, cluster, progress or NoProgress())
            skips = run.finish(layout)
    if len(run.ids) == 0:
        raise DataError(f"{settings.data}: no film gives a clip; {skips.summary}; see {folder.child('skipped.txt')}")
    return PrepareReport(str(folder), len(layout.entries), len(run.ids), before, skips, time.monotonic() - started)


class _Run:
    """One run of `prepare` on a folder that is its own."""

    def __init__(self, folder: Folder, held: Held, settings: PrepareSettings, card: StoreCard) -> None:
        self.folder, self.settings, self.card = folder, settings, card
        self.writer = StoreWriter(folder, held)
        self.journal = Journal(folder, JOURNAL)
        films = self.writer.films()
        self.stored = set(films)
        self.known = {fingerprint: path for path, fingerprint in films.values()}
        self.ids = set(ClipStore.open(folder).ids)
        self._committed = time.monotonic()

    def decode(self, entries: list[Entry], cluster: Cluster | None, progress: Progress) -> None:
        """Decodes the films that are not done yet and commits their rows."""
        todo = [entry for entry in distinct(entries)[0] if not self._done(entry)]
        progress.start(len(entries), "decoding films")
        progress.advance(len(entries) - len(todo))
        settings = self.settings
        function = partial(
            decode_film,
            clip=self.card.clip,
            stride_seconds=self.card.stride_seconds,
            jpeg_quality=self.card.jpeg_quality,
            file_seconds=settings.file_seconds,
        )
        if cluster is not None:
            self._decode_on_ray(cluster, function, todo, progress)
            return
        results = map_isolated(function, todo, workers=settings.workers, seconds_each=settings.file_seconds)
        for entry, result in results:
            film = self._accept(entry, result)
            if film is not None:
                self.writer.add(entry, film, self.card.clip.sample_rate_hz)
            self._tell(1, progress)
        self._commit()

    def finish(self, layout: Listing) -> SkipReport:
        """Writes the report and declares the store complete."""
        told = [skip for key, skip in self.journal.skips.items() if skip.clips_used > 0 or key not in self.stored]
        skips = SkipReport([*told, *distinct(layout.entries)[1], *layout.ignored])
        skips.write(self.folder)
        self.writer.tidy()
        replace(self.card, complete=True).write(self.folder)
        return skips

    def _decode_on_ray(
        self, cluster: Cluster, function: partial[FilmRows], todo: list[Entry], progress: Progress
    ) -> None:
        """The same, by actors that write the rows themselves; what they wrote counts once it is committed here."""
        from cmmixer.data.prepare_ray import PartDecoder, decode_on_ray

        settings = self.settings
        decoder = PartDecoder(
            absolute_place(self.folder),
            function,
            self.card.clip.sample_rate_hz,
            settings.silence_dbfs,
            settings.workers or settings.ray_cpus,
            settings.file_seconds,
        )
        for part in decode_on_ray(todo, decoder, cluster):
            films = [(entry, self._accept(entry, result)) for entry, result in part.films]
            kept = {(entry.key, clip.id) for entry, film in films if film is not None for clip in film.clips}
            self.writer.add_part(part.written, kept)
            self._tell(len(films), progress)
        self._commit()

    def _tell(self, films: int, progress: Progress) -> None:
        waited = time.monotonic() - self._committed
        if waited > COMMIT_SECONDS or self.writer.pending_bytes > COMMIT_BYTES:
            self._commit()
        progress.advance(films)
        progress.message(f"{len(self.ids)} clips, {len(self.journal.skips)} left out")

    def _done(self, entry: Entry) -> bool:
        return entry.key in self.stored or self.journal.settles(entry.key)

    def _accept(self, entry: Entry, result: FilmRows | MediaError) -> FilmRows | None:
        """What of a film goes into the store; what does not is noted in the journal."""
        if isinstance(result, FilmRows):  # stretches of one film may overlap in a whole clip
            result = replace(result, clips=[clip for clip in result.clips if clip.id not in self.ids])
        problem = result if isinstance(result, MediaError) else self._problem(entry, result)
        if problem is not None:
            self.journal.add(entry.key, Skip.of(problem))
            return None
        assert isinstance(result, FilmRows)
        if result.failure is not None:
            self.journal.add(entry.key, Skip.of(result.failure, clips_used=len(result.clips)))
        self.known[result.fingerprint] = readable(entry.path)
        self.stored.add(entry.key)
        self.ids.update(clip.id for clip in result.clips)
        return result

    def _problem(self, entry: Entry, film: FilmRows) -> MediaError | None:
        """What is wrong with a film that could be decoded."""
        if too_quiet(film, self.settings.silence_dbfs):
            got = f"its loudest window has {film.loudest_dbfs:.0f} dBFS, below {self.settings.silence_dbfs:g} dBFS"
            return MediaError(entry.path, "silent", got)
        if not film.clips:
            return MediaError(entry.path, "duplicate", "all its clips are in the store as part of another stretch")
        if film.fingerprint in self.known:
            return MediaError(entry.path, "duplicate", f"the same pictures and sound as {self.known[film.fingerprint]}")
        return None

    def _commit(self) -> None:
        self.journal.commit()
        self.writer.commit()
        self._committed = time.monotonic()


def _card(settings: PrepareSettings) -> StoreCard:
    clip = settings.clip_settings(settings.preset)
    return StoreCard(
        clip=clip,
        data=readable(Path(settings.data).resolve()),
        split=settings.split,
        stride_seconds=clip.clip_seconds if settings.stride_seconds is None else settings.stride_seconds,
        jpeg_quality=settings.jpeg_quality,
        silence_dbfs=settings.silence_dbfs,
        complete=False,
        created_by=f"cmmixer {__version__}",
    )


def _make(folder: Folder) -> None:
    try:
        folder.make()
    except (FileExistsError, NotADirectoryError) as fault:
        raise StoreError(f"{folder}: is a file; a clip store is a folder") from fault


def _enter(folder: Folder, card: StoreCard, *, overwrite: bool) -> None:
    """Makes `folder` a store with this card, new or continued.

    Raises:
        StoreError: it holds something else, or a store made with other settings.
    """
    foreign = [name for name in folder.names() if name not in OWN_FILES]
    if foreign:
        raise StoreError(f"{folder}: holds {foreign[0]!r}, which is not of a clip store; choose an empty folder")
    if overwrite:
        # The card goes first: a store that is half removed must not look like one.
        folder.remove(CARD)
    if folder.has(CARD):
        differing = StoreCard.read(folder).differences(card)
        if differing:
            told = "; ".join(differing)
            raise StoreError(f"{folder}: holds a store made differently: {told}; choose another folder or --overwrite")
    else:
        for name in set(OWN_FILES) - {LOCK}:
            folder.remove(name)
    card.write(folder)
