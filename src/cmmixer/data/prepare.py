"""`cmmixer prepare`: decode every film once, into a clip store.

Decoder processes open the films; this process writes. What it writes survives a kill at any moment: first a line in the
journal for each film that gave no clip or only some, then the rows of the films before it in one atomic commit. The
rows and the journal together say which films are done, and the next run goes on behind them.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cmmixer.atomic import LOCK, explain_full_disk, only_writer, remove_leftovers
from cmmixer.config.commands import PrepareSettings
from cmmixer.data.film_rows import FilmRows, decode_film
from cmmixer.data.manifest import Entry, Listing, read_layout, readable
from cmmixer.data.skips import Skip, SkipReport
from cmmixer.data.store import CARD, JOURNAL, OWN_FILES, ClipStore, StoreCard, StoreWriter
from cmmixer.errors import DataError, MediaError, StoreError
from cmmixer.media.isolate import map_isolated
from cmmixer.progress import NoProgress, Progress
from cmmixer.version import __version__

# A commit costs a file and some milliseconds; a kill costs what was decoded since the last one.
COMMIT_SECONDS = 10.0
COMMIT_BYTES = 64 << 20

# What stood in the way may be gone when the command is run again.
TRY_AGAIN = ("missing", "time-limit", "crashed")


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
    """
    started = time.monotonic()
    card = _card(settings)
    layout = read_layout(settings.data, settings.split)
    folder = Path(settings.out)
    with explain_full_disk(folder, StoreError), _locked(folder):
        _enter(folder, card, overwrite=settings.overwrite)
        run = _Run(folder, settings, card)
        before = len(run.ids)
        run.decode(layout.entries, progress or NoProgress())
        skips = run.finish(layout)
    if len(run.ids) == 0:
        raise DataError(f"{settings.data}: no film gives a clip; {skips.summary}; see {folder / 'skipped.txt'}")
    return PrepareReport(str(folder), len(layout.entries), len(run.ids), before, skips, time.monotonic() - started)


class _Run:
    """One run of `prepare` on a folder that is its own."""

    def __init__(self, folder: Path, settings: PrepareSettings, card: StoreCard) -> None:
        self.folder, self.settings, self.card = folder, settings, card
        self.writer = StoreWriter(folder)
        self.journal = _Journal(folder / JOURNAL)
        films = self.writer.films()
        self.stored = set(films)
        self.known = {fingerprint: path for path, fingerprint in films.values()}
        self.ids = set(ClipStore.open(folder).ids)
        self._committed = time.monotonic()

    def decode(self, entries: list[Entry], progress: Progress) -> None:
        """Decodes the films that are not done yet and commits their rows."""
        todo = [entry for entry in _distinct(entries)[0] if not self._done(entry)]
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
        results = map_isolated(function, todo, workers=settings.workers, seconds_each=settings.file_seconds)
        for entry, result in results:
            self._take(entry, result)
            progress.advance()
            progress.message(f"{len(self.ids)} clips, {len(self.journal.skips)} left out")
        self._commit()

    def finish(self, layout: Listing) -> SkipReport:
        """Writes the report and declares the store complete."""
        told = [skip for key, skip in self.journal.skips.items() if skip.clips_used > 0 or key not in self.stored]
        skips = SkipReport([*told, *_distinct(layout.entries)[1], *layout.ignored])
        skips.write(self.folder)
        self.writer.tidy()
        replace(self.card, complete=True).write(self.folder)
        return skips

    def _done(self, entry: Entry) -> bool:
        skip = self.journal.skips.get(entry.key)
        left_out = skip is not None and skip.clips_used == 0 and skip.reason not in TRY_AGAIN
        return entry.key in self.stored or left_out

    def _take(self, entry: Entry, result: FilmRows | MediaError) -> None:
        if isinstance(result, FilmRows):  # stretches of one film may overlap in a whole clip
            result = replace(result, clips=[clip for clip in result.clips if clip.id not in self.ids])
        problem = result if isinstance(result, MediaError) else self._problem(entry, result)
        if problem is not None:
            self.journal.add(entry.key, Skip.of(problem))
        elif isinstance(result, FilmRows):
            if result.failure is not None:
                self.journal.add(entry.key, Skip.of(result.failure, clips_used=len(result.clips)))
            self.known[result.fingerprint] = readable(entry.path)
            self.writer.add(entry, result, self.card.clip.sample_rate_hz)
            self.stored.add(entry.key)
            self.ids.update(clip.id for clip in result.clips)
        waited = time.monotonic() - self._committed
        if waited > COMMIT_SECONDS or self.writer.pending_bytes > COMMIT_BYTES:
            self._commit()

    def _problem(self, entry: Entry, film: FilmRows) -> MediaError | None:
        """What is wrong with a film that could be decoded."""
        if film.loudest_dbfs < self.settings.silence_dbfs:
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


class _Journal:
    """Films that gave no clip, or only some; a text file that grows by whole lines.

    Attributes:
        skips: by the entry's key, in the order they were met.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skips: dict[str, Skip] = {}
        self._pending: list[str] = []
        for line in self._whole_lines():
            values = json.loads(line)
            self.skips[values["entry"]] = Skip(**values["skip"])

    def add(self, key: str, skip: Skip) -> None:
        self.skips.pop(key, None)
        self.skips[key] = skip
        self._pending.append(json.dumps({"entry": key, "skip": asdict(skip)}) + "\n")

    def commit(self) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(self._pending)
        self._pending = []

    def _whole_lines(self) -> list[str]:
        """The lines of the file; what a kill or a full disk left behind the last whole one is cut off."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with open(self.path, "r+b") as file:
                file.truncate(len(whole))
        return whole.decode("utf-8").splitlines()


def _distinct(entries: list[Entry]) -> tuple[list[Entry], list[Skip]]:
    """The entries without those that name the same stretch of the same file again, and a word on these."""
    seen: dict[str, Entry] = {}
    repeated = []
    for entry in entries:
        if seen.setdefault(entry.key, entry) is not entry:
            repeated.append(
                Skip(readable(entry.path), "duplicate", "the same stretch of the same file is listed before")
            )
    return list(seen.values()), repeated


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


def _enter(folder: Path, card: StoreCard, *, overwrite: bool) -> None:
    """Makes `folder` a store with this card, new or continued.

    Raises:
        StoreError: it holds something else, or a store made with other settings.
    """
    remove_leftovers(folder)
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in OWN_FILES)
    if foreign:
        raise StoreError(f"{folder}: holds {foreign[0]!r}, which is not of a clip store; choose an empty folder")
    if overwrite:
        # The card goes first: a store that is half removed must not look like one.
        (folder / CARD).unlink(missing_ok=True)
    if (folder / CARD).exists():
        differing = StoreCard.read(folder).differences(card)
        if differing:
            told = "; ".join(differing)
            raise StoreError(f"{folder}: holds a store made differently: {told}; choose another folder or --overwrite")
    else:
        for name in set(OWN_FILES) - {LOCK}:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    card.write(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder against a second writer; a killed process lets go of itself.

    Raises:
        StoreError: another process writes to it.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: is a file; a clip store is a folder")
    folder.mkdir(parents=True, exist_ok=True)
    told = f"{folder}: another `prepare` is writing to it; wait for it or choose another folder"
    with only_writer(folder, StoreError(told)):
        yield
