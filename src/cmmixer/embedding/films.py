"""Films -> unit vectors, one per moment and sense.

    entries -> decode (other processes, ahead of the model) -> batches of moments of many films -> model -> films' vectors

Letters: U distinct instants of a piece, T frames of a moment, B moments of a batch, E = the model's embed_dim.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmmixer.config import CuttingSettings
from cmmixer.data.manifest import Entry, readable
from cmmixer.data.moments import Cut, DecodedPiece, Piece, decode_films
from cmmixer.data.skips import Skip
from cmmixer.encoders import Encoder
from cmmixer.errors import InternalError, MediaError
from cmmixer.media.isolate import IsolatedPool
from cmmixer.models.retriever import Embedding
from cmmixer.progress import Progress
from cmmixer.types import Span

Vector = NDArray[np.float32]
# Takes a moment's vector and its frames'.
_Deliver = Callable[[Vector, Vector], None]


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
    video = _Batches(encoder.embed_video, batch_size)
    audio = _Batches(encoder.embed_audio, batch_size)
    open_films: dict[int, _OpenFilm] = {}

    def complete() -> Iterator[EmbeddedFilm]:
        for number in [number for number, film in open_films.items() if film.is_complete]:
            if progress is not None:
                progress.advance()
            yield open_films.pop(number).close()

    going_on = None if progress is None else partial(progress.advance, 0)
    for piece, result in decode_films(entries, cut, workers=workers, pool=pool, going_on=going_on):
        film = open_films.setdefault(piece.number, _OpenFilm(piece))
        film.take(piece, result, cut, video, audio)
        yield from complete()
    video.flush()
    audio.flush()
    yield from complete()


@dataclass
class _Draft:
    """A moment whose vectors are still being made."""

    span: Span
    video: Vector | None = None
    audio: Vector | None = None
    video_frames: Vector | None = None
    audio_frames: Vector | None = None


@dataclass
class _OpenFilm:
    """An entry of which not everything is decoded or embedded yet."""

    piece: Piece
    drafts: list[_Draft] = field(default_factory=list)
    faults: list[MediaError] = field(default_factory=list)
    pieces_due: int = 1
    vectors_due: int = 0

    @property
    def is_complete(self) -> bool:
        return self.pieces_due == 0 and self.vectors_due == 0

    def take(self, piece: Piece, result: DecodedPiece | MediaError, cut: Cut, video: _Batches, audio: _Batches) -> None:
        """Queues the moments of a piece for the model."""
        self.pieces_due -= 1
        if isinstance(result, MediaError):
            self.faults.append(result)
            return
        self.pieces_due += len(result.further)
        self.faults += result.faults
        for place, span in enumerate(result.spans):
            draft = _Draft(span)
            rows = result.instants_MT[place]
            if result.pixels_UCHW is not None:
                self.vectors_due += 1
                video.add(result.pixels_UCHW, rows, self._into(draft, "video"))
            if result.samples_UN is not None and result.heard_M[place]:
                self.vectors_due += 1
                audio.add(result.samples_UN, rows, self._into(draft, "audio"))
            self.drafts.append(draft)

    def _into(self, draft: _Draft, sense: str) -> _Deliver:
        def deliver(vector: Vector, frames: Vector) -> None:
            setattr(draft, sense, vector)
            setattr(draft, f"{sense}_frames", frames)
            self.vectors_due -= 1

        return deliver

    def close(self) -> EmbeddedFilm:
        drafts = [draft for draft in self.drafts if draft.video is not None or draft.audio is not None]
        drafts.sort(key=lambda draft: draft.span.start_seconds)
        moments = [Moment(**vars(draft)) for draft in drafts]
        if not moments and not self.faults:
            self.faults.append(MediaError(self.piece.path, "silent", "it is silent from beginning to end"))
        return EmbeddedFilm(self.piece.number, self.piece.entry, moments, self.faults)


class _Batches:
    """Gathers moments of one sense, whatever films they come from, and hands their vectors back."""

    def __init__(self, embed: Callable[[Tensor], Embedding], size: int) -> None:
        self._embed = embed
        self._size = size
        self._queue: list[tuple[NDArray[Any], NDArray[np.intp], _Deliver]] = []

    def add(self, shared_U: NDArray[Any], rows_T: NDArray[np.intp], deliver: _Deliver) -> None:
        """Queues one moment: the rows of a piece's arrays that make it up, and where its vector goes."""
        self._queue.append((shared_U, rows_T, deliver))
        if len(self._queue) >= self._size:
            self.flush()

    def flush(self) -> None:
        """Embeds what is queued."""
        if not self._queue:
            return
        batch = torch.from_numpy(np.stack([shared[rows] for shared, rows, _ in self._queue]))
        vectors_BE, frames_BTE = (part.detach().to("cpu", torch.float32).numpy() for part in self._embed(batch))
        if not np.isfinite(vectors_BE).all():
            raise InternalError("the model gives vectors that are not finite; take another checkpoint of its run")
        for (_, _, deliver), vector, frames in zip(self._queue, vectors_BE, frames_BTE, strict=True):
            deliver(vector, frames)
        self._queue.clear()


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
