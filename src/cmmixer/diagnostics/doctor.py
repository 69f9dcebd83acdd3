"""`cmmixer doctor`: the examination.

A folder of films: is every file of it usable? An index: can it be read, is its model there, are its files?
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmmixer.config import DoctorSettings
from cmmixer.data.manifest import Entry, read_layout
from cmmixer.data.skips import Skip, SkipReport
from cmmixer.diagnostics.machine import Examination, Finding, examine_machine, examine_packages
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import InputError, MediaError
from cmmixer.media.decode import FilmInfo
from cmmixer.media.sandbox import map_isolated
from cmmixer.media.thumbnails import LookTask, look
from cmmixer.progress import NoProgress, Progress
from cmmixer.retrieval.hits import on_disk
from cmmixer.retrieval.index import MomentIndex

_MOST_NAMED = 3


def examine_data(settings: DoctorSettings, skips: SkipReport, progress: Progress) -> Iterator[Finding]:
    """Looks into every file of `--data`, in decoder processes; what cannot be used goes to `skips`.

    Looking reads a file's header and asks what streams there are; a file that is damaged further in shows when it is indexed.
    """
    assert settings.data is not None
    try:
        listing = read_layout(settings.data)
    except InputError as fault:
        yield Finding("Data", "bad", str(fault), "give a folder of films, a list or a manifest")
        return
    for skip in listing.ignored:
        skips.add_skip(skip)
    paths = _paths(listing.entries)
    seen = _look_into(paths, settings, skips, progress)
    told = f"{seen.used} of {len(paths)} films and sounds can be used, {seen.seconds / 3600:.2f} h; {seen.senses}"
    if len(skips):
        told += f"; {skips.summary}"
    if not seen.used:
        yield Finding("Data", "bad", told, "none of it can be used; see the list")
    elif seen.used < len(paths):
        yield Finding("Data", "warn", told, "the list says why; all commands pass such files over and list them")
    else:
        yield Finding("Data", "ok", told)


@dataclass
class _Seen:
    """What was counted."""

    used: int = 0
    seconds: float = 0.0
    both: int = 0
    silent: int = 0
    blind: int = 0

    def add(self, info: FilmInfo) -> None:
        self.used += 1
        self.seconds += info.duration_seconds
        self.both += info.picture is not None and info.sound is not None
        self.silent += info.sound is None
        self.blind += info.picture is None

    @property
    def senses(self) -> str:
        return f"{self.both} with picture and sound, {self.silent} silent films, {self.blind} sounds"


def _paths(entries: list[Entry]) -> list[str]:
    """Each file once, in order; many rows of a manifest may be stretches of one."""
    both = (path for entry in entries for path in (entry.path, entry.audio_path) if path is not None)
    return list(dict.fromkeys(both))


def _look_into(paths: list[str], settings: DoctorSettings, skips: SkipReport, progress: Progress) -> _Seen:
    progress.start(len(paths), "looking into files")
    seen = _Seen()
    tasks = (LookTask(path, settings.file_seconds) for path in paths)
    # The decoder gives up by itself in time; only one that hangs is ended from outside.
    limit = settings.file_seconds + 5.0
    for _, answer in map_isolated(look, tasks, workers=settings.workers, seconds_each=limit):
        if isinstance(answer, MediaError):
            skips.add_skip(Skip.of(answer))
        else:
            seen.add(answer)
        progress.advance()
    return seen


def examine_index(settings: DoctorSettings, progress: Progress) -> Iterator[Finding]:
    """Opens `--index`, its model, and looks whether its files are still there."""
    assert settings.index is not None
    progress.start(None, "opening the index")
    try:
        library = MomentIndex.open(settings.index)
        rows, moments = list(library.files()), library.count()
    except InputError as fault:
        yield Finding("Index", "bad", str(fault), "give the folder that `cmmixer index` wrote, or make it anew")
        return
    used = [row for row in rows if row.status == "used"]
    told = f"{moments} moments of {len(used)} files, made by cmmixer {library.card.version}"
    ways = (
        ", ".join(f"{sense}: {plan.told}" for sense, plan in library.card.plans.items()) or "all moments are looked at"
    )
    yield Finding(
        "Index", "ok" if moments else "warn", f"{told}; {ways}", "" if moments else "index some films into it"
    )
    gone = [row.path for row in used if on_disk(row.path) is None]
    if gone:
        shown = ", ".join(gone[:_MOST_NAMED]) + (" …" if len(gone) > _MOST_NAMED else "")
        advice = "put them back, or take them out: cmmixer index --index … --data … --sync"
        yield Finding("Its files", "warn", f"{len(gone)} of {len(used)} have gone: {shown}", advice)
    else:
        yield Finding("Its files", "ok", "all are where they were indexed")
    skipped = len(rows) - len(used)
    if skipped:
        yield Finding("Left out", "note", f"{skipped} files could not be used; see {settings.index}/skipped.txt")
    progress.start(None, "loading its model")
    name = settings.model or library.card.model
    try:
        library.card.check_encoder(load_encoder(name, "auto"), library.folder)
    except InputError as fault:
        yield Finding("Its model", "bad", str(fault), "say where the run that made the index is, with --model")
    else:
        yield Finding("Its model", "ok", f"{name}, the one that made the index")


def doctor(settings: DoctorSettings, progress: Progress | None = None) -> Examination:
    """Examines the machine and, where asked for, a folder of films and an index. Changes nothing.

    What cannot be read is a finding, not an error.
    """
    progress = progress or NoProgress()
    progress.start(None, "looking at this machine")
    folders = {"Disk": Path.cwd(), "Temporary": Path(tempfile.gettempdir())}
    if settings.index is not None:
        folders["Index's disk"] = Path(settings.index)
    findings = [*examine_machine(folders), *examine_packages()]
    skips = SkipReport()
    if settings.data is not None:
        findings += examine_data(settings, skips, progress)
    if settings.index is not None:
        findings += examine_index(settings, progress)
    return Examination(findings, skips)
