"""The embedding pipeline: media files are decoded in other processes, batched, and embedded in another thread.

    entries -> decode (processes, ahead of the model) -> batches of moments of many files -> model (a thread) -> embedded files

Waiting work is bounded: a few chunks for each decoder (`map_sandboxed`), one batch in the model, and one that is filled
meanwhile. Batches are made and collected in the order of the chunks, so results do not depend on timing.

Letters: B moments of a batch, T frames, C channels, H x W pixels, N samples of a window, E = the encoder's dim.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmmixer.config import SegmentSettings
from cmmixer.data.chunks import Chunk, DecodedChunk, DecodedSegment, decode_chunks
from cmmixer.data.manifest import Entry, readable
from cmmixer.data.segments import SegmentSpec
from cmmixer.data.skips import Skip
from cmmixer.encoders.base import Encoder
from cmmixer.errors import InternalError, MediaError
from cmmixer.media.sandbox import SandboxPool
from cmmixer.models.retriever import Embedding
from cmmixer.progress import Progress
from cmmixer.types import Span

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Moment:
    """A stretch of a file with its unit vectors, float32; None for a modality that is missing there.

    Attributes:
        span: where it is.
        video, audio: [E], of the whole moment.
        video_frames, audio_frames: [T, E], of each frame and of the sound around it.
    """

    span: Span
    video: Vector | None
    audio: Vector | None
    video_frames: Vector | None = None
    audio_frames: Vector | None = None

    @property
    def any(self) -> Vector:
        """Both modalities fused into one unit vector [E]; see `both_modalities`."""
        return both_modalities(self.video, self.audio)


def both_modalities(video_E: Vector | None, audio_E: Vector | None) -> Vector:
    """Returns the normalized sum of both modalities' unit vectors, or the only one there is.

    Contrastive training has pulled the vectors of a video's frames and of its sound together, so their mean represents
    the whole, and either of them does where the other is missing. No fusion layer has to be trained.

    Raises:
        ValueError: both are missing.
    """
    present = [vector for vector in (video_E, audio_E) if vector is not None]
    if not present:
        raise ValueError("got neither a video nor an audio vector, expected at least one")
    total = np.sum(present, axis=0, dtype=np.float64)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12), dtype=np.float32)


def embed_batch(media: Sequence[DecodedSegment], encoder: Encoder) -> list[Moment]:
    """Embeds decoded moments as one batch; they may belong to many files.

    Args:
        media: moments of the same geometry, each with frames, sound, or both.
        encoder: the model.

    Returns:
        One `Moment` for each, in the same order.

    Raises:
        InternalError: the model returned vectors that are not finite.
    """
    video = _embed_present([moment.pixels_TCHW for moment in media], encoder.embed_video)
    audio = _embed_present([moment.samples_TN for moment in media], encoder.embed_audio)
    return [
        Moment(moment.span, video_E, audio_E, video_TE, audio_TE)
        for moment, (video_E, video_TE), (audio_E, audio_TE) in zip(media, video, audio, strict=True)
    ]


def _embed_present(
    media: Sequence[NDArray[Any] | None], embed: Callable[[Tensor], Embedding]
) -> list[tuple[Vector, Vector] | tuple[None, None]]:
    """Embeds the items that are not None; vectors [E] and of frames [T, E] in the places of their items."""
    present = [(place, values) for place, values in enumerate(media) if values is not None]
    vectors: list[tuple[Vector, Vector] | tuple[None, None]] = [(None, None)] * len(media)
    if present:
        batch = torch.from_numpy(np.stack([values for _, values in present]))
        clip_BE, frames_BTE = (part.detach().to("cpu", torch.float32).numpy() for part in embed(batch))
        if not np.isfinite(clip_BE).all():
            raise InternalError("the model returned vectors that are not finite; use another checkpoint of its run")
        for (place, _), vector, frames in zip(present, clip_BE, frames_BTE, strict=True):
            vectors[place] = vector, frames
    return vectors


@dataclass(frozen=True)
class EmbeddedFile:
    """The vectors of one entry.

    Attributes:
        number: place of the entry in the input.
        entry: the file, or the part of it.
        moments: in order of time; empty if nothing could be used.
        errors: why the file, or a part of it, could not be used.
    """

    number: int
    entry: Entry
    moments: list[Moment]
    errors: list[MediaError]

    def skip(self) -> Skip | None:
        """Returns the line for the report of skipped files; None if all of the file was used."""
        if not self.errors:
            return None
        error = self.errors[0]
        if not self.moments:
            return Skip.of(error)
        message = f"{error.message}; the rest of it is used ({len(self.moments)} moments)"
        return Skip.of(MediaError(error.path, error.reason, message))


def embed_moments(
    entries: Iterable[Entry],
    encoder: Encoder,
    *,
    segmentation: SegmentSettings | None = None,
    batch_size: int = 32,
    workers: int = 0,
    file_seconds: float = 60.0,
    video: bool = True,
    audio: bool = True,
    even: int | None = None,
    pool: SandboxPool | None = None,
    progress: Progress | None = None,
) -> Iterator[EmbeddedFile]:
    """Embeds every moment of every entry.

    Yields each entry exactly once, as soon as all of its moments are embedded.

    Args:
        entries: videos and audio files.
        encoder: the model.
        segmentation: how files are cut into moments; None: moments of a clip's length, half a clip apart.
        batch_size: moments in a batch, of one or of many files.
        workers: decoder processes; 0 uses every core.
        file_seconds: longest time spent on one file, or on one chunk of a long video.
        video, audio: whether this modality is embedded.
        even: this many moments spaced evenly over each file, instead of the segmentation's.
        pool: running decoder processes to use instead of new ones.
        progress: advanced by one for every file. While a file takes long it is advanced by 0, so that it can cancel.
    """
    segmentation = (segmentation or SegmentSettings()).complete(encoder.clip)
    assert segmentation.stride_seconds is not None
    clip = segmentation.moment_clip(encoder.clip)
    spec = SegmentSpec(clip, segmentation.stride_seconds, video, audio, file_seconds, even, segmentation.shots)
    open_files: dict[int, _OpenFile] = {}

    def complete() -> Iterator[EmbeddedFile]:
        for number in [number for number, file in open_files.items() if file.is_complete]:
            if progress is not None:
                progress.advance()
            yield open_files.pop(number).close()

    check_cancelled = None if progress is None else partial(progress.advance, 0)
    with _Batches(encoder, batch_size) as batches:
        for chunk, result in decode_chunks(entries, spec, workers=workers, pool=pool, check_cancelled=check_cancelled):
            file = open_files.setdefault(chunk.number, _OpenFile(chunk))
            for media in file.add_chunk(result):
                batches.add(file, media)
            yield from complete()
        batches.finish()
        yield from complete()


def in_order(files: Iterable[EmbeddedFile]) -> Iterator[EmbeddedFile]:
    """Reorders files by number; a long one holds back the vectors of those behind it, not their frames."""
    held: dict[int, EmbeddedFile] = {}
    following = 0
    for file in files:
        held[file.number] = file
        while following in held:
            yield held.pop(following)
            following += 1


@dataclass
class _OpenFile:
    """An entry that is not completely decoded or embedded yet."""

    chunk: Chunk
    moments: list[Moment] = field(default_factory=list)
    errors: list[MediaError] = field(default_factory=list)
    chunks_due: int = 1
    moments_due: int = 0

    @property
    def is_complete(self) -> bool:
        return self.chunks_due == 0 and self.moments_due == 0

    def add_chunk(self, result: DecodedChunk | MediaError) -> list[DecodedSegment]:
        """Records a decoded chunk; returns its moments for the model."""
        self.chunks_due -= 1
        if isinstance(result, MediaError):
            self.errors.append(result)
            return []
        self.chunks_due += len(result.remaining)
        self.errors += result.errors
        media = list(result.segments())
        self.moments_due += len(media)
        return media

    def add_moment(self, moment: Moment) -> None:
        """Records an embedded moment."""
        self.moments.append(moment)
        self.moments_due -= 1

    def close(self) -> EmbeddedFile:
        self.moments.sort(key=lambda moment: moment.span.start_seconds)
        if not self.moments and not self.errors:
            self.errors.append(MediaError(self.chunk.path, "silent", "it is silent from beginning to end"))
        return EmbeddedFile(self.chunk.number, self.chunk.entry, self.moments, self.errors)


class _Batches:
    """Gathers moments into batches. One batch is in the model while the next is filled."""

    def __init__(self, encoder: Encoder, size: int) -> None:
        self._encoder, self._size = encoder, size
        self._filling: list[tuple[_OpenFile, DecodedSegment]] = []
        self._running: tuple[list[_OpenFile], Future[list[Moment]]] | None = None
        self._model = ThreadPoolExecutor(1, "cmmixer-model")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model.shutdown(wait=True, cancel_futures=True)

    def add(self, file: _OpenFile, media: DecodedSegment) -> None:
        """Queues a moment. A full batch waits for the running one, whose moments go to their files, and is then submitted."""
        self._filling.append((file, media))
        if len(self._filling) >= self._size:
            self._submit()

    def finish(self) -> None:
        """Embeds the rest and collects everything."""
        if self._filling:
            self._submit()
        self._collect()

    def _submit(self) -> None:
        self._collect()
        files = [file for file, _ in self._filling]
        media = [media for _, media in self._filling]
        self._filling.clear()
        self._running = files, self._model.submit(embed_batch, media, self._encoder)

    def _collect(self) -> None:
        if self._running is None:
            return
        files, future = self._running
        self._running = None
        for file, moment in zip(files, future.result(), strict=True):
            file.add_moment(moment)


def embed_file(
    path: str | Path,
    encoder: Encoder,
    *,
    segmentation: SegmentSettings | None = None,
    file_seconds: float = 60.0,
    video: bool = True,
    audio: bool = True,
    pool: SandboxPool | None = None,
) -> list[Moment]:
    """Embeds the moments of one file, such as a query. It is decoded in a process of its own.

    Args:
        path: the file; the other arguments are those of `embed_moments`.

    Raises:
        MediaError: nothing of it can be used.
    """
    (file,) = embed_moments(
        [file_entry(path)],
        encoder,
        segmentation=segmentation,
        workers=1,
        file_seconds=file_seconds,
        video=video,
        audio=audio,
        pool=pool,
    )
    if not file.moments:
        raise file.errors[0]
    return file.moments


def file_entry(path: str | Path) -> Entry:
    """Returns the manifest entry of a single file."""
    name = readable(path)
    return Entry(path=os.fspath(path), name=name, source=name)
