"""Uploaded files to search with: received within limits, decoded in other processes, embedded, and kept for a while."""

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

from cmmixer.config import SegmentSettings
from cmmixer.config.apps import ServeSettings
from cmmixer.data.chunks import decode_chunk
from cmmixer.embedding.pipeline import Moment, embed_file
from cmmixer.encoders.base import Encoder
from cmmixer.errors import MediaError
from cmmixer.media.decode import MediaInfo
from cmmixer.media.sandbox import SandboxPool
from cmmixer.media.thumbnails import InfoTask, read_info
from cmmixer.server import schemas
from cmmixer.server.problems import ProblemError
from cmmixer.storage.files import temporary_folder

_MAX_NAME_LENGTH = 200
_WARM_UP_SECONDS = 60.0


@dataclass
class Query:
    """An uploaded file.

    Attributes:
        id: the upload's name for clients.
        name: what the client called it; only shown, never used as a path.
        path: of the temporary file.
        info: streams of the file.
        moments: with their vectors.
        last_used: in monotonic seconds.
    """

    id: str
    name: str
    path: Path
    info: MediaInfo
    moments: list[Moment]
    last_used: float = field(default_factory=time.monotonic)

    def to_schema(self) -> schemas.Query:
        """Returns the upload as a schema."""
        return schemas.Query(
            id=self.id,
            name=self.name,
            duration_seconds=round(self.info.duration_seconds, 3),
            has_video=any(moment.video is not None for moment in self.moments),
            has_audio=any(moment.audio is not None for moment in self.moments),
            moments=len(self.moments),
        )


class Queries:
    """The uploads of a service, in a temporary folder that is removed when the service ends."""

    def __init__(self, settings: ServeSettings, encoder: Encoder, segmentation: SegmentSettings) -> None:
        self._settings = settings
        self._encoder = encoder
        self._segmentation = segmentation
        # Processes of their own, so that a search never waits for previews.
        self._pool = SandboxPool(decode_chunk, workers=settings.searches, memory_mb=settings.memory_mb)
        self._resources = ExitStack()
        self._folder = self._resources.enter_context(temporary_folder("cmmixer-queries-"))
        self._queries: OrderedDict[str, Query] = OrderedDict()
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(settings.searches)
        self._waiting = 0

    def close(self) -> None:
        """Removes all uploads and ends the decoder processes."""
        self._pool.close()
        self._resources.close()

    def warm_up(self) -> None:
        """Starts the decoder processes and runs the model once, so that the first upload does not wait for them."""
        missing = InfoTask(str(self._folder / "none"), 1.0)
        for future in [self._pool.schedule(read_info, missing, _WARM_UP_SECONDS) for _ in range(self._pool.workers)]:
            future.exception()
        clip = self._segmentation.moment_clip(self._encoder.clip)
        self._encoder.embed_video(torch.zeros(1, clip.frames, 3, clip.height, clip.width, dtype=torch.uint8))
        self._encoder.embed_audio(torch.zeros(1, clip.frames, clip.window_samples, dtype=torch.int16))

    def __len__(self) -> int:
        return len(self._queries)

    async def receive(self, name: str, chunks: AsyncIterator[bytes]) -> Path:
        """Writes an upload to disk while it arrives.

        Args:
            name: for error messages.
            chunks: the body of the request.

        Returns:
            The temporary file.

        Raises:
            ProblemError: the upload takes too long, or is empty.
        """
        path = self._folder / uuid.uuid4().hex
        try:
            async with asyncio.timeout(self._settings.upload_seconds):
                with path.open("xb") as file:
                    async for chunk in chunks:
                        await asyncio.to_thread(file.write, chunk)
            if path.stat().st_size == 0:
                raise ProblemError("unusable-media", f"{name}: has zero bytes", reason="empty")
        except TimeoutError as error:
            path.unlink(missing_ok=True)
            raise ProblemError("too-slow", f"{name}: not complete after {self._settings.upload_seconds:g} s") from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def add(self, name: str, path: Path) -> Query:
        """Embeds the moments of an upload. On any error the file is removed.

        Raises:
            ProblemError: the file is too long or cannot be used, or too many uploads are waiting.
        """
        try:
            with self._slot(), _naming(path, name):
                info = self._pool.run(
                    read_info, InfoTask(str(path), self._settings.file_seconds), seconds=self._settings.file_seconds
                )
                if info.duration_seconds > self._settings.query_seconds:
                    raise ProblemError(
                        "too-long",
                        f"{name}: lasts {info.duration_seconds:.0f} s, expected at most {self._settings.query_seconds:.0f} s",
                    )
                moments = embed_file(
                    path,
                    self._encoder,
                    segmentation=self._segmentation,
                    file_seconds=self._settings.file_seconds,
                    pool=self._pool,
                )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        query = Query(uuid.uuid4().hex[:24], name, path, info, moments)
        with self._lock:
            self._queries[query.id] = query
            self._drop_expired()
        return query

    def get(self, query_id: str) -> Query:
        """Returns an upload by its id.

        Raises:
            ProblemError: `not-found`: it never existed, or has expired.
        """
        with self._lock:
            self._drop_expired()
            query = self._queries.get(query_id)
            if query is None:
                raise ProblemError(
                    "not-found", f"no uploaded file has the id {query_id}; it may have expired, upload it again"
                )
            query.last_used = time.monotonic()
            self._queries.move_to_end(query_id)
            return query

    def remove(self, query_id: str) -> None:
        """Removes an upload.

        Raises:
            ProblemError: `not-found`.
        """
        query = self.get(query_id)
        with self._lock:
            self._queries.pop(query_id, None)
        query.path.unlink(missing_ok=True)

    def _drop_expired(self) -> None:
        """Removes uploads that are too old or too many, least recently used first; the lock must be held."""
        oldest_allowed = time.monotonic() - 60.0 * self._settings.query_minutes
        while self._queries:
            oldest = next(iter(self._queries.values()))
            if len(self._queries) <= self._settings.queries and oldest.last_used >= oldest_allowed:
                return
            del self._queries[oldest.id]
            oldest.path.unlink(missing_ok=True)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """Waits for one of the slots for embedding; refuses if too many are waiting already."""
        with self._lock:
            if self._waiting >= self._settings.searches + self._settings.waiting:
                raise ProblemError("busy", f"{self._waiting} uploads are waiting", {"Retry-After": "5"})
            self._waiting += 1
        try:
            with self._slots:
                yield
        finally:
            with self._lock:
                self._waiting -= 1


@contextmanager
def _naming(path: Path, name: str) -> Iterator[None]:
    """Has errors about the temporary file name the upload."""
    try:
        yield
    except MediaError as error:
        message = error.message.replace(str(path), name)
        raise ProblemError("unusable-media", f"{name}: {message}", reason=error.reason) from error


def display_name(name: str | None) -> str:
    """Returns the name of an upload: the last part of the client's path, printable, at most 200 characters."""
    last_part = PurePath((name or "").replace("\\", "/")).name
    clean = "".join(character for character in last_part if character.isprintable()).strip()
    return clean[:_MAX_NAME_LENGTH] or "upload"
