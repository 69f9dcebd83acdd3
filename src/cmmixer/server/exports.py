"""Taking finds along: a film with its new sound, and lists of moments for an editing program."""

from __future__ import annotations

import os
import threading
import uuid
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePath

from cmmixer.config import DubSettings
from cmmixer.editing.dub import DubReport, dub, make
from cmmixer.editing.edl import FrameRate, SourceTiming, source_timing, write_csv, write_edl
from cmmixer.errors import InputError, MediaError
from cmmixer.media.sandbox import IsolatedPool
from cmmixer.retrieval.hits import Hit
from cmmixer.server import schemas
from cmmixer.server.problems import ProblemError
from cmmixer.storage.files import temporary_folder

_MOST_KEPT = 10
_MOST_WAITING = 8


@dataclass(frozen=True)
class File:
    """A file that is mixed: what it is called outside, and where it lies."""

    name: str
    path: str


@dataclass(frozen=True)
class Dubbed:
    """A film that was written: what it is called, where it lies, what it became."""

    id: str
    name: str
    path: Path
    report: DubReport

    def shown(self, prefix: str) -> schemas.Dub:
        """As it is shown."""
        values = {name: getattr(self.report, name) for name in schemas.Dub.model_fields if hasattr(self.report, name)}
        return schemas.Dub(id=self.id, name=self.name, media=f"{prefix}/dubs/{self.id}/media", **values)


class Dubs:
    """Films written on request, one at a time; the last few are kept until the service ends."""

    def __init__(self, file_seconds: float, memory_mb: int) -> None:
        self._file_seconds = file_seconds
        self._pool = IsolatedPool(make, workers=1, memory_mb=memory_mb)
        self._held = ExitStack()
        self._folder = self._held.enter_context(temporary_folder("cmmixer-dubs-"))
        self._kept: OrderedDict[str, Dubbed] = OrderedDict()
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)
        self._turn = threading.Lock()

    def close(self) -> None:
        """Removes all of them."""
        self._pool.close()
        self._held.close()

    def write(self, film: File, sound: File, order: schemas.DubOrder) -> Dubbed:
        """Lays a sound under a film.

        Raises:
            ProblemError: they cannot be used, a second that is not there, or too many wait.
        """
        if not self._waiting.acquire(blocking=False):
            raise ProblemError("busy", f"{_MOST_WAITING} films are waiting to be written", {"Retry-After": "10"})
        key = uuid.uuid4().hex[:24]
        try:
            with self._turn:
                return self._keep(Dubbed(key, _name(film, sound, order), *self._written(key, film, sound, order)))
        finally:
            self._waiting.release()

    def get(self, dubbed: str) -> Dubbed:
        """One that was written.

        Raises:
            ProblemError: it is not there, or not any more.
        """
        with self._lock:
            if dubbed not in self._kept:
                raise ProblemError("not-found", f"no film that was written here has the id {dubbed}; write it again")
            return self._kept[dubbed]

    def _written(self, key: str, film: File, sound: File, order: schemas.DubOrder) -> tuple[Path, DubReport]:
        path = self._folder / f"{key}.{order.container}"
        settings = DubSettings(
            film=film.path,
            sound=sound.path,
            out=str(path),
            start=order.start_seconds,
            at=order.at_seconds,
            loudness_lufs=order.loudness_lufs,
            duck=order.duck,
            file_seconds=self._file_seconds,
        )
        try:
            return path, dub(settings, pool=self._pool)
        except MediaError as fault:
            named = film if fault.path == film.path else sound
            kind = "missing-sense" if fault.reason in ("no-picture", "no-sound") else "unusable-media"
            raise ProblemError(
                kind, f"{named.name}: {_outside(fault.message, film, sound)}", reason=fault.reason
            ) from fault
        except InputError as fault:
            if "disk is full" in str(fault):
                raise ProblemError("disk-full", "there is no space left for the film") from fault
            raise ProblemError("bad-request", _outside(str(fault), film, sound)) from fault

    def _keep(self, dubbed: Dubbed) -> Dubbed:
        with self._lock:
            self._kept[dubbed.id] = dubbed
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)[1].path.unlink(missing_ok=True)
        return dubbed


def _outside(message: str, film: File, sound: File) -> str:
    """Without the places of this machine."""
    return message.replace(film.path, film.name).replace(sound.path, sound.name)


def _name(film: File, sound: File, order: schemas.DubOrder) -> str:
    return f"{PurePath(film.name).stem} with {PurePath(sound.name).stem}.{order.container}"


def cut_list(order: schemas.CutListOrder, moments: list[Hit], files: dict[str, str | bytes]) -> bytes:
    """Moments as an edit decision list or a table.

    Args:
        order: what is wanted.
        moments: in the order they are laid; their paths are the names of their files in the library.
        files: where each name lies, for the files' own timecodes.
    """

    def timing(name: str | Path) -> SourceTiming:
        return source_timing(os.fsdecode(files[str(name)]))

    rate = FrameRate.fitting(order.frames_per_second)
    with temporary_folder("cmmixer-list-") as folder:
        path = folder / "list"
        if order.format == "edl":
            write_edl(
                path, moments, target=order.target, rate=rate, title=order.title, query=order.query, timing=timing
            )
        else:
            write_csv(path, moments, rate=rate, query=order.query, timing=timing)
        return path.read_bytes()
