"""Films -> unit vectors, one per moment and sense.

    entries -> decode (other processes, ahead of the model) -> batches of moments of many films -> model (another thread) -> films

What waits is bounded: some pieces for each decoder (`map_isolated`), one batch in the model and one that is filled meanwhile.
Batches are made and answered in the order of the pieces, so that results do not depend on who was faster.

A batch of moments -> their unit vectors. Whatever decodes them and wherever it runs, this is what asks the model.

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

from cmmixer.config import CuttingSettings
from cmmixer.data.manifest import Entry, readable
from cmmixer.data.moments import Cut, DecodedPiece, MomentMedia, Piece, decode_films
from cmmixer.data.skips import Skip
from cmmixer.encoders.base import Encoder
from cmmixer.errors import InternalError, MediaError
from cmmixer.media.sandbox import IsolatedPool
from cmmixer.models.retriever import Embedding
from cmmixer.progress import Progress
from cmmixer.types import Span

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Moment:
    """A stretch of a film and its unit vectors, float32; a sense that is missing there has None.

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
    def film(self) -> Vector:
        """Both senses as one unit vector [E]; the only one where one is missing. See `both_senses`."""
        return both_senses(self.video, self.audio)


def both_senses(video_E: Vector | None, audio_E: Vector | None) -> Vector:
    """The unit vector along the sum of both senses' unit vectors.

    The contrast has laid a film's picture and its sound near one another, so their middle stands for the film, and either
    of them for it where the other is missing: nothing has to be trained for that.

    Raises:
        ValueError: both are missing.
    """
    there = [vector for vector in (video_E, audio_E) if vector is not None]
    if not there:
        raise ValueError("a film without picture and sound has no vector")
    total = np.sum(there, axis=0, dtype=np.float64)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12), dtype=np.float32)


def embed_batch(media: Sequence[MomentMedia], encoder: Encoder) -> list[Moment]:
    """Embeds decoded moments together, in their order; they may be of many films.

    Args:
        media: moments of one geometry; each has a picture, a sound, or both.
        encoder: the model.

    Raises:
        InternalError: the model gives vectors that are not finite.
    """
    video = _sense([moment.pixels_TCHW for moment in media], encoder.embed_video)
    audio = _sense([moment.samples_TN for moment in media], encoder.embed_audio)
    return [
        Moment(moment.span, seen, heard, seen_frames, heard_frames)
        for moment, (seen, seen_frames), (heard, heard_frames) in zip(media, video, audio, strict=True)
    ]


def _sense(
    media: Sequence[NDArray[Any] | None], embed: Callable[[Tensor], Embedding]
) -> list[tuple[Vector, Vector] | tuple[None, None]]:
    """Vectors [E] and of frames [T, E] of those that have this sense, in place."""
    there = [(place, values) for place, values in enumerate(media) if values is not None]
    vectors: list[tuple[Vector, Vector] | tuple[None, None]] = [(None, None)] * len(media)
    if there:
        batch = torch.from_numpy(np.stack([values for _, values in there]))
        clip_BE, frames_BTE = (part.detach().to("cpu", torch.float32).numpy() for part in embed(batch))
        if not np.isfinite(clip_BE).all():
            raise InternalError("the model gives vectors that are not finite; take another checkpoint of its run")
        for (place, _), vector, frames in zip(there, clip_BE, frames_BTE, strict=True):
            vectors[place] = vector, frames
    return vectors


@dataclass(frozen=True)
class EmbeddedFilm:
    """What came of one entry.

    Attributes:
        number: its place among the entries.
        entry: the film or the stretch of it.
        moments: in order of time; empty when nothing could be used.
        faults: why it, or a part of it, could not be used.
    """

    number: int
    entry: Entry
    moments: list[Moment]
    faults: list[MediaError]

    def skip(self) -> Skip | None:
        """How it is listed among the files that were left out, wholly or in part; None if all of it was used."""
        if not self.faults:
            return None
        fault = self.faults[0]
        if not self.moments:
            return Skip.of(fault)
        told = f"{fault.message}; the rest of it is used ({len(self.moments)} moments)"
        return Skip.of(MediaError(fault.path, fault.reason, told))


def embed_moments(
    entries: Iterable[Entry],
    encoder: Encoder,
    *,
    cutting: CuttingSettings | None = None,
    batch_size: int = 32,
    workers: int = 0,
    file_seconds: float = 60.0,
    picture: bool = True,
    sound: bool = True,
    even: int | None = None,
    pool: IsolatedPool | None = None,
    progress: Progress | None = None,
) -> Iterator[EmbeddedFilm]:
    """Embeds every moment of every entry; each entry is answered for exactly once, as soon as it is complete.

    Args:
        entries: films and sounds.
        encoder: the model.
        cutting: how films are cut; None: into moments of a clip's length, half of it apart.
        batch_size: moments at a time, of one or of many films.
        workers: decoder processes; 0 takes every core.
        file_seconds: longest time spent on one file, or on one piece of a long film.
        picture, sound: whether this sense is wanted.
        even: so many moments evenly over each film, instead of the cutting's.
        pool: decoder processes that are there already, instead of new ones.
        progress: told about every film; and of steps without number while one takes long, so that it may refuse to go on.
    """
    cutting = (cutting or CuttingSettings()).of(encoder.clip)
    assert cutting.stride_seconds is not None
    clip = cutting.moment(encoder.clip)
    cut = Cut(clip, cutting.stride_seconds, picture, sound, file_seconds, even, cutting.shots)
    open_films: dict[int, _OpenFilm] = {}

    def complete() -> Iterator[EmbeddedFilm]:
        for number in [number for number, film in open_films.items() if film.is_complete]:
            if progress is not None:
                progress.advance()
            yield open_films.pop(number).close()

    going_on = None if progress is None else partial(progress.advance, 0)
    with _Batches(encoder, batch_size) as batches:
        for piece, result in decode_films(entries, cut, workers=workers, pool=pool, going_on=going_on):
            film = open_films.setdefault(piece.number, _OpenFilm(piece))
            for media in film.take(result):
                batches.add(film, media)
            yield from complete()
        batches.finish()
        yield from complete()


def in_order(films: Iterable[EmbeddedFilm]) -> Iterator[EmbeddedFilm]:
    """Films by number; a long one holds back the vectors of those behind it, not their pictures."""
    held: dict[int, EmbeddedFilm] = {}
    following = 0
    for film in films:
        held[film.number] = film
        while following in held:
            yield held.pop(following)
            following += 1


@dataclass
class _OpenFilm:
    """An entry of which not everything is decoded or embedded yet."""

    piece: Piece
    moments: list[Moment] = field(default_factory=list)
    faults: list[MediaError] = field(default_factory=list)
    pieces_due: int = 1
    moments_due: int = 0

    @property
    def is_complete(self) -> bool:
        return self.pieces_due == 0 and self.moments_due == 0

    def take(self, result: DecodedPiece | MediaError) -> list[MomentMedia]:
        """What of a piece is for the model."""
        self.pieces_due -= 1
        if isinstance(result, MediaError):
            self.faults.append(result)
            return []
        self.pieces_due += len(result.further)
        self.faults += result.faults
        media = list(result.media())
        self.moments_due += len(media)
        return media

    def put(self, moment: Moment) -> None:
        """What the model made of it."""
        self.moments.append(moment)
        self.moments_due -= 1

    def close(self) -> EmbeddedFilm:
        self.moments.sort(key=lambda moment: moment.span.start_seconds)
        if not self.moments and not self.faults:
            self.faults.append(MediaError(self.piece.path, "silent", "it is silent from beginning to end"))
        return EmbeddedFilm(self.piece.number, self.piece.entry, self.moments, self.faults)


class _Batches:
    """Gathers moments of whatever films; while a batch is in the model the next one is filled, its films written, and so on."""

    def __init__(self, encoder: Encoder, size: int) -> None:
        self._encoder, self._size = encoder, size
        self._filling: list[tuple[_OpenFilm, MomentMedia]] = []
        self._inside: tuple[list[_OpenFilm], Future[list[Moment]]] | None = None
        self._model = ThreadPoolExecutor(1, "cmmixer-model")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model.shutdown(wait=True, cancel_futures=True)

    def add(self, film: _OpenFilm, media: MomentMedia) -> None:
        """Queues a moment; a full batch goes to the model as soon as the one before is out, and that one is handed back."""
        self._filling.append((film, media))
        if len(self._filling) >= self._size:
            self._hand_over()

    def finish(self) -> None:
        """Embeds the rest and hands everything back."""
        if self._filling:
            self._hand_over()
        self._take_back()

    def _hand_over(self) -> None:
        self._take_back()
        films = [film for film, _ in self._filling]
        media = [media for _, media in self._filling]
        self._filling.clear()
        self._inside = films, self._model.submit(embed_batch, media, self._encoder)

    def _take_back(self) -> None:
        if self._inside is None:
            return
        films, future = self._inside
        self._inside = None
        for film, moment in zip(films, future.result(), strict=True):
            film.put(moment)


def embed_file(
    path: str | Path,
    encoder: Encoder,
    *,
    cutting: CuttingSettings | None = None,
    file_seconds: float = 60.0,
    picture: bool = True,
    sound: bool = True,
    pool: IsolatedPool | None = None,
) -> list[Moment]:
    """The moments of one file, such as a query; decoded in a process of its own.

    Raises:
        MediaError: nothing of it can be used.
    """
    (film,) = embed_moments(
        [file_entry(path)],
        encoder,
        cutting=cutting,
        workers=1,
        file_seconds=file_seconds,
        picture=picture,
        sound=sound,
        pool=pool,
    )
    if not film.moments:
        raise film.faults[0]
    return film.moments


def file_entry(path: str | Path) -> Entry:
    """A file on its own as an entry."""
    name = readable(path)
    return Entry(path=os.fspath(path), name=name, source=name)
