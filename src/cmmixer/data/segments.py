"""From a media file to decoded segments: the path that preparing, training, embedding and probing share.

    entry -> stretch (what the layout names of the file) -> spans -> segments (entry + span) -> frames and audio windows

`SegmentSpec` says how entries are cut and what is decoded. `decode_segment` decodes one segment by itself, as a clip for
training. `cmmixer.data.chunks` decodes many overlapping segments of a file together, which is what embedding needs.

No torch is imported here: decoder processes start often.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from cmmixer.config.clip import ClipSettings
from cmmixer.config.data import SILENCE_DBFS
from cmmixer.data.manifest import Entry, clip_id
from cmmixer.data.skips import SkipReport
from cmmixer.errors import MediaError
from cmmixer.media.decode import MediaFile, read_clip
from cmmixer.media.sandbox import map_sandboxed
from cmmixer.media.timeline import clip_spans, even_spans
from cmmixer.progress import NoProgress, Progress
from cmmixer.types import Clip, Span

# A decoder checks its own time limit. Only one that hangs is killed from outside, this much later.
GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class SegmentSpec:
    """How entries are cut into segments, and what is decoded of them.

    Attributes:
        clip: geometry of a segment.
        stride_seconds: distance between the starts of two segments.
        video, audio: the modalities to decode.
        file_seconds: time limit for one file, or for one chunk of a long file.
        even: number of segments spread evenly over each entry; None: one every `stride_seconds`.
        shots: segments end where a shot ends; the next one starts with the next shot. Files without video have no shots.
        full: only segments of a clip's full length that have every modality asked for, as training needs them. Otherwise
            segments reach to the entry's end, an entry shorter than a clip is one short segment, and one modality suffices.
    """

    clip: ClipSettings
    stride_seconds: float
    video: bool = True
    audio: bool = True
    file_seconds: float = 60.0
    even: int | None = None
    shots: bool = False
    full: bool = False

    def __post_init__(self) -> None:
        if self.shots and self.even is not None:
            raise ValueError(f"segments are cut at shots or spread evenly, not both; got shots=True, even={self.even}")


def training_spec(clip: ClipSettings, stride_seconds: float | None, file_seconds: float) -> SegmentSpec:
    """Returns the spec of clips to train on; without a stride they follow one another."""
    stride = clip.clip_seconds if stride_seconds is None else stride_seconds
    return SegmentSpec(clip, stride, file_seconds=file_seconds, full=True)


@dataclass(frozen=True)
class Segment:
    """A span of an entry: enough to decode it."""

    entry: Entry
    span: Span

    @property
    def id(self) -> str:
        """Its id, unique in its data; see `clip_id`."""
        return clip_id(self.entry, self.span)

    @property
    def path(self) -> str:
        """The media file."""
        return self.entry.path


@dataclass(frozen=True)
class OpenEntry:
    """An entry whose files are open. `audio` is the same as `video` unless the audio comes from a file of its own."""

    entry: Entry
    video: MediaFile
    audio: MediaFile

    def stretch(self) -> Span:
        """Returns the stretch of the file that the entry names.

        It ends with the shorter of video and audio file: beyond that, frames would be paired with silence.

        Raises:
            MediaError: `too-short`, if the stretch starts after the file's end.
        """
        duration_seconds = min(self.video.info.duration_seconds, self.audio.info.duration_seconds)
        start = self.entry.start_seconds or 0.0
        end = duration_seconds if self.entry.end_seconds is None else min(self.entry.end_seconds, duration_seconds)
        if not end > start:
            message = f"it lasts {duration_seconds:.2f} s, its stretch begins at {start:.2f} s"
            raise MediaError(self.entry.path, "too-short", message)
        return Span(start, end)

    def missing_modality(self, spec: SegmentSpec) -> MediaError | None:
        """Returns why the entry cannot be used as `spec` asks: a stream that it does not have."""
        missing = []
        if spec.video and self.video.info.video is None:
            missing.append(MediaError(self.video.info.path, "no-video", "has no video stream, only audio"))
        if spec.audio and self.audio.info.audio is None:
            missing.append(MediaError(self.audio.info.path, "no-audio", "has no audio stream, only video"))
        if spec.full:
            return missing[0] if missing else None
        return missing[-1] if len(missing) == spec.video + spec.audio else None


@contextmanager
def open_entry(entry: Entry, file_seconds: float) -> Iterator[OpenEntry]:
    """Opens the files of an entry; both together may take `file_seconds`.

    Raises:
        MediaError: one of them cannot be opened.
    """
    deadline = time.monotonic() + file_seconds
    with ExitStack() as files:
        video = files.enter_context(MediaFile.open(entry.path, file_seconds))
        audio = video
        if entry.audio_path is not None:
            left_seconds = max(0.1, deadline - time.monotonic())
            audio = files.enter_context(MediaFile.open(entry.audio_path, left_seconds))
        yield OpenEntry(entry, video, audio)


def spans_of(stretch: Span, spec: SegmentSpec) -> list[Span]:
    """Cuts a stretch into spans; empty where a full clip is needed and the stretch is shorter."""
    duration_seconds, clip_seconds = stretch.duration_seconds, spec.clip.clip_seconds
    if spec.even is not None:
        spans = even_spans(duration_seconds, clip_seconds, spec.even)
    else:
        loose = not spec.full
        spans = clip_spans(duration_seconds, clip_seconds, spec.stride_seconds, cover_end=loose, keep_short=loose)
    start = stretch.start_seconds
    return [Span(start + span.start_seconds, start + span.end_seconds) for span in spans]


def segments_of(media: OpenEntry, spec: SegmentSpec) -> list[Segment]:
    """Cuts an open entry into segments; at least one.

    Raises:
        MediaError: `too-short`, `no-video` or `no-audio`.
    """
    entry, stretch = media.entry, media.stretch()
    spans = spans_of(stretch, spec)
    if not spans:
        where = "" if entry.key == entry.name else " in the stretch that is used"
        got = f"got {stretch.duration_seconds:.2f} s{where}"
        raise MediaError(entry.path, "too-short", f"{got}, a clip takes {spec.clip.clip_seconds:g} s")
    missing = media.missing_modality(spec)
    if missing is not None:
        raise missing
    return [Segment(entry, span) for span in spans]


def decode_segment(segment: Segment, spec: SegmentSpec) -> Clip:
    """Decodes one segment by itself; its files are opened and closed for it.

    Some decoders carry state from what they decoded before (AAC draws noise from a running generator). Decoded alone, a
    segment is the same bit for bit, whoever asks and in which order.

    Raises:
        MediaError: a modality is missing or cannot be decoded.
    """
    entry = segment.entry
    return read_clip(
        entry.path,
        segment.span,
        spec.clip,
        id=segment.id,
        source=entry.source,
        label=entry.label,
        audio_path=entry.audio_path,
        video=spec.video,
        audio=spec.audio,
        file_seconds=spec.file_seconds,
    )


def is_silent(loudness_dbfs: float, threshold_dbfs: float = SILENCE_DBFS) -> bool:
    """Whether audio of this loudness counts as silence."""
    return loudness_dbfs < threshold_dbfs


def list_segments(
    entries: Iterable[Entry], spec: SegmentSpec, *, workers: int, progress: Progress | None = None
) -> tuple[list[Segment], SkipReport]:
    """Opens every entry in decoder processes and cuts it into segments; nothing is decoded.

    Args:
        entries: as a layout names them.
        spec: how they are cut.
        workers: decoder processes; 0 takes every core.
        progress: advances with every entry.

    Returns:
        The segments in the order of the entries, each once, and the files that were left out.
    """
    progress = progress or NoProgress()
    entries = list(entries)
    progress.start(len(entries), "opening videos")
    segments: list[Segment] = []
    skips = SkipReport()
    seen: set[str] = set()
    measure = partial(_segments_of_entry, spec=spec)
    for entry, result in map_sandboxed(measure, entries, workers=workers, seconds_each=spec.file_seconds):
        progress.advance()
        if isinstance(result, MediaError):
            skips.add(result.path, result.reason, result.message)
            continue
        new = [segment for segment in result if segment.id not in seen]
        if not new:
            skips.add(entry.path, "duplicate", "the same stretch of the same file is listed before")
        seen.update(segment.id for segment in new)
        segments += new
    return segments, skips


def _segments_of_entry(entry: Entry, spec: SegmentSpec) -> list[Segment]:
    """Runs in a decoder process."""
    with open_entry(entry, spec.file_seconds) as media:
        return segments_of(media, spec)


def stretch_seconds(
    entries: Sequence[Entry], *, workers: int, file_seconds: float, progress: Progress
) -> list[float | None]:
    """Measures how long each entry's stretch is, from the containers alone.

    Returns:
        Seconds for each entry; None where it cannot be read. Decoding it reports why.
    """
    measure = partial(_stretch_seconds, file_seconds=file_seconds)
    seconds: list[float | None] = []
    for _, result in map_sandboxed(measure, entries, workers=workers, seconds_each=file_seconds + GRACE_SECONDS):
        seconds.append(None if isinstance(result, MediaError) else result)
        progress.advance()
    return seconds


def _stretch_seconds(entry: Entry, file_seconds: float) -> float:
    """Runs in a decoder process."""
    with open_entry(entry, file_seconds) as media:
        return media.stretch().duration_seconds
