"""`cmmixer doctor`: checks the machine and, on request, a folder of videos and an index."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmmixer.config import DoctorSettings
from cmmixer.config.fields import accepts_settings
from cmmixer.data.manifest import Entry, read_layout
from cmmixer.data.skips import Skip, SkipReport
from cmmixer.diagnostics.machine import Diagnosis, Finding, check_machine, check_packages
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import InputError, MediaError
from cmmixer.media.decode import MediaInfo
from cmmixer.media.sandbox import map_sandboxed
from cmmixer.media.thumbnails import InfoTask, read_info
from cmmixer.progress import NoProgress, Progress
from cmmixer.retrieval.hits import on_disk
from cmmixer.retrieval.index import MomentIndex

_MAX_NAMED = 3


def check_data(settings: DoctorSettings, skips: SkipReport, progress: Progress) -> Iterator[Finding]:
    """Reads the header and the streams of every file of `--data`, in decoder processes; `skips` receives the unusable ones.

    Damage further into a file is not found here, but when the file is indexed.
    """
    assert settings.data is not None
    try:
        listing = read_layout(settings.data)
    except InputError as error:
        yield Finding("Data", "bad", str(error), "give a folder of videos, a list or a manifest")
        return
    for skip in listing.ignored:
        skips.add_skip(skip)
    paths = _paths(listing.entries)
    seen = _read_headers(paths, settings, skips, progress)
    message = (
        f"{seen.used} of {len(paths)} videos and sounds can be used, {seen.seconds / 3600:.2f} h; {seen.modalities}"
    )
    if len(skips):
        message += f"; {skips.summary}"
    if not seen.used:
        yield Finding("Data", "bad", message, "no file can be used; see the list")
    elif seen.used < len(paths):
        yield Finding("Data", "warn", message, "the list says why; all commands skip such files and list them")
    else:
        yield Finding("Data", "ok", message)


@dataclass
class _Seen:
    """Counts of usable files."""

    used: int = 0
    seconds: float = 0.0
    both: int = 0
    silent: int = 0
    audio_only: int = 0

    def add(self, info: MediaInfo) -> None:
        self.used += 1
        self.seconds += info.duration_seconds
        self.both += info.video is not None and info.audio is not None
        self.silent += info.audio is None
        self.audio_only += info.video is None

    @property
    def modalities(self) -> str:
        return f"{self.both} with video and audio, {self.silent} silent videos, {self.audio_only} audio files"


def _paths(entries: list[Entry]) -> list[str]:
    """Returns each file once, in order. Several rows of a manifest may be segments of one file."""
    both = (path for entry in entries for path in (entry.path, entry.audio_path) if path is not None)
    return list(dict.fromkeys(both))


def _read_headers(paths: list[str], settings: DoctorSettings, skips: SkipReport, progress: Progress) -> _Seen:
    progress.start(len(paths), "looking into files")
    seen = _Seen()
    tasks = (InfoTask(path, settings.file_seconds) for path in paths)
    # The decoder gives up by itself in time; only one that hangs is ended from outside.
    limit = settings.file_seconds + 5.0
    for _, answer in map_sandboxed(read_info, tasks, workers=settings.workers, seconds_each=limit):
        if isinstance(answer, MediaError):
            skips.add_skip(Skip.of(answer))
        else:
            seen.add(answer)
        progress.advance()
    return seen


def check_index(settings: DoctorSettings, progress: Progress) -> Iterator[Finding]:
    """Opens `--index` and its model, and checks that its files still exist."""
    assert settings.index is not None
    progress.start(None, "opening the index")
    try:
        library = MomentIndex.open(settings.index)
        rows, moments = list(library.files()), library.count()
    except InputError as error:
        yield Finding("Index", "bad", str(error), "give a folder written by `cmmixer index`, or build the index again")
        return
    used = [row for row in rows if row.status == "used"]
    message = f"{moments} moments of {len(used)} files, built by {library.metadata.created_by}"
    ways = (
        ", ".join(f"{modality}: {ann.message}" for modality, ann in library.metadata.ann_settings.items())
        or "exact search"
    )
    yield Finding(
        "Index", "ok" if moments else "warn", f"{message}; {ways}", "" if moments else "index some videos into it"
    )
    missing = [row.path for row in used if on_disk(row.path) is None]
    if missing:
        shown = ", ".join(missing[:_MAX_NAMED]) + (" …" if len(missing) > _MAX_NAMED else "")
        advice = "restore them, or remove them from the index: cmmixer index --index … --data … --sync"
        yield Finding("Indexed files", "warn", f"{len(missing)} of {len(used)} are missing: {shown}", advice)
    else:
        yield Finding("Indexed files", "ok", "all exist")
    skipped = len(rows) - len(used)
    if skipped:
        yield Finding("Skipped files", "note", f"{skipped} files could not be used; see {settings.index}/skipped.txt")
    progress.start(None, "loading its model")
    name = settings.model or library.metadata.model
    try:
        library.metadata.check_encoder(load_encoder(name, "auto"), library.folder)
    except InputError as error:
        yield Finding("Index model", "bad", str(error), "give the run that the index was built with as --model")
    else:
        yield Finding("Index model", "ok", f"{name}, the model of the index")


@accepts_settings(DoctorSettings)
def doctor(settings: DoctorSettings, progress: Progress | None = None) -> Diagnosis:
    """Checks the machine and, if given, a folder of videos and an index. Changes nothing.

    Something that cannot be read is a finding, not an exception.
    """
    progress = progress or NoProgress()
    progress.start(None, "checking this machine")
    folders = {"Disk": Path.cwd(), "Temporary files": Path(tempfile.gettempdir())}
    if settings.index is not None:
        folders["Disk of the index"] = Path(settings.index)
    findings = [*check_machine(folders), *check_packages()]
    skips = SkipReport()
    if settings.data is not None:
        findings += check_data(settings, skips, progress)
    if settings.index is not None:
        findings += check_index(settings, progress)
    return Diagnosis(findings, skips)
