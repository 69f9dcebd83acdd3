"""Clips decoded once into memory-mapped files, for a training that visits them many times, with one modality or both.

Letters: R clips, T frames, C = 3 colour channels, H x W pixels, N samples of an audio window, S = 2 modalities.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cmmixer.config.clip import ClipSettings
from cmmixer.data.chunks import DecodedChunk, decode_chunks
from cmmixer.data.manifest import Entry, clip_id
from cmmixer.data.segments import SegmentSpec
from cmmixer.data.skips import Skip, SkipReport
from cmmixer.errors import DataError, MediaError
from cmmixer.media.timeline import SLACK_SECONDS, frame_instants
from cmmixer.progress import Progress
from cmmixer.storage.files import explain_full_disk
from cmmixer.types import AudioWindows, Clip, Frames, Span


@dataclass(frozen=True)
class MemmapClips:
    """A `ClipDataset` over memory-mapped files, or over some of their rows.

    Attributes:
        clip: geometry of a clip.
        spans, ids, sources: of the R clips.
        files_R: for each clip, the index of its entry.
        present_RS: whether a clip has video, and audio; a missing one is black or silent here.
        pixels_RTCHW: uint8; a single black pixel each where video was not asked for.
        samples_RTN: int16; a single sample each where audio was not asked for.
        skips: files left out, wholly or in part.
        chosen: the rows of the files that the clips stand for; None: all of them.
    """

    clip: ClipSettings
    spans: list[Span]
    ids: list[str]
    sources: list[str]
    files_R: NDArray[np.int64]
    present_RS: NDArray[np.bool_]
    pixels_RTCHW: NDArray[np.uint8]
    samples_RTN: NDArray[np.int16]
    skips: SkipReport
    chosen: NDArray[np.int64] | None = field(default=None, repr=False)

    @property
    def labels(self) -> list[str | None]:
        """None for every clip: the classes belong to the files."""
        return [None] * len(self)

    @property
    def is_short(self) -> NDArray[np.bool_]:
        """Whether each clip is shorter than `clip.clip_seconds`, because its file is."""
        min_seconds = self.clip.clip_seconds - SLACK_SECONDS
        return np.array([span.duration_seconds < min_seconds for span in self.spans], bool)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Clip:
        """Returns one clip."""
        row = index if self.chosen is None else int(self.chosen[index])
        times_T = frame_instants(self.spans[index], self.clip.frames)
        return Clip(
            id=self.ids[index],
            source=self.sources[index],
            label=None,
            span=self.spans[index],
            frames=Frames(self.pixels_RTCHW[row].transpose(0, 2, 3, 1), times_T),
            sound=AudioWindows(self.samples_RTN[row], times_T, self.clip.sample_rate_hz),
        )

    def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
        """Returns clips in the order of `indices`."""
        return [self[index] for index in indices]

    def rows(self, rows: NDArray[np.int64]) -> MemmapClips:
        """Returns some of the clips, in the order of `rows`; no pixels or samples are copied."""
        chosen = rows if self.chosen is None else self.chosen[rows]
        picked = [int(row) for row in rows]
        return MemmapClips(
            self.clip,
            [self.spans[row] for row in picked],
            [self.ids[row] for row in picked],
            [self.sources[row] for row in picked],
            self.files_R[rows],
            self.present_RS[rows],
            self.pixels_RTCHW,
            self.samples_RTN,
            self.skips,
            chosen,
        )


@dataclass(frozen=True)
class _Row:
    """One clip in the files: the index of its entry, and what it has."""

    number: int
    span: Span
    has_video: bool
    has_audio: bool


def decode_to_memmap(
    entries: Sequence[Entry],
    clip: ClipSettings,
    folder: Path,
    *,
    even: int,
    video: bool,
    audio: bool,
    workers: int,
    file_seconds: float,
    progress: Progress,
) -> MemmapClips:
    """Decodes clips spread evenly over every entry into files in `folder`; memory holds one chunk at a time.

    Args:
        entries: media files.
        clip: geometry of a clip.
        folder: where the files are written; made if missing.
        even: clips per entry.
        video, audio: the modalities to decode.
        workers: decoder processes; 0 takes every core.
        file_seconds: time limit for one file.
        progress: advances with every entry.

    Raises:
        DataError: the disk is full, or no entry gives a clip.
    """
    spec = SegmentSpec(clip, clip.clip_seconds, video, audio, file_seconds, even)
    pixels_shape = (clip.frames, 3, clip.height, clip.width) if video else (clip.frames, 3, 1, 1)
    samples_shape = (clip.frames, clip.window_samples if audio else 1)
    rows: list[_Row] = []
    errors: dict[int, list[MediaError]] = defaultdict(list)
    started: set[int] = set()
    with explain_full_disk(folder, DataError), ExitStack() as files:
        folder.mkdir(parents=True, exist_ok=True)
        pixels_file = files.enter_context((folder / "pixels").open("wb"))
        samples_file = files.enter_context((folder / "samples").open("wb"))
        for chunk, result in decode_chunks(entries, spec, workers=workers):
            if chunk.number not in started:
                started.add(chunk.number)
                progress.advance()
            if isinstance(result, MediaError):
                errors[chunk.number].append(result)
                continue
            errors[chunk.number] += result.errors
            for index, span in enumerate(result.spans):
                row = _Row(chunk.number, span, result.pixels_UCHW is not None, bool(result.audible_M[index]))
                if row.has_video or row.has_audio:
                    rows.append(row)
                    _write(pixels_file, _of_segment(result, index, result.pixels_UCHW), pixels_shape, np.uint8)
                    _write(samples_file, _of_segment(result, index, result.samples_UN), samples_shape, np.int16)
    skips = _skips(entries, rows, errors)
    if not rows:
        raise DataError(f"no file gives a clip; {skips.summary}")
    clips = MemmapClips(
        clip,
        [row.span for row in rows],
        # Numbered, because a file may be listed twice, with different labels.
        [f"{row.number}/{clip_id(entries[row.number], row.span)}" for row in rows],
        [entries[row.number].source for row in rows],
        np.array([row.number for row in rows], np.int64),
        np.array([[row.has_video, row.has_audio] for row in rows], bool),
        np.memmap(folder / "pixels", np.uint8, "r", shape=(len(rows), *pixels_shape)),
        np.memmap(folder / "samples", np.int16, "r", shape=(len(rows), *samples_shape)),
        skips,
    )
    # The remaining chunks of long videos come whenever a decoder is free; a resumed training needs one fixed order.
    order = sorted(range(len(rows)), key=lambda index: (rows[index].number, rows[index].span.start_seconds))
    return clips.rows(np.array(order))


def _of_segment(chunk: DecodedChunk, index: int, values_U: NDArray[Any] | None) -> NDArray[Any] | None:
    return None if values_U is None else values_U[chunk.instants_MT[index]]


def _write(file: IO[bytes], values: NDArray[Any] | None, shape: tuple[int, ...], dtype: type[Any]) -> None:
    file.write((np.zeros(shape, dtype) if values is None else values.astype(dtype, copy=False)).tobytes())


def _skips(entries: Sequence[Entry], rows: Iterable[_Row], errors: dict[int, list[MediaError]]) -> SkipReport:
    used = {row.number for row in rows}
    skips = SkipReport()
    for number, entry in enumerate(entries):
        found = errors.get(number, [])
        if found and number in used:
            message = f"{found[0].message}; the rest of it is used"
            skips.add_skip(Skip.of(MediaError(found[0].path, found[0].reason, message)))
        elif found:
            skips.add_skip(Skip.of(found[0]))
        elif number not in used:
            skips.add(entry.path, "silent", "its audio was asked for and is silent throughout")
    return skips
