"""`cmmixer dub`: checks, the work in a process of its own, and what came of it."""

from __future__ import annotations

import glob
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from cmmixer.config import DubSettings
from cmmixer.editing.audio_filters import SAMPLE_RATE_HZ, Track, measure, stereo_blocks
from cmmixer.editing.audio_mix import Fades, Mix, find_level, is_silent
from cmmixer.editing.remux import CONTAINERS, PictureFacts, PictureSource, write
from cmmixer.errors import InputError, MediaError, SettingsError
from cmmixer.media.container import Deadline, check_file
from cmmixer.media.decode import Film
from cmmixer.media.encode import appearing
from cmmixer.media.sandbox import IsolatedPool, map_isolated
from cmmixer.progress import NoProgress, Progress
from cmmixer.storage.files import TEMPORARY, explain_full_disk

# The result's loudness is said to be off when it misses by more.
_TOLERANCE_LU = 0.5


@dataclass(frozen=True)
class DubReport:
    """What `cmmixer dub` wrote.

    Attributes:
        out: the film.
        picture_codec, sound_codec: FFmpeg's names; the picture's is that of the source.
        film_seconds: how long it is: as long as its pictures.
        begins_seconds, ends_seconds: where in it the new sound is.
        gain_db: by how much the sound was made louder.
        loudness_lufs: measured on the finished file; None where it is too short or too quiet to have one.
        true_peak_dbtp: highest peak, measured on the finished file.
        target_lufs: what was asked for.
        limited: whether a limiter held the peaks.
        ducked: whether the film's own sound was kept.
    """

    out: str
    picture_codec: str
    sound_codec: str
    film_seconds: float
    begins_seconds: float
    ends_seconds: float
    gain_db: float
    loudness_lufs: float | None
    true_peak_dbtp: float | None
    target_lufs: float
    limited: bool
    ducked: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> Text:
        """The same for people; no markup, because a file may be called [red].mp4."""
        lines = [
            f"{self.out}: {self.film_seconds:.2f} s, pictures copied ({self.picture_codec}), sound from "
            f"{self.begins_seconds:.2f} to {self.ends_seconds:.2f} s ({self.sound_codec}"
            f"{', ducked under the film’s own' if self.ducked else ''})"
        ]
        if self.loudness_lufs is None:
            lines.append("too short or too quiet to have a loudness; its level was left as it is")
        else:
            held = ", peaks held by a limiter" if self.limited else ""
            lines.append(
                f"{self.loudness_lufs:.1f} LUFS, true peak {self.true_peak_dbtp:.1f} dBTP, {self.gain_db:+.1f} dB{held}"
            )
            if abs(self.loudness_lufs - self.target_lufs) > _TOLERANCE_LU:
                lines.append(f"{self.target_lufs:g} LUFS could not be reached: its peaks are too high above the rest")
        return Text("\n".join(lines))


@dataclass(frozen=True)
class Job:
    """What goes to the other process; the film appears at `draft`. `path` names the item for messages."""

    settings: DubSettings
    draft: str

    @property
    def path(self) -> str:
        return self.settings.film


def dub(settings: DubSettings, progress: Progress | None = None, *, pool: IsolatedPool | None = None) -> DubReport:
    """Writes a film with another sound; it appears under its name when it is complete.

    Args:
        settings: of the command.
        progress: told what goes on.
        pool: processes that are there already, instead of a new one.

    Raises:
        MediaError: film or sound cannot be used, or lacks what is taken from it.
        SettingsError: a name, a start or a place that cannot be.
        InputError: the disk is full, or the folder cannot be written to.
    """
    progress = progress or NoProgress()
    out = Path(settings.out)
    _check_names(settings, out)
    progress.start(None, "dubbing")
    with explain_full_disk(out, InputError):
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        with appearing(out) as draft:
            job = Job(settings, str(draft))
            ((_, answer),) = map_isolated(make, [job], workers=1, seconds_each=settings.file_seconds, pool=pool)
            if isinstance(answer, MediaError):
                raise answer
            if isinstance(answer, str):
                raise SettingsError(answer)
    return answer


def _check_names(settings: DubSettings, out: Path) -> None:
    if out.suffix.lower() not in CONTAINERS:
        raise SettingsError(f"--out {out}: got {out.suffix or 'no ending'!r}, expected one of {', '.join(CONTAINERS)}")
    if out.is_dir():
        raise SettingsError(f"--out {out}: is a folder; give the name of a film")
    for path in (settings.film, settings.sound):
        check_file(path)
        if out.exists() and os.path.samefile(out, path):
            raise SettingsError(f"--out {out}: is the same file as {path}, which would be lost; choose another name")


def _remove_leftovers(out: Path) -> None:
    """Drafts of the same film whose process was killed: they may hold gigabytes."""
    for draft in out.parent.glob(f"{TEMPORARY}*-{glob.escape(out.name)}"):
        process = draft.name.removeprefix(TEMPORARY).partition("-")[0]
        if process.isdigit() and not _is_alive(int(process)):
            draft.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Signal 0 is sent to nobody, but complains where there is nobody."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def make(job: Job) -> DubReport | str:
    """The work itself, in the other process; a complaint about a setting travels back as text, because only MediaErrors do."""
    try:
        return _dub(job.settings, Path(job.draft))
    except SettingsError as fault:
        return str(fault)


def _dub(settings: DubSettings, draft: Path) -> DubReport:
    picture = PictureSource.open(settings.film, Deadline(settings.film, settings.file_seconds))
    facts = picture.look()
    length = max(1, round(facts.end_seconds * SAMPLE_RATE_HZ))
    offset = round(settings.at * SAMPLE_RATE_HZ)
    if offset >= length:
        raise SettingsError(f"--at: got {settings.at:g}, but {settings.film} lasts {facts.end_seconds:.2f} s")
    with Track(draft.parent, length, offset) as sound, Track(draft.parent, length) as own:
        _take_sound(sound, settings)
        if settings.duck:
            _take_own(own, settings)
        fades = Fades.around(
            offset / SAMPLE_RATE_HZ,
            sound.end_samples / SAMPLE_RATE_HZ,
            settings.fade_in_seconds,
            settings.fade_out_seconds,
        )
        mix = Mix.of(sound, fades, own if settings.duck else None)
        level = find_level(mix, settings.loudness_lufs)
        codec = write(draft, settings.out, picture, level.applied(mix))
        picture.close()
        return _report(settings, facts, codec, sound, level.gain_db, level.limited, draft)


def _take_sound(track: Track, settings: DubSettings) -> None:
    with Film.open(settings.sound, settings.file_seconds) as film:
        track.fill(stereo_blocks(film.sound_from(settings.start), settings.start, track.film_samples / SAMPLE_RATE_HZ))
        if track.samples == 0:
            duration = film.info.duration_seconds
            if settings.start >= duration:
                raise SettingsError(f"--start: got {settings.start:g}, but {settings.sound} lasts {duration:.2f} s")
            raise MediaError(settings.sound, "unreadable", "no part of its sound can be decoded")
    if is_silent(track):
        where = f"between {settings.start:g} s and {settings.start + track.samples / SAMPLE_RATE_HZ:.2f} s"
        raise MediaError(settings.sound, "silent", f"is silent {where}")


def _take_own(track: Track, settings: DubSettings) -> None:
    try:
        with Film.open(settings.film, settings.file_seconds) as film:
            track.fill(stereo_blocks(film.sound_from(0.0), 0.0, track.film_samples / SAMPLE_RATE_HZ))
    except MediaError as fault:
        if fault.reason != "no-sound":
            raise
        raise MediaError(
            fault.path, "no-sound", "has no sound of its own that --duck could keep; leave it out"
        ) from fault


def _report(
    settings: DubSettings, facts: PictureFacts, codec: str, sound: Track, gain_db: float, limited: bool, draft: Path
) -> DubReport:
    """With the loudness of what was really written, after the codec."""
    with Film.open(draft, settings.file_seconds) as film:
        result = measure(stereo_blocks(film.sound_from(0.0), 0.0, facts.end_seconds))
    return DubReport(
        out=settings.out,
        picture_codec=facts.codec,
        sound_codec=codec,
        film_seconds=facts.end_seconds,
        begins_seconds=sound.offset_samples / SAMPLE_RATE_HZ,
        ends_seconds=sound.end_samples / SAMPLE_RATE_HZ,
        gain_db=gain_db,
        loudness_lufs=result.lufs,
        true_peak_dbtp=result.true_peak_dbtp if math.isfinite(result.true_peak_dbtp) else None,
        target_lufs=settings.loudness_lufs,
        limited=limited,
        ducked=settings.duck,
    )
