"""Films into moments, decoded in other processes and in bounded pieces. No torch is imported here.

A moment is a stretch of a film as long as a clip; moments overlap and reach to the film's end, and what is shorter than a
clip is one moment of its own length. Unlike a clip for training it may have one sense only: a silent film has pictures, a
sound effect has sound, and where a film's sound is silent there is nothing to hear.

Letters: M moments of a piece, U distinct instants of them, T frames, H x W pixels, N samples of a sound window.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cmmixer.config.clip import ClipSettings
from cmmixer.data.manifest import Entry
from cmmixer.errors import MediaError
from cmmixer.media.decode import Film, loudness_dbfs
from cmmixer.media.sandbox import IsolatedPool, map_isolated
from cmmixer.media.shots import SHORTEST_SHOT_SECONDS, cut_instants
from cmmixer.media.timeline import clip_spans, even_spans, frame_instants
from cmmixer.types import Span

# A moment whose every window stays below this has no sound; the same floor as `cmmixer prepare`'s --silence_dbfs.
SILENCE_DBFS = -60.0
# Decoded pictures and samples of one piece; with the pieces that wait for the model some hundreds of megabytes at most.
_PIECE_BYTES = 24_000_000
_PIECE_MOMENTS = 128
# The decoder looks at its own clock and says in time that it gives up; only one that hangs is ended from outside.
_GRACE_SECONDS = 5.0
# Looking for shots decodes every frame, so a film is looked at in stretches no longer than this.
_SHOT_STRETCH_SECONDS = 60.0

Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class Cut:
    """How films are cut and what is decoded of them.

    Attributes:
        clip: geometry of a moment.
        stride_seconds: a moment starts every so many seconds.
        picture, sound: whether this sense is wanted.
        file_seconds: longest time spent on one piece of a file (all of a film of a few minutes is one piece).
        even: so many moments evenly over each film instead of one every `stride_seconds`.
        shots: moments end where a shot ends, and begin anew with the next; a film without picture has none.
    """

    clip: ClipSettings
    stride_seconds: float
    picture: bool = True
    sound: bool = True
    file_seconds: float = 60.0
    even: int | None = None
    shots: bool = False

    @property
    def piece_moments(self) -> int:
        """How many moments are decoded at a time."""
        clip = self.clip
        moment_bytes = clip.frames * (3 * clip.height * clip.width + 2 * clip.window_samples)
        return max(1, min(_PIECE_MOMENTS, _PIECE_BYTES // moment_bytes))

    @property
    def stretch_seconds(self) -> float:
        """How much of a film is looked at for shots at a time."""
        return min(_SHOT_STRETCH_SECONDS, max(self.clip.clip_seconds, self.piece_moments * self.stride_seconds))


@dataclass(frozen=True)
class Piece:
    """Some moments of one entry, to be decoded together.

    Attributes:
        number: the entry's place in the list.
        entry: the film or the stretch of it.
        first: number of its first moment; of a film that is cut by shots, number of the stretch.
    """

    number: int
    entry: Entry
    first: int = 0

    @property
    def path(self) -> str:
        """Names the file in errors."""
        return self.entry.path


@dataclass(frozen=True)
class MomentMedia:
    """A moment, decoded and not yet embedded; it holds its own copy of what moments share.

    Attributes:
        span: where it is.
        pixels_TCHW: uint8, or None where it has no picture.
        samples_TN: int16, or None where it has no sound or is silent.
    """

    span: Span
    pixels_TCHW: NDArray[np.uint8] | None
    samples_TN: NDArray[np.int16] | None


@dataclass(frozen=True)
class DecodedPiece:
    """The moments of a piece. Moments share instants, so each picture and window is kept once.

    Attributes:
        spans: where the M moments lie.
        further: where the entry's other pieces begin; told by its first piece.
        instants_MT: for each moment the places of its instants among the U distinct ones.
        pixels_UCHW: uint8, or None without picture.
        samples_UN: int16, or None without sound.
        heard_M: whether any window of a moment is above the silence floor.
        faults: a sense that is there but cannot be decoded; the other one is used.
    """

    spans: list[Span]
    further: list[int]
    instants_MT: NDArray[np.intp]
    pixels_UCHW: NDArray[np.uint8] | None
    samples_UN: NDArray[np.int16] | None
    heard_M: NDArray[np.bool_]
    faults: list[MediaError]

    def media(self) -> Iterator[MomentMedia]:
        """The moments that can be seen or heard, one by one."""
        for span, places_T, heard in zip(self.spans, self.instants_MT, self.heard_M, strict=True):
            pixels = None if self.pixels_UCHW is None else self.pixels_UCHW[places_T]
            samples = self.samples_UN[places_T] if heard and self.samples_UN is not None else None
            if pixels is not None or samples is not None:
                yield MomentMedia(span, pixels, samples)


def decode_films(
    entries: Iterable[Entry],
    cut: Cut,
    *,
    workers: int = 0,
    pool: IsolatedPool | None = None,
    going_on: Callable[[], None] | None = None,
) -> Iterator[tuple[Piece, DecodedPiece | MediaError]]:
    """Decodes entries piece by piece in isolated processes, which run ahead of the consumer by a bounded number of pieces.

    The first piece of every entry comes in the order of the entries; the further pieces of long films follow when there
    is room, all before the iteration ends. `going_on` as in `map_isolated`.
    """
    fresh = (Piece(number, entry) for number, entry in enumerate(entries))
    more: deque[Piece] = deque()

    def upcoming() -> Iterator[Piece]:
        while True:
            piece = more.popleft() if more else next(fresh, None)
            if piece is None:
                return
            yield piece

    decode = partial(decode_piece, cut=cut)
    limit = cut.file_seconds + _GRACE_SECONDS
    while True:
        results = map_isolated(decode, upcoming(), workers=workers, seconds_each=limit, pool=pool, going_on=going_on)
        for piece, result in results:
            if isinstance(result, DecodedPiece):
                more.extend(Piece(piece.number, piece.entry, first) for first in result.further)
            yield piece, result
        # Pieces that the very last films asked for, after the source above had run dry.
        if not more:
            return


def decode_piece(piece: Piece, cut: Cut) -> DecodedPiece:
    """Decodes one piece. Runs in a decoder process.

    Raises:
        MediaError: nothing of the file can be used.
    """
    entry = piece.entry
    deadline = time.monotonic() + cut.file_seconds
    with ExitStack() as files:
        film = files.enter_context(Film.open(entry.path, cut.file_seconds))
        sound_film = film
        if entry.audio_path is not None:
            sound_film = files.enter_context(Film.open(entry.audio_path, max(0.1, deadline - time.monotonic())))
        whole = stretch_of(entry, min(film.info.duration_seconds, sound_film.info.duration_seconds))
        if cut.shots and film.info.picture is not None:
            chosen, further = _moments_of_shots(film, whole, piece.first, cut)
        else:
            chosen, further = _moments_of_piece(whole, piece.first, cut)
        instants_U, instants_MT = _distinct_instants(chosen, cut.clip.frames)
        pixels, samples, faults = _decode_senses(film, sound_film, instants_U, cut)
    heard_U = np.zeros(len(instants_U), bool)
    if samples is not None:
        heard_U[:] = [loudness_dbfs(window) > SILENCE_DBFS for window in samples]
    heard_M = np.asarray(heard_U[instants_MT].any(axis=1))
    return DecodedPiece(chosen, further, instants_MT, pixels, samples, heard_M, faults)


def stretch_of(entry: Entry, duration_seconds: float) -> Span:
    """What of a film of this length its layout names.

    Raises:
        MediaError: it lies behind the film's end.
    """
    start = entry.start_seconds or 0.0
    end = duration_seconds if entry.end_seconds is None else min(entry.end_seconds, duration_seconds)
    if not end > start:
        raise MediaError(
            entry.path, "too-short", f"it lasts {duration_seconds:.2f} s, its stretch begins at {start:.2f} s"
        )
    return Span(start, end)


def _moments_of_piece(whole: Span, first: int, cut: Cut) -> tuple[list[Span], list[int]]:
    """Moments from number `first` on, and where the other pieces begin."""
    if cut.even is None:
        spans = _within(whole, cut)
    else:
        spans = _moved(even_spans(whole.duration_seconds, cut.clip.clip_seconds, cut.even), whole.start_seconds)
    further = list(range(cut.piece_moments, len(spans), cut.piece_moments)) if first == 0 else []
    return spans[first : first + cut.piece_moments], further


def _moments_of_shots(film: Film, whole: Span, number: int, cut: Cut) -> tuple[list[Span], list[int]]:
    """Moments that begin in stretch `number` and lie within one shot each, and the numbers of the other stretches.

    A shot that runs on into the next stretch is followed for a clip's length: its moments may end there.
    """
    length = cut.stretch_seconds
    count = max(1, math.floor(whole.duration_seconds / length))  # the last one is the longest
    start = whole.start_seconds + number * length
    behind = whole.end_seconds if number == count - 1 else start + length
    seen_until = min(whole.end_seconds, behind + cut.clip.clip_seconds)
    cuts = cut_instants(film, start, seen_until)
    if number == 0 and cuts and cuts[0] - start < SHORTEST_SHOT_SECONDS:
        cuts = cuts[1:]
    edges = [start, *cuts, seen_until]
    spans: list[Span] = []
    for place, (begin, end) in enumerate(pairwise(edges)):
        # What is left of a shot that the stretch before has followed to its end already.
        followed = place == 0 and number > 0 and end - begin < cut.clip.clip_seconds
        if not followed:
            spans += [span for span in _within(Span(begin, end), cut) if span.start_seconds < behind - 1e-6]
    return spans, list(range(1, count)) if number == 0 else []


def _within(stretch: Span, cut: Cut) -> list[Span]:
    spans = clip_spans(
        stretch.duration_seconds, cut.clip.clip_seconds, cut.stride_seconds, cover_end=True, keep_short=True
    )
    return _moved(spans, stretch.start_seconds)


def _moved(spans: list[Span], by_seconds: float) -> list[Span]:
    return [Span(by_seconds + span.start_seconds, by_seconds + span.end_seconds) for span in spans]


def _distinct_instants(spans: list[Span], frames: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The instants of overlapping moments, each once, to the microsecond: (seconds [U], places [M, T])."""
    instants_MT = np.stack([frame_instants(span, frames) for span in spans]).round(6)
    distinct_U, places = np.unique(instants_MT, return_inverse=True)
    return distinct_U, places.reshape(instants_MT.shape)


def _decode_senses(
    film: Film, sound_film: Film, instants_U: NDArray[np.float64], cut: Cut
) -> tuple[NDArray[np.uint8] | None, NDArray[np.int16] | None, list[MediaError]]:
    """Pictures [U, 3, H, W] and windows [U, N], each None where it is not wanted, not there or damaged; and the damage.

    Raises:
        MediaError: neither can be had.
    """
    clip = cut.clip
    faults: list[MediaError] = []
    pixels = samples = None
    if cut.picture and film.info.picture is not None:
        frames = _attempt(lambda: film.frames(instants_U, clip.height, clip.width), faults)
        pixels = None if frames is None else np.ascontiguousarray(frames.pixels_THWC.transpose(0, 3, 1, 2))
    if cut.sound and sound_film.info.sound is not None:
        windows = _attempt(
            lambda: sound_film.sound_windows(instants_U, clip.window_seconds, clip.sample_rate_hz), faults
        )
        samples = None if windows is None else windows.samples_TN
    if pixels is None and samples is None:
        raise faults[0] if faults else _lacking(film, sound_film, cut)
    return pixels, samples, faults


def _attempt(decode: Callable[[], Decoded], faults: list[MediaError]) -> Decoded | None:
    """What it gives, or None with the fault noted; time that has run out is the whole file's fault."""
    try:
        return decode()
    except MediaError as error:
        if error.reason == "time-limit":
            raise
        faults.append(error)
        return None


def _lacking(film: Film, sound_film: Film, cut: Cut) -> MediaError:
    if cut.picture and not cut.sound:
        return MediaError(film.info.path, "no-picture", "has no picture, only sound")
    return MediaError(sound_film.info.path, "no-sound", "has no sound, only a picture")
