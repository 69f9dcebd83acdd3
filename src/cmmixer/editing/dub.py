"""`cmmixer dub`: writes a video with new audio. The work runs in a sandbox process."""

from __future__ import annotations

import glob
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from cmmixer.config import DubSettings
from cmmixer.config.fields import accepts_settings
from cmmixer.editing.audio_filters import SAMPLE_RATE_HZ, Track, measure_loudness, stereo_blocks
from cmmixer.editing.audio_mix import Fades, Level, Mix, find_level, is_silent
from cmmixer.editing.remux import CONTAINERS, VideoFacts, VideoSource, remux
from cmmixer.errors import InputError, MediaError, SettingsError
from cmmixer.media.container import Deadline, check_file
from cmmixer.media.decode import MediaFile
from cmmixer.media.sandbox import SandboxPool, map_sandboxed
from cmmixer.progress import NoProgress, Progress
from cmmixer.storage.files import TEMPORARY, atomic_path, explain_full_disk

# The report warns if the result misses the target loudness by more.
_TOLERANCE_LU = 0.5


@dataclass(frozen=True)
class DubReport:
    """The result of `cmmixer dub`.

    Attributes:
        out: the video.
        video_codec, audio_codec: FFmpeg's names; the video codec is that of the source.
        video_seconds: its length.
        begins_seconds, ends_seconds: where in it the new audio begins and ends.
        gain_db: gain of the audio.
        loudness_lufs: measured on the finished file; None if the audio is too short or too quiet to have a loudness.
        true_peak_dbtp: highest peak, measured on the finished file.
        target_lufs: the requested loudness.
        limited: whether a limiter held the peaks.
        ducked: whether the original audio was kept, with the new one ducked under it.
    """

    out: str
    video_codec: str
    audio_codec: str
    video_seconds: float
    begins_seconds: float
    ends_seconds: float
    gain_db: float
    loudness_lufs: float | None
    true_peak_dbtp: float | None
    target_lufs: float
    limited: bool
    ducked: bool

    def as_json(self) -> dict[str, Any]:
        """Returns all fields by name."""
        return asdict(self)

    def render(self) -> Text:
        """Returns a summary for people. It has no markup, because a file may be called [red].mp4."""
        lines = [
            f"{self.out}: {self.video_seconds:.2f} s, video copied ({self.video_codec}), new audio from "
            f"{self.begins_seconds:.2f} to {self.ends_seconds:.2f} s ({self.audio_codec}"
            f"{', ducked under the original' if self.ducked else ''})"
        ]
        if self.loudness_lufs is None:
            lines.append("the audio is too short or too quiet to have a loudness; its level was not changed")
        else:
            limiter = ", peaks held by a limiter" if self.limited else ""
            peak = f"true peak {self.true_peak_dbtp:.1f} dBTP"
            lines.append(f"{self.loudness_lufs:.1f} LUFS, {peak}, {self.gain_db:+.1f} dB{limiter}")
            if abs(self.loudness_lufs - self.target_lufs) > _TOLERANCE_LU:
                lines.append(f"{self.target_lufs:g} LUFS could not be reached: its peaks are too high above the rest")
        return Text("\n".join(lines))


@dataclass(frozen=True)
class DubJob:
    """A dub for a sandbox process.

    Attributes:
        settings: of the command.
        temporary: file to write the video to.
    """

    settings: DubSettings
    temporary: str

    @property
    def path(self) -> str:
        """The file that errors of the sandbox name."""
        return self.settings.video


@accepts_settings(DubSettings)
def dub(settings: DubSettings, progress: Progress | None = None, *, pool: SandboxPool | None = None) -> DubReport:
    """Writes a video with new audio; it appears under its name when it is complete.

    Args:
        settings: of the command.
        progress: receives the progress.
        pool: an existing pool of sandbox processes to use instead of a new one.

    Raises:
        MediaError: the video or the audio cannot be used, or lacks the stream that is taken from it.
        SettingsError: an impossible file name, `start` or `at`.
        InputError: the disk is full, or the folder cannot be written to.
    """
    progress = progress or NoProgress()
    out = Path(settings.out)
    _check_names(settings, out)
    progress.start(None, "dubbing")
    with explain_full_disk(out, InputError):
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        with atomic_path(out) as temporary:
            job = DubJob(settings, str(temporary))
            ((_, result),) = map_sandboxed(run_job, [job], workers=1, seconds_each=settings.file_seconds, pool=pool)
            if isinstance(result, MediaError):
                raise result
            if isinstance(result, str):
                raise SettingsError(result)
    return result


def run_job(job: DubJob) -> DubReport | str:
    """Does the work in a sandbox process; returns the message of a SettingsError, since only MediaErrors may be raised there."""
    try:
        return _dub(job.settings, Path(job.temporary))
    except SettingsError as error:
        return str(error)


def _check_names(settings: DubSettings, out: Path) -> None:
    if out.suffix.lower() not in CONTAINERS:
        raise SettingsError(f"--out {out}: got {out.suffix or 'no suffix'!r}, expected one of {', '.join(CONTAINERS)}")
    if out.is_dir():
        raise SettingsError(f"--out {out}: is a folder; give the name of a video")
    for path in (settings.video, settings.audio):
        check_file(path)
        if out.exists() and os.path.samefile(out, path):
            raise SettingsError(f"--out {out}: is the same file as {path}, which would be lost; choose another name")


def _remove_leftovers(out: Path) -> None:
    """Removes temporary files of the same video whose process was killed: they may hold gigabytes."""
    for leftover in out.parent.glob(f"{TEMPORARY}*-{glob.escape(out.name)}"):
        process = leftover.name.removeprefix(TEMPORARY).partition("-")[0]
        if process.isdigit() and not _is_alive(int(process)):
            leftover.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Whether a process exists; signal 0 only checks that."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _dub(settings: DubSettings, temporary: Path) -> DubReport:
    video = VideoSource.open(settings.video, Deadline(settings.video, settings.file_seconds))
    facts = video.read_facts()
    length = max(1, round(facts.end_seconds * SAMPLE_RATE_HZ))
    offset = round(settings.at * SAMPLE_RATE_HZ)
    if offset >= length:
        raise SettingsError(f"--at: got {settings.at:g}, but {settings.video} lasts {facts.end_seconds:.2f} s")
    with Track(temporary.parent, length, offset) as new, Track(temporary.parent, length) as original:
        _read_new_audio(new, settings)
        if settings.duck:
            _read_original_audio(original, settings)
        fades = Fades.around(
            offset / SAMPLE_RATE_HZ,
            new.end_samples / SAMPLE_RATE_HZ,
            settings.fade_in_seconds,
            settings.fade_out_seconds,
        )
        mix = Mix.of(new, fades, original if settings.duck else None)
        level = find_level(mix, settings.loudness_lufs)
        codec = remux(temporary, settings.out, video, level.applied(mix))
        video.close()
        return _report(settings, facts, codec, new, level, temporary)


def _read_new_audio(track: Track, settings: DubSettings) -> None:
    with MediaFile.open(settings.audio, settings.file_seconds) as media:
        frames = media.audio_frames_from(settings.start)
        track.fill(stereo_blocks(frames, settings.start, track.video_samples / SAMPLE_RATE_HZ))
        if track.samples == 0:
            duration = media.info.duration_seconds
            if settings.start >= duration:
                raise SettingsError(f"--start: got {settings.start:g}, but {settings.audio} lasts {duration:.2f} s")
            raise MediaError(settings.audio, "unreadable", "no part of its audio can be decoded")
    if is_silent(track):
        stretch = f"between {settings.start:g} s and {settings.start + track.samples / SAMPLE_RATE_HZ:.2f} s"
        raise MediaError(settings.audio, "silent", f"is silent {stretch}")


def _read_original_audio(track: Track, settings: DubSettings) -> None:
    try:
        with MediaFile.open(settings.video, settings.file_seconds) as media:
            track.fill(stereo_blocks(media.audio_frames_from(0.0), 0.0, track.video_samples / SAMPLE_RATE_HZ))
    except MediaError as error:
        if error.reason != "no-audio":
            raise
        raise MediaError(error.path, "no-audio", "has no audio for --duck to keep; leave --duck out") from error


def _report(
    settings: DubSettings, facts: VideoFacts, codec: str, new: Track, level: Level, temporary: Path
) -> DubReport:
    """Reports what was written, with the loudness measured on the encoded file."""
    with MediaFile.open(temporary, settings.file_seconds) as media:
        loudness = measure_loudness(stereo_blocks(media.audio_frames_from(0.0), 0.0, facts.end_seconds))
    return DubReport(
        out=settings.out,
        video_codec=facts.codec,
        audio_codec=codec,
        video_seconds=facts.end_seconds,
        begins_seconds=new.offset_samples / SAMPLE_RATE_HZ,
        ends_seconds=new.end_samples / SAMPLE_RATE_HZ,
        gain_db=level.gain_db,
        loudness_lufs=loudness.lufs,
        true_peak_dbtp=loudness.true_peak_dbtp if math.isfinite(loudness.true_peak_dbtp) else None,
        target_lufs=settings.loudness_lufs,
        limited=level.limited,
        ducked=settings.duck,
    )
