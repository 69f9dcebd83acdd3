"""`cmmixer index`: builds an index of videos and audio files, updates it, and optimizes its search."""

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

from cmmixer.config import IndexSettings, SegmentSettings
from cmmixer.config.base import pick
from cmmixer.config.fields import accepts_settings
from cmmixer.data.manifest import Entry, read_layout, readable
from cmmixer.data.skips import Skip, SkipReport
from cmmixer.embedding.pipeline import EmbeddedFile, embed_moments
from cmmixer.encoders.base import Encoder
from cmmixer.encoders.loading import load_encoder
from cmmixer.progress import NoProgress, Progress
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import ANNSettings, FileRow, extra_json

# A kill loses the work since the last commit; a commit takes tens of milliseconds.
_COMMIT_ROWS = 2000
_COMMIT_SECONDS = 10.0
# Hashed at a time; cancelling works in between.
_HASH_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class IndexReport:
    """The result of `cmmixer index`.

    Attributes:
        index: the folder.
        added: files that are new in the index and used.
        changed: files that were embedded again.
        unchanged: files that were not embedded again, though their metadata may have been updated.
        removed: files removed by `--sync`.
        skipped: files of the data that are left out completely.
        moments: moments in the whole index.
        skips: what is left out of the whole index, wholly or in part; also in the folder's skipped.txt.
        ann_settings: how each modality is searched, once `--optimize` has chosen.
        unindexed: for each of these, the moments that are not in its ANN index yet and are searched exactly.
    """

    index: str
    added: int
    changed: int
    unchanged: int
    removed: int
    skipped: int
    moments: int
    skips: SkipReport
    ann_settings: dict[str, ANNSettings] = field(default_factory=dict)
    unindexed: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        names = ("index", "added", "changed", "unchanged", "removed", "skipped", "moments")
        return {
            **{name: getattr(self, name) for name in names},
            "skipped_reasons": self.skips.counts,
            "ann_settings": {modality: asdict(ann) for modality, ann in self.ann_settings.items()},
            "unindexed": self.unindexed,
        }

    def render(self) -> Text:
        """Formats the report for people; without markup, because a file may be called [red].mp4."""
        counts = f"{self.added} added, {self.changed} changed, {self.unchanged} unchanged, {self.removed} removed"
        lines = [f"{self.index}: {counts}; {self.moments} moments to search"]
        if self.skips.total:
            lines.append(f"{self.skips.summary}; see {self.index}/skipped.txt")
        for modality, ann in self.ann_settings.items():
            added = self.unindexed.get(modality, 0)
            more = f"; the {added} moments added since are searched exactly until the next --optimize" if added else ""
            lines.append(f"{modality}: {ann.message}{more}")
        return Text("\n".join(lines))


@accepts_settings(IndexSettings)
def index(settings: IndexSettings, progress: Progress | None = None, *, encoder: Encoder | None = None) -> IndexReport:
    """Builds or updates an index. Unchanged files are not opened; running it twice changes nothing.

    Args:
        settings: options of the command.
        progress: advanced for every file.
        encoder: the model of `settings.model`, if it is loaded already.

    Raises:
        InputError: unreadable data or model, an index of another model, or a full disk.
    """
    progress = progress or NoProgress()
    if settings.data is None or settings.model is None:
        with MomentIndex.writing(settings.index) as library:
            return _optimize(_unchanged_report(library), library, settings, progress)
    listing = read_layout(settings.data)
    encoder = encoder or load_encoder(settings.model, settings.device, settings.precision)
    with MomentIndex.writing(settings.index, encoder, pick(SegmentSettings, settings)) as library:
        update = _Update(settings.data, settings, library, SkipReport(listing.ignored), progress)
        progress.start(len(listing.entries), "looking for changes")
        for entry in listing.entries:
            update.compare(entry)
            progress.advance()
        if settings.sync:
            update.remove_gone()
        progress.start(len(update.todo), "embedding videos")
        update.embed(encoder)
        return _optimize(update.report(), library, settings, progress)


def _optimize(report: IndexReport, library: MomentIndex, settings: IndexSettings, progress: Progress) -> IndexReport:
    """Optimizes the search, if asked for, and completes the report."""
    if settings.optimize:
        from cmmixer.retrieval.ann import optimize

        optimize(library, settings, progress)
        library.tidy()
    by_modality = library.metadata.ann_settings
    unindexed = {modality: library.unindexed_rows(modality) for modality in by_modality}
    return replace(report, ann_settings=by_modality, unindexed=unindexed)


def _unchanged_report(library: MomentIndex) -> IndexReport:
    files = sum(1 for _ in library.files())
    return IndexReport(str(library.folder), 0, 0, files, 0, 0, library.count(), SkipReport())


@dataclass(frozen=True)
class _Task:
    """An entry to embed, with the size and time of its files before they are read."""

    entry: Entry
    name: str
    sizes: list[int]
    mtimes_ns: list[int]


class _Update:
    """One update of an index: compares the files with their rows, and embeds those that are new or changed.

    Args:
        data: the folder, list or manifest.
        settings: of the command.
        library: the index, open for writing.
        ignored: files of the data that are not media.
        progress: advanced for every file.
    """

    def __init__(
        self, data: str, settings: IndexSettings, library: MomentIndex, ignored: SkipReport, progress: Progress
    ) -> None:
        self.settings = settings
        self.progress = progress
        self.library = library
        self.root = readable(os.path.abspath(data))
        # A few hundred bytes a file, like the entries themselves.
        self.known = {row.name: row for row in library.files()}
        self.seen: set[str] = set()
        self.todo: list[_Task] = []
        self.ignored = ignored
        self.added = self.changed = self.unchanged = self.removed = 0

    def compare(self, entry: Entry) -> None:
        """Decides whether an entry must be embedded: by size and time, and if only the time differs by content.

        The manifest's other columns do not affect vectors, so they are updated without embedding.
        """
        name = _name(entry)
        if name in self.seen:
            self.ignored.add(entry.path, "duplicate", "the same part of the same file is listed before")
            return
        self.seen.add(name)
        task = _Task(entry, name, *_sizes_and_times(entry))
        row = self.known.get(name)
        if row is None or (row.source, row.label) != (entry.source, entry.label) or self._should_retry(row):
            self.todo.append(task)
        elif self._is_unchanged(row, task):
            self.unchanged += 1
            updated = replace(row, mtimes_ns=task.mtimes_ns, extra=_extra(entry))
            if updated != row:
                self.library.put(updated, [], before=row)
        else:
            self.todo.append(task)

    def _should_retry(self, row: FileRow) -> bool:
        """Whether a file that failed may work now: it has more time, or its decoder had crashed."""
        too_little_time = row.reason == "time-limit" and row.limit_seconds < self.settings.file_seconds
        return too_little_time or row.reason == "crashed"

    def remove_gone(self) -> None:
        """Removes the files that came from the same data and are no longer in it."""
        gone = [row for row in self.known.values() if row.root == self.root and row.name not in self.seen]
        self.library.remove(gone)
        self.removed = len(gone)

    def embed(self, encoder: Encoder) -> None:
        """Embeds new and changed files; commits every few seconds."""
        files = embed_moments(
            [task.entry for task in self.todo],
            encoder,
            segmentation=self.library.metadata.segmentation,
            batch_size=self.settings.batch_size,
            workers=self.settings.workers,
            file_seconds=self.settings.file_seconds,
            progress=self.progress,
        )
        committed = time.monotonic()
        for file in files:
            self._put(self.todo[file.number], file)
            if self.library.uncommitted_rows >= _COMMIT_ROWS or time.monotonic() - committed > _COMMIT_SECONDS:
                self.library.commit()
                committed = time.monotonic()

    def _put(self, task: _Task, file: EmbeddedFile) -> None:
        before = self.known.get(task.name)
        row = self._row(task, file)
        self.changed += before is not None
        self.added += before is None and row.status == "used"
        self.library.put(row, _moment_rows(row, file), before)

    def _row(self, task: _Task, file: EmbeddedFile) -> FileRow:
        skip, entry = file.skip(), task.entry
        return FileRow(
            name=task.name,
            path=readable(os.path.abspath(entry.path)),
            audio_path=None if entry.audio_path is None else readable(os.path.abspath(entry.audio_path)),
            root=self.root,
            source=entry.source,
            label=entry.label,
            sizes=task.sizes,
            mtimes_ns=task.mtimes_ns,
            sha256=self._content(entry) if file.moments else None,
            status="used" if file.moments else "skipped",
            reason=None if skip is None else skip.reason,
            message=None if skip is None else skip.message,
            limit_seconds=self.settings.file_seconds,
            moments=len(file.moments),
            batch=uuid.uuid4().hex if file.moments else None,
            extra=_extra(entry),
        )

    def _is_unchanged(self, row: FileRow, task: _Task) -> bool:
        """Whether files are those of the row, by size and time or by size and content."""
        if (row.sizes, row.mtimes_ns) == (task.sizes, task.mtimes_ns):
            return True
        return row.sizes == task.sizes and row.sha256 is not None and row.sha256 == self._content(task.entry)

    def _content(self, entry: Entry) -> str | None:
        """Returns the sha256 of an entry's files; None if they cannot be read."""
        total = hashlib.sha256()
        try:
            for path in _paths(entry):
                digest = hashlib.sha256()
                with open(path, "rb") as stream:
                    while block := stream.read(_HASH_BLOCK_BYTES):
                        digest.update(block)
                        self.progress.advance(0)
                total.update(digest.digest())
        except OSError:
            return None
        return total.hexdigest()

    def report(self) -> IndexReport:
        """Commits the rest, tidies up, and writes the report of skipped files."""
        self.library.commit()
        if self.todo or self.removed:
            self.library.tidy()
        skips = SkipReport(self.ignored)
        skipped = len(skips)
        for row in self.library.files():
            if row.reason is not None and row.message is not None:
                skips.add_skip(Skip(row.path, row.reason, row.message))
                skipped += row.status == "skipped" and row.name in self.seen
        self.library.write_skips(skips)
        return IndexReport(
            index=str(self.library.folder),
            added=self.added,
            changed=self.changed,
            unchanged=self.unchanged,
            removed=self.removed,
            skipped=skipped,
            moments=self.library.count(),
            skips=skips,
        )


def _moment_rows(row: FileRow, file: EmbeddedFile) -> list[dict[str, Any]]:
    shared = {name: getattr(row, name) for name in ("batch", "path", "audio_path", "source", "label")}
    return [
        {
            "id": f"{row.name}#{moment.span.start_seconds:.3f}-{moment.span.end_seconds:.3f}",
            **shared,
            "start_seconds": moment.span.start_seconds,
            "end_seconds": moment.span.end_seconds,
            "video": moment.video,
            "audio": moment.audio,
            "any": moment.any,
            "video_frames": _half_precision(moment.video_frames),
            "audio_frames": _half_precision(moment.audio_frames),
        }
        for moment in file.moments
    ]


def _half_precision(frames_TE: NDArray[np.float32] | None) -> NDArray[np.float16] | None:
    return None if frames_TE is None else frames_TE.astype(np.float16).reshape(-1)


def _name(entry: Entry) -> str:
    """Returns an entry's name in the index: `Entry.key` with absolute paths, whatever the current folder."""
    absolute = replace(
        entry,
        name=readable(os.path.abspath(entry.path)),
        audio_name=None if entry.audio_path is None else readable(os.path.abspath(entry.audio_path)),
    )
    return absolute.key


def _extra(entry: Entry) -> str | None:
    """Returns what may change without embedding again: the manifest's other columns, and the split."""
    return extra_json({**entry.extra, "split": entry.split})


def _paths(entry: Entry) -> list[str]:
    return [entry.path] if entry.audio_path is None else [entry.path, entry.audio_path]


def _sizes_and_times(entry: Entry) -> tuple[list[int], list[int]]:
    """Returns sizes and modification times of an entry's files; -1 for one that is missing."""
    sizes, mtimes_ns = [], []
    for path in _paths(entry):
        try:
            status = os.stat(path)
        except OSError:
            status = None
        sizes.append(-1 if status is None else status.st_size)
        mtimes_ns.append(-1 if status is None else status.st_mtime_ns)
    return sizes, mtimes_ns
