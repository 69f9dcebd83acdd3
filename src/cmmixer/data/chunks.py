"""Segments of media files for embedding, decoded in other processes and in chunks of bounded memory.

Segments overlap and share frame instants, so a chunk decodes each instant once. Unlike a clip for training, a segment may
have one modality only: a silent video has frames, a sound effect has audio, and silent audio counts as none.

No torch is imported here. Letters: M segments of a chunk, U distinct instants of them, T frames, H x W pixels, N samples of
an audio window.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cmmixer.config.clip import ClipSettings
from cmmixer.data.manifest import Entry
from cmmixer.data.segments import GRACE_SECONDS, OpenEntry, SegmentSpec, is_silent, open_entry, spans_of
from cmmixer.errors import MediaError
from cmmixer.media.audio import loudness_dbfs
from cmmixer.media.decode import MediaFile
from cmmixer.media.sandbox import SandboxPool, map_sandboxed
from cmmixer.media.shots import MIN_SHOT_SECONDS, detect_cuts
from cmmixer.media.timeline import frame_instants
from cmmixer.types import Span

# Limits of one chunk: decoded bytes and segments. The chunks waiting for the model hold a few hundred megabytes at most.
_CHUNK_BYTES = 24_000_000
_CHUNK_SEGMENTS = 128
# Shot detection decodes every frame, so it covers at most this much of a video at a time.
_SHOT_STRETCH_SECONDS = 60.0

Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class Chunk:
    """Some segments of one entry, to be decoded together.

    Attributes:
        number: the entry's position in the list.
        entry: the entry.
        first: index of its first segment; for a video that is cut at shots, index of the stretch.
    """

    number: int
    entry: Entry
    first: int = 0

    @property
    def path(self) -> str:
        """The media file; names it in errors."""
        return self.entry.path


@dataclass(frozen=True)
class DecodedSegment:
    """The media of one segment, copied out of its chunk.

    Attributes:
        span: where it lies in the file.
        pixels_TCHW: uint8, or None without video.
        samples_TN: int16, or None without audio or where it is silent.
    """

    span: Span
    pixels_TCHW: NDArray[np.uint8] | None
    samples_TN: NDArray[np.int16] | None


@dataclass(frozen=True)
class DecodedChunk:
    """The segments of a chunk, with each shared frame and audio window stored once.

    Attributes:
        spans: where the M segments lie.
        remaining: `first` of the entry's other chunks; set in its first chunk.
        instants_MT: for each segment, the indices of its instants among the U distinct ones.
        pixels_UCHW: uint8, or None without video.
        samples_UN: int16, or None without audio.
        audible_M: whether any window of a segment is louder than silence.
        errors: modalities that exist but cannot be decoded; the other one is used.
    """

    spans: list[Span]
    remaining: list[int]
    instants_MT: NDArray[np.intp]
    pixels_UCHW: NDArray[np.uint8] | None
    samples_UN: NDArray[np.int16] | None
    audible_M: NDArray[np.bool_]
    errors: list[MediaError]

    def segments(self) -> Iterator[DecodedSegment]:
        """Yields the segments that can be seen or heard."""
        for span, indices_T, audible in zip(self.spans, self.instants_MT, self.audible_M, strict=True):
            pixels = None if self.pixels_UCHW is None else self.pixels_UCHW[indices_T]
            samples = self.samples_UN[indices_T] if audible and self.samples_UN is not None else None
            if pixels is not None or samples is not None:
                yield DecodedSegment(span, pixels, samples)


def decode_chunks(
    entries: Iterable[Entry],
    spec: SegmentSpec,
    *,
    workers: int = 0,
    pool: SandboxPool | None = None,
    check_cancelled: Callable[[], None] | None = None,
) -> Iterator[tuple[Chunk, DecodedChunk | MediaError]]:
    """Decodes entries chunk by chunk in other processes, which run ahead of the consumer by a bounded number of chunks.

    The first chunk of every entry comes in the order of the entries. The remaining chunks of long videos follow when there
    is room, all before the iteration ends.

    Args:
        entries: media files; may be endless.
        spec: how they are cut and what is decoded.
        workers, pool, check_cancelled: see `map_sandboxed`.

    Yields:
        Each chunk with what was decoded, or why nothing of it can be used.
    """
    first_chunks = (Chunk(number, entry) for number, entry in enumerate(entries))
    remaining: deque[Chunk] = deque()

    def upcoming() -> Iterator[Chunk]:
        while True:
            chunk = remaining.popleft() if remaining else next(first_chunks, None)
            if chunk is None:
                return
            yield chunk

    decode = partial(decode_chunk, spec=spec)
    limit_seconds = spec.file_seconds + GRACE_SECONDS
    while True:
        results = map_sandboxed(
            decode,
            upcoming(),
            workers=workers,
            seconds_each=limit_seconds,
            pool=pool,
            check_cancelled=check_cancelled,
        )
        for chunk, result in results:
            if isinstance(result, DecodedChunk):
                remaining.extend(Chunk(chunk.number, chunk.entry, first) for first in result.remaining)
            yield chunk, result
        # The last entries may ask for more chunks after `upcoming` has ended.
        if not remaining:
            return


def decode_chunk(chunk: Chunk, spec: SegmentSpec) -> DecodedChunk:
    """Decodes one chunk. Runs in a decoder process.

    Raises:
        MediaError: nothing of it can be used.
    """
    with open_entry(chunk.entry, spec.file_seconds) as media:
        stretch = media.stretch()
        if spec.shots and media.video.info.video is not None:
            spans, remaining = _spans_within_shots(media.video, stretch, chunk.first, spec)
        else:
            spans, remaining = _spans_of_chunk(stretch, chunk.first, spec)
        instants_U, instants_MT = _distinct_instants(spans, spec.clip.frames)
        pixels, samples, errors = _decode_modalities(media, instants_U, spec)
    audible_U = np.zeros(len(instants_U), bool)
    if samples is not None:
        audible_U[:] = [not is_silent(loudness_dbfs(window)) for window in samples]
    audible_M = np.asarray(audible_U[instants_MT].any(axis=1))
    return DecodedChunk(spans, remaining, instants_MT, pixels, samples, audible_M, errors)


def segments_per_chunk(clip: ClipSettings) -> int:
    """How many segments of this geometry are decoded together."""
    segment_bytes = clip.frames * (3 * clip.height * clip.width + 2 * clip.window_samples)
    return max(1, min(_CHUNK_SEGMENTS, _CHUNK_BYTES // segment_bytes))


def _spans_of_chunk(stretch: Span, first: int, spec: SegmentSpec) -> tuple[list[Span], list[int]]:
    """Returns the spans from index `first` on, and where the other chunks begin."""
    spans, size = spans_of(stretch, spec), segments_per_chunk(spec.clip)
    remaining = list(range(size, len(spans), size)) if first == 0 else []
    return spans[first : first + size], remaining


def _spans_within_shots(video: MediaFile, whole: Span, number: int, spec: SegmentSpec) -> tuple[list[Span], list[int]]:
    """Returns the spans that start in stretch `number` and lie within one shot each, and the numbers of the other stretches.

    A shot that continues into the next stretch is followed for a clip's length, so its spans may end there.
    """
    clip_seconds = spec.clip.clip_seconds
    chunk_seconds = segments_per_chunk(spec.clip) * spec.stride_seconds
    length = min(_SHOT_STRETCH_SECONDS, max(clip_seconds, chunk_seconds))
    count = max(1, math.floor(whole.duration_seconds / length))  # the last one is the longest
    start = whole.start_seconds + number * length
    end = whole.end_seconds if number == count - 1 else start + length
    searched_end = min(whole.end_seconds, end + clip_seconds)
    cuts = detect_cuts(video, start, searched_end)
    if number == 0 and cuts and cuts[0] - start < MIN_SHOT_SECONDS:
        cuts = cuts[1:]
    spans: list[Span] = []
    for index, (shot_start, shot_end) in enumerate(pairwise([start, *cuts, searched_end])):
        # The end of a shot that the stretch before has covered already.
        covered = index == 0 and number > 0 and shot_end - shot_start < clip_seconds
        if not covered:
            within = spans_of(Span(shot_start, shot_end), spec)
            spans += [span for span in within if span.start_seconds < end - 1e-6]
    return spans, list(range(1, count)) if number == 0 else []


def _distinct_instants(spans: list[Span], frames: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Returns the instants of overlapping spans, each once, to the microsecond: (seconds [U], indices [M, T])."""
    instants_MT = np.stack([frame_instants(span, frames) for span in spans]).round(6)
    distinct_U, indices = np.unique(instants_MT, return_inverse=True)
    return distinct_U, indices.reshape(instants_MT.shape)


def _decode_modalities(
    media: OpenEntry, instants_U: NDArray[np.float64], spec: SegmentSpec
) -> tuple[NDArray[np.uint8] | None, NDArray[np.int16] | None, list[MediaError]]:
    """Decodes frames [U, 3, H, W] and audio windows [U, N]; None where not asked for, missing or damaged.

    Raises:
        MediaError: neither modality can be used.
    """
    clip = spec.clip
    errors: list[MediaError] = []
    pixels = samples = None
    if spec.video and media.video.info.video is not None:
        frames = _attempt(lambda: media.video.frames(instants_U, clip.height, clip.width), errors)
        pixels = None if frames is None else np.ascontiguousarray(frames.pixels_THWC.transpose(0, 3, 1, 2))
    if spec.audio and media.audio.info.audio is not None:
        windows = _attempt(
            lambda: media.audio.audio_windows(instants_U, clip.window_seconds, clip.sample_rate_hz), errors
        )
        samples = None if windows is None else windows.samples_TN
    if pixels is None and samples is None:
        missing = media.missing_modality(spec)
        assert errors or missing is not None
        raise errors[0] if errors else missing  # type: ignore[misc]
    return pixels, samples, errors


def _attempt(decode: Callable[[], Decoded], errors: list[MediaError]) -> Decoded | None:
    """Returns what `decode` returns, or None and adds its error; the time limit holds for the whole file and is raised."""
    try:
        return decode()
    except MediaError as error:
        if error.reason == "time-limit":
            raise
        errors.append(error)
        return None
