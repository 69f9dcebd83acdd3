"""`cmmixer index`: makes an index of films and sounds, brings one up to date, optimises it."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from cmmixer.config import CuttingSettings, IndexSettings
from cmmixer.config.base import pick
from cmmixer.data.manifest import Entry, read_layout, readable
from cmmixer.data.skips import Skip, SkipReport
from cmmixer.embedding.pipeline import EmbeddedFilm, embed_moments
from cmmixer.encoders.base import Encoder
from cmmixer.encoders.loading import load_encoder
from cmmixer.progress import NoProgress, Progress
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import FileRow, SearchPlan, extra_text

# A kill costs the work since the last commit; a commit costs some tens of milliseconds.
_COMMIT_ROWS = 2000
_COMMIT_SECONDS = 10.0
# Read at a time for the checksum; whoever wants to stop is heard between.
_HASHED_BYTES = 16 << 20


@dataclass(frozen=True)
class IndexReport:
    """What `cmmixer index` did.

    Attributes:
        index: the folder.
        added: files that are new in it and used.
        changed: files that were there and were embedded again.
        unchanged: files that were not embedded again; new metadata of theirs is taken over.
        removed: files taken out by `--sync`.
        skipped: files of the data that are wholly left out.
        moments: moments in the whole index.
        skips: what of the whole index is left out, wholly or in part; also in the folder's skipped.txt.
        plans: how each sense is searched, where `--optimize` has chosen.
        looked_at: of senses with an approximate index, how many moments are not in it yet and so all looked at.
    """

    index: str
    added: int
    changed: int
    unchanged: int
    removed: int
    skipped: int
    moments: int
    skips: SkipReport
    plans: dict[str, SearchPlan] = field(default_factory=dict)
    looked_at: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        names = ("index", "added", "changed", "unchanged", "removed", "skipped", "moments")
        plans = {sense: asdict(plan) for sense, plan in self.plans.items()}
        return {
            **{name: getattr(self, name) for name in names},
            "skipped_reasons": self.skips.counts,
            "search": plans,
            "not_in_search_index": self.looked_at,
        }

    def render(self) -> Text:
        """The same for people; no markup, because a file may be called [red].mp4."""
        counts = f"{self.added} added, {self.changed} changed, {self.unchanged} unchanged, {self.removed} removed"
        lines = [f"{self.index}: {counts}; {self.moments} moments to search"]
        if self.skips.total:
            lines.append(f"{self.skips.summary}; see {self.index}/skipped.txt")
        for sense, plan in self.plans.items():
            late = self.looked_at.get(sense, 0)
            more = f"; the {late} moments added since are all looked at, until the next --optimize" if late else ""
            lines.append(f"{sense}: {plan.told}{more}")
        return Text("\n".join(lines))


def index(settings: IndexSettings, progress: Progress | None = None, *, encoder: Encoder | None = None) -> IndexReport:
    """Makes or refreshes an index. Files that are as they were are not opened; doing it twice changes nothing.

    Args:
        settings: of the command.
        progress: told about every file.
        encoder: the model of `settings.model`, where it is loaded already.

    Raises:
        InputError: data or model that cannot be read, an index of another model, a full disk.
    """
    progress = progress or NoProgress()
    if settings.data is None or settings.model is None:
        with MomentIndex.writing(settings.index) as library:
            return _optimized(_unchanged(library), library, settings, progress)
    listing = read_layout(settings.data)
    encoder = encoder or load_encoder(settings.model, settings.device, settings.precision)
    with MomentIndex.writing(settings.index, encoder, pick(CuttingSettings, settings)) as library:
        work = _Refresh(settings.data, settings, library, SkipReport(listing.ignored), progress)
        progress.start(len(listing.entries), "looking for changes")
        for entry in listing.entries:
            work.look_at(entry)
            progress.advance()
        if settings.sync:
            work.remove_gone()
        progress.start(len(work.todo), "embedding films")
        work.embed(encoder)
        return _optimized(work.report(), library, settings, progress)


def _optimized(report: IndexReport, library: MomentIndex, settings: IndexSettings, progress: Progress) -> IndexReport:
    if settings.optimize:
        from cmmixer.retrieval.ann import optimize

        optimize(library, settings, progress)
        library.tidy()
    plans = library.card.plans
    return replace(report, plans=plans, looked_at={sense: library.unplanned_rows(sense) for sense in plans})


def _unchanged(library: MomentIndex) -> IndexReport:
    files = sum(1 for _ in library.files())
    return IndexReport(str(library.folder), 0, 0, files, 0, 0, library.count(), SkipReport())


@dataclass(frozen=True)
class _Task:
    """An entry to embed, and what its files were when they were looked at."""

    entry: Entry
    name: str
    sizes: list[int]
    mtimes_ns: list[int]


class _Refresh:
    """One run: looks at the files from outside, embeds those that are new or changed, counts."""

    def __init__(
        self, data: str, settings: IndexSettings, library: MomentIndex, unlisted: SkipReport, progress: Progress
    ) -> None:
        self.settings = settings
        self.progress = progress
        self.library = library
        self.root = readable(os.path.abspath(data))
        # Rows without their vectors: some hundreds of bytes a file, as the entries themselves.
        self.known = {row.name: row for row in library.files()}
        self.seen: set[str] = set()
        self.todo: list[_Task] = []
        self.unlisted = unlisted
        self.added = self.changed = self.unchanged = self.removed = 0

    def look_at(self, entry: Entry) -> None:
        """Decides by size, time and, where these differ, content whether an entry must be embedded.

        The manifest's other columns say nothing about the vectors, so they are taken over without embedding.
        """
        name = _name(entry)
        if name in self.seen:
            self.unlisted.add(entry.path, "duplicate", "the same stretch of the same file is listed before")
            return
        self.seen.add(name)
        task = _Task(entry, name, *_sizes_and_times(entry))
        row = self.known.get(name)
        if row is None or (row.source, row.label) != (entry.source, entry.label) or self._may_work_now(row):
            self.todo.append(task)
        elif self._is_as_before(row, task):
            self.unchanged += 1
            now = replace(row, mtimes_ns=task.mtimes_ns, extra=_extra_text(entry))
            if now != row:
                self.library.put(now, [], before=row)
        else:
            self.todo.append(task)

    def _may_work_now(self, row: FileRow) -> bool:
        """Whether what stood in a file's way may be gone: too little time, or a process that was killed."""
        too_little_time = row.reason == "time-limit" and row.limit_seconds < self.settings.file_seconds
        return too_little_time or row.reason == "crashed"

    def remove_gone(self) -> None:
        """Takes out the files that came from the same data and are not in it any more."""
        gone = [row for row in self.known.values() if row.root == self.root and row.name not in self.seen]
        self.library.remove(gone)
        self.removed = len(gone)

    def embed(self, encoder: Encoder) -> None:
        """Embeds what is to do, committing every few seconds."""
        films = embed_moments(
            [task.entry for task in self.todo],
            encoder,
            cutting=self.library.card.cutting,
            batch_size=self.settings.batch_size,
            workers=self.settings.workers,
            file_seconds=self.settings.file_seconds,
            progress=self.progress,
        )
        committed = time.monotonic()
        for film in films:
            self._put(self.todo[film.number], film)
            if self.library.waiting >= _COMMIT_ROWS or time.monotonic() - committed > _COMMIT_SECONDS:
                self.library.commit()
                committed = time.monotonic()

    def _put(self, task: _Task, film: EmbeddedFilm) -> None:
        before = self.known.get(task.name)
        row = self._row(task, film)
        self.changed += before is not None
        self.added += before is None and row.status == "used"
        self.library.put(row, _moment_rows(row, film), before)

    def _row(self, task: _Task, film: EmbeddedFilm) -> FileRow:
        skip, entry = film.skip(), task.entry
        return FileRow(
            name=task.name,
            path=readable(os.path.abspath(entry.path)),
            audio_path=None if entry.audio_path is None else readable(os.path.abspath(entry.audio_path)),
            root=self.root,
            source=entry.source,
            label=entry.label,
            sizes=task.sizes,
            mtimes_ns=task.mtimes_ns,
            sha256=self._content(entry) if film.moments else None,
            status="used" if film.moments else "skipped",
            reason=None if skip is None else skip.reason,
            message=None if skip is None else skip.message,
            limit_seconds=self.settings.file_seconds,
            moments=len(film.moments),
            batch=uuid.uuid4().hex if film.moments else None,
            extra=_extra_text(entry),
        )

    def _is_as_before(self, row: FileRow, task: _Task) -> bool:
        """Whether files are those of the row, by size and time or by size and content."""
        if (row.sizes, row.mtimes_ns) == (task.sizes, task.mtimes_ns):
            return True
        return row.sizes == task.sizes and row.sha256 is not None and row.sha256 == self._content(task.entry)

    def _content(self, entry: Entry) -> str | None:
        """sha256 over an entry's files; None for what cannot be read."""
        total = hashlib.sha256()
        try:
            for path in _paths(entry):
                digest = hashlib.sha256()
                with open(path, "rb") as file:
                    while block := file.read(_HASHED_BYTES):
                        digest.update(block)
                        self.progress.advance(0)
                total.update(digest.digest())
        except OSError:
            return None
        return total.hexdigest()

    def report(self) -> IndexReport:
        """Commits the rest, tidies up, writes the list of what was left out."""
        self.library.commit()
        if self.todo or self.removed:
            self.library.tidy()
        skips = SkipReport(self.unlisted)
        skipped = len(skips)
        for row in self.library.files():
            if row.reason is not None and row.message is not None:
                skips.add_skip(Skip(row.path, row.reason, row.message))
                skipped += row.status == "skipped" and row.name in self.seen
        self.library.write_skips(skips)
        return IndexReport(
            str(self.library.folder),
            self.added,
            self.changed,
            self.unchanged,
            self.removed,
            skipped,
            self.library.count(),
            skips,
        )


def _moment_rows(row: FileRow, film: EmbeddedFilm) -> list[dict[str, Any]]:
    shared = {name: getattr(row, name) for name in ("batch", "path", "audio_path", "source", "label")}
    return [
        {
            "id": f"{row.name}#{moment.span.start_seconds:.3f}-{moment.span.end_seconds:.3f}",
            **shared,
            "start_seconds": moment.span.start_seconds,
            "end_seconds": moment.span.end_seconds,
            "video": moment.video,
            "audio": moment.audio,
            "film": moment.film,
            "video_frames": _half(moment.video_frames),
            "audio_frames": _half(moment.audio_frames),
        }
        for moment in film.moments
    ]


def _half(frames_TE: NDArray[np.float32] | None) -> NDArray[np.float16] | None:
    return None if frames_TE is None else frames_TE.astype(np.float16).reshape(-1)


def _name(entry: Entry) -> str:
    """What an entry is called in the index, from wherever it is indexed: as `Entry.key`, with absolute paths."""
    absolute = replace(
        entry,
        name=readable(os.path.abspath(entry.path)),
        audio_name=None if entry.audio_path is None else readable(os.path.abspath(entry.audio_path)),
    )
    return absolute.key


def _extra_text(entry: Entry) -> str | None:
    """What may change without embedding anything: the manifest's other columns, and the split."""
    return extra_text({**entry.extra, "split": entry.split})


def _paths(entry: Entry) -> list[str]:
    return [entry.path] if entry.audio_path is None else [entry.path, entry.audio_path]


def _sizes_and_times(entry: Entry) -> tuple[list[int], list[int]]:
    """Size and time of last change of an entry's files; -1 for one that is not there."""
    sizes, mtimes_ns = [], []
    for path in _paths(entry):
        try:
            status = os.stat(path)
        except OSError:
            status = None
        sizes.append(-1 if status is None else status.st_size)
        mtimes_ns.append(-1 if status is None else status.st_mtime_ns)
    return sizes, mtimes_ns
