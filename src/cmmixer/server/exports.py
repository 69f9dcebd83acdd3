"""Exports: videos with new audio, and cut lists of moments for an editing program."""

from __future__ import annotations

import os
import threading
import uuid
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePath

from cmmixer.config import DubSettings
from cmmixer.editing.dub import DubReport, dub, run_job
from cmmixer.editing.edl import SourceTiming, source_timing, write_csv, write_edl
from cmmixer.editing.timecode import FrameRate
from cmmixer.errors import InputError, MediaError
from cmmixer.media.sandbox import SandboxPool
from cmmixer.retrieval.hits import Hit
from cmmixer.server import schemas
from cmmixer.server.problems import ProblemError, media_problem
from cmmixer.storage.files import temporary_folder

_MAX_DUBS = 10
_MAX_WAITING = 8


@dataclass(frozen=True)
class NamedFile:
    """A file to be mixed: its name for clients and its path."""

    name: str
    path: str


@dataclass(frozen=True)
class DubbedVideo:
    """A video that was written: its id and name for clients, its path, and the report of the dubbing."""

    id: str
    name: str
    path: Path
    report: DubReport

    def to_schema(self, prefix: str) -> schemas.Dub:
        """Returns the video as a schema; `prefix` is that of the addresses."""
        return schemas.Dub(
            id=self.id,
            name=self.name,
            media=f"{prefix}/dubs/{self.id}/media",
            video_seconds=self.report.video_seconds,
            begins_seconds=self.report.begins_seconds,
            ends_seconds=self.report.ends_seconds,
            gain_db=self.report.gain_db,
            loudness_lufs=self.report.loudness_lufs,
            true_peak_dbtp=self.report.true_peak_dbtp,
            limited=self.report.limited,
            video_codec=self.report.video_codec,
            audio_codec=self.report.audio_codec,
        )


class Dubs:
    """Writes videos with new audio, one at a time. Keeps the last few until the service ends."""

    def __init__(self, file_seconds: float, memory_mb: int) -> None:
        """Starts the process that writes.

        Args:
            file_seconds: time limit of a video.
            memory_mb: memory limit of the process.
        """
        self._file_seconds = file_seconds
        self._pool = SandboxPool(run_job, workers=1, memory_mb=memory_mb)
        self._resources = ExitStack()
        self._folder = self._resources.enter_context(temporary_folder("cmmixer-dubs-"))
        self._dubs: OrderedDict[str, DubbedVideo] = OrderedDict()
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_MAX_WAITING)
        self._writing = threading.Lock()

    def close(self) -> None:
        """Ends the process and removes all written videos."""
        self._pool.close()
        self._resources.close()

    def write(self, video: NamedFile, audio: NamedFile, request: schemas.DubRequest) -> DubbedVideo:
        """Writes a video with new audio.

        Raises:
            ProblemError: a file cannot be used, a time is not in the file, or too many videos are waiting.
        """
        if not self._waiting.acquire(blocking=False):
            raise ProblemError("busy", f"{_MAX_WAITING} videos are waiting to be written", {"Retry-After": "10"})
        try:
            with self._writing:
                dub_id = uuid.uuid4().hex[:24]
                path, report = self._dub(dub_id, video, audio, request)
                return self._remember(DubbedVideo(dub_id, _name(video, audio, request), path, report))
        finally:
            self._waiting.release()

    def get(self, dub_id: str) -> DubbedVideo:
        """Returns a video that was written.

        Raises:
            ProblemError: `not-found`: it was never written, or has been removed since.
        """
        with self._lock:
            if dub_id not in self._dubs:
                raise ProblemError("not-found", f"no written video has the id {dub_id}; write it again")
            return self._dubs[dub_id]

    def _dub(
        self, dub_id: str, video: NamedFile, audio: NamedFile, request: schemas.DubRequest
    ) -> tuple[Path, DubReport]:
        path = self._folder / f"{dub_id}.{request.container}"
        settings = DubSettings(
            video=video.path,
            audio=audio.path,
            out=str(path),
            start=request.start_seconds,
            at=request.at_seconds,
            loudness_lufs=request.loudness_lufs,
            duck=request.duck,
            file_seconds=self._file_seconds,
        )
        try:
            return path, dub(settings, pool=self._pool)
        except MediaError as error:
            name = video.name if error.path == video.path else audio.name
            raise media_problem(error.reason, name, _without_paths(error.message, video, audio)) from error
        except InputError as error:
            if "disk is full" in str(error):
                raise ProblemError("disk-full", "no space is left for the video") from error
            raise ProblemError("bad-request", _without_paths(str(error), video, audio)) from error

    def _remember(self, dubbed: DubbedVideo) -> DubbedVideo:
        with self._lock:
            self._dubs[dubbed.id] = dubbed
            while len(self._dubs) > _MAX_DUBS:
                self._dubs.popitem(last=False)[1].path.unlink(missing_ok=True)
        return dubbed


def _without_paths(message: str, video: NamedFile, audio: NamedFile) -> str:
    """Returns a message with names in place of paths, because clients must not learn paths."""
    return message.replace(video.path, video.name).replace(audio.path, audio.name)


def _name(video: NamedFile, audio: NamedFile, request: schemas.DubRequest) -> str:
    return f"{PurePath(video.name).stem} with {PurePath(audio.name).stem}.{request.container}"


def cut_list(request: schemas.CutListRequest, hits: list[Hit], paths: dict[str, str | bytes]) -> bytes:
    """Returns moments as an edit decision list (CMX 3600) or as CSV.

    Args:
        request: format and frame rate.
        hits: in the order of the edit; their paths are the names of their files in the library.
        paths: path of each name, from which the timecode of a file is read.
    """

    def timing(name: str | Path) -> SourceTiming:
        return source_timing(os.fsdecode(paths[str(name)]))

    rate = FrameRate.fitting(request.frames_per_second)
    with temporary_folder("cmmixer-list-") as folder:
        path = folder / "list"
        if request.format == "edl":
            write_edl(
                path, hits, target=request.target, rate=rate, title=request.title, query=request.query, timing=timing
            )
        else:
            write_csv(path, hits, rate=rate, query=request.query, timing=timing)
        return path.read_bytes()
