"""Uploaded files to search with: received within limits, looked into and embedded in other processes, kept for a while."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import torch

from cmmixer.config import CuttingSettings
from cmmixer.config.apps import ServeSettings
from cmmixer.data.moments import decode_piece
from cmmixer.embedding.pipeline import Moment, embed_file
from cmmixer.encoders.base import Encoder
from cmmixer.errors import MediaError
from cmmixer.media.decode import FilmInfo
from cmmixer.media.sandbox import IsolatedPool
from cmmixer.media.thumbnails import LookTask, look
from cmmixer.server import schemas
from cmmixer.server.problems import ProblemError
from cmmixer.storage.files import temporary_folder

_LONGEST_NAME = 200
_WARM_SECONDS = 60.0


@dataclass
class Query:
    """An uploaded file.

    Attributes:
        id: names it.
        name: as the browser or the client called it; only ever shown.
        path: where it lies for now.
        info: what is in it.
        moments: with their vectors.
        used: when it was last asked for, in monotonic seconds.
    """

    id: str
    name: str
    path: Path
    info: FilmInfo
    moments: list[Moment]
    used: float = field(default_factory=time.monotonic)

    def shown(self) -> schemas.Query:
        return schemas.Query(
            id=self.id,
            name=self.name,
            duration_seconds=round(self.info.duration_seconds, 3),
            has_picture=any(moment.video is not None for moment in self.moments),
            has_sound=any(moment.audio is not None for moment in self.moments),
            moments=len(self.moments),
        )


class Queries:
    """The uploads of a service, in a folder of their own that goes when it ends."""

    def __init__(self, settings: ServeSettings, encoder: Encoder, cutting: CuttingSettings) -> None:
        self._settings = settings
        self._encoder = encoder
        self._cutting = cutting
        # Processes of their own: previews must not keep a search waiting.
        self._pool = IsolatedPool(decode_piece, workers=settings.searches, memory_mb=settings.memory_mb)
        self._held = ExitStack()
        self._folder = self._held.enter_context(temporary_folder("cmmixer-queries-"))
        self._kept: OrderedDict[str, Query] = OrderedDict()
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(settings.searches)
        self._waiting = 0

    def close(self) -> None:
        """Removes all uploads, and ends what works on them."""
        self._pool.close()
        self._held.close()

    def warm(self) -> None:
        """Starts the processes and the model, so that the first upload need not wait for them."""
        missing = LookTask(str(self._folder / "none"), 1.0)
        for future in [self._pool.schedule(look, missing, _WARM_SECONDS) for _ in range(self._pool.workers)]:
            future.exception()
        clip = self._cutting.moment(self._encoder.clip)
        self._encoder.embed_video(torch.zeros(1, clip.frames, 3, clip.height, clip.width, dtype=torch.uint8))
        self._encoder.embed_audio(torch.zeros(1, clip.frames, clip.window_samples, dtype=torch.int16))

    def __len__(self) -> int:
        return len(self._kept)

    async def receive(self, name: str, chunks: AsyncIterator[bytes]) -> Path:
        """Writes an upload to disk, as it comes.

        Raises:
            ProblemError: it takes too long, or is empty.
        """
        path = self._folder / uuid.uuid4().hex
        try:
            async with asyncio.timeout(self._settings.upload_seconds):
                with path.open("xb") as file:
                    async for chunk in chunks:
                        await asyncio.to_thread(file.write, chunk)
            if path.stat().st_size == 0:
                raise ProblemError("unusable-media", f"{name}: has zero bytes", reason="empty")
        except TimeoutError as fault:
            path.unlink(missing_ok=True)
            raise ProblemError(
                "too-slow", f"{name}: got less than all of it in {self._settings.upload_seconds:g} s"
            ) from fault
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def add(self, name: str, path: Path) -> Query:
        """Looks into an upload and embeds its moments; on any problem the file is removed.

        Raises:
            ProblemError: too long, unusable, or too many are waiting.
        """
        try:
            with self._slot(), _named(path, name):
                info = self._pool.run(
                    look, LookTask(str(path), self._settings.file_seconds), seconds=self._settings.file_seconds
                )
                if info.duration_seconds > self._settings.query_seconds:
                    raise ProblemError(
                        "too-long",
                        f"{name}: lasts {info.duration_seconds:.0f} s, expected at most {self._settings.query_seconds:.0f} s",
                    )
                moments = embed_file(
                    path,
                    self._encoder,
                    cutting=self._cutting,
                    file_seconds=self._settings.file_seconds,
                    pool=self._pool,
                )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        query = Query(uuid.uuid4().hex[:24], name, path, info, moments)
        with self._lock:
            self._kept[query.id] = query
            self._drop()
        return query

    def get(self, query: str) -> Query:
        """An upload by its id.

        Raises:
            ProblemError: it is not there, or not any more.
        """
        with self._lock:
            self._drop()
            found = self._kept.get(query)
            if found is None:
                raise ProblemError(
                    "not-found", f"no uploaded file has the id {query}; it may have expired, send it again"
                )
            found.used = time.monotonic()
            self._kept.move_to_end(query)
            return found

    def remove(self, query: str) -> None:
        """Forgets an upload.

        Raises:
            ProblemError: it is not there.
        """
        found = self.get(query)
        with self._lock:
            self._kept.pop(query, None)
        found.path.unlink(missing_ok=True)

    def _drop(self) -> None:
        """Removes what is too old or too much; those used longest ago stand first."""
        oldest_allowed = time.monotonic() - 60.0 * self._settings.query_minutes
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if len(self._kept) <= self._settings.queries and oldest.used >= oldest_allowed:
                return
            del self._kept[oldest.id]
            oldest.path.unlink(missing_ok=True)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """One of the few places for embedding; only so many may wait for one."""
        with self._lock:
            if self._waiting >= self._settings.searches + self._settings.waiting:
                raise ProblemError("busy", f"{self._waiting} uploads are waiting already", {"Retry-After": "5"})
            self._waiting += 1
        try:
            with self._slots:
                yield
        finally:
            with self._lock:
                self._waiting -= 1


@contextmanager
def _named(path: Path, name: str) -> Iterator[None]:
    """Complaints about an upload's file name the upload."""
    try:
        yield
    except MediaError as fault:
        message = fault.message.replace(str(path), name)
        raise ProblemError("unusable-media", f"{name}: {message}", reason=fault.reason) from fault


def shown_name(told: str | None) -> str:
    """What an upload is called: the last part of what the client said, without control characters, not too long."""
    last = PurePath((told or "").replace("\\", "/")).name
    clean = "".join(character for character in last if character.isprintable()).strip()
    return clean[:_LONGEST_NAME] or "upload"
