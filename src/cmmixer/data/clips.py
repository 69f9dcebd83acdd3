"""From entries to clips: every film is opened once, in a process of its own, and cut into spans.

Files that cannot give a clip are left out and listed; nothing that a file contains can stop the run.

How long films are, told by their containers: nothing is decoded, so that a whole list is looked through in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from cmmixer.config.clip import ClipSettings
from cmmixer.data.manifest import Entry, clip_id
from cmmixer.data.moments import stretch_of
from cmmixer.data.skips import SkipReport
from cmmixer.errors import MediaError
from cmmixer.media.decode import Film, read_clip
from cmmixer.media.sandbox import map_isolated
from cmmixer.media.timeline import clip_spans
from cmmixer.progress import NoProgress, Progress
from cmmixer.types import Clip, Span


@dataclass(frozen=True)
class ClipRef:
    """Where a clip lies; enough to decode it.

    Attributes:
        id: unique in its data; see `clip_id`.
        path, audio_path: the film, and the file its sound comes from where that is another one.
        span: where in the film it lies.
        source: the film it was cut from.
        label, split: as the layout has them.
    """

    id: str
    path: str
    audio_path: str | None
    span: Span
    source: str
    label: str | None
    split: str | None = None


def list_clips(
    entries: Iterable[Entry],
    clip: ClipSettings,
    *,
    stride_seconds: float | None,
    file_seconds: float,
    workers: int,
    need_picture: bool = True,
    need_sound: bool = True,
    keep_short: bool = False,
    progress: Progress | None = None,
) -> tuple[list[ClipRef], SkipReport]:
    """Opens every film in decoder processes and cuts it into clips.

    Args:
        entries: what a layout named.
        clip: geometry of a clip.
        stride_seconds: a clip starts every so many seconds; None: the clip's length.
        file_seconds: longest time spent on one file.
        workers: decoder processes; 0 takes every core.
        need_picture, need_sound: a film without it is left out.
        keep_short: a film shorter than a clip gives one shorter clip instead of none.
        progress: told about every film.

    Returns:
        The clips in the order of the entries, and the files left out.
    """
    progress = progress or NoProgress()
    entries = list(entries)
    progress.start(len(entries), "opening films")
    refs: list[ClipRef] = []
    skips = SkipReport()
    seen: set[str] = set()
    measure = partial(
        measure_entry,
        clip=clip,
        stride_seconds=stride_seconds,
        file_seconds=file_seconds,
        need_picture=need_picture,
        need_sound=need_sound,
        keep_short=keep_short,
    )
    for entry, result in map_isolated(measure, entries, workers=workers, seconds_each=file_seconds):
        progress.advance()
        if isinstance(result, MediaError):
            skips.add(result.path, result.reason, result.message)
            continue
        fresh = [ref for ref in (clip_ref(entry, span) for span in result) if ref.id not in seen]
        if not fresh:
            skips.add(entry.path, "duplicate", "the same stretch of the same file is listed before")
        seen.update(ref.id for ref in fresh)
        refs += fresh
    return refs, skips


def clip_ref(entry: Entry, span: Span) -> ClipRef:
    """The clip that a span cuts out of an entry."""
    name = clip_id(entry, span)
    return ClipRef(name, entry.path, entry.audio_path, span, entry.source, entry.label, entry.split)


def read_ref(
    ref: ClipRef, clip: ClipSettings, *, file_seconds: float, picture: bool = True, sound: bool = True
) -> Clip:
    """Decodes a clip.

    Raises:
        MediaError: it cannot be decoded.
    """
    return read_clip(
        ref.path,
        ref.span,
        clip,
        id=ref.id,
        source=ref.source,
        label=ref.label,
        audio_path=ref.audio_path,
        picture=picture,
        sound=sound,
        file_seconds=file_seconds,
    )


def measure_entry(
    entry: Entry,
    *,
    clip: ClipSettings,
    stride_seconds: float | None,
    file_seconds: float,
    need_picture: bool = True,
    need_sound: bool = True,
    keep_short: bool = False,
) -> list[Span]:
    """Opens a film and says which clips it gives. Runs in a decoder process.

    Raises:
        MediaError: the film, or the file of its sound, cannot be used; carries the reason.
    """
    with open_entry(entry, file_seconds) as (film, sound):
        if need_picture and film.info.picture is None:
            raise MediaError(entry.path, "no-picture", "has no picture, and pictures are needed")
        if need_sound and sound.info.sound is None:
            raise MediaError(sound.info.path, "no-sound", "has no sound, and sound is needed")
        return entry_spans(entry, film, sound, clip, stride_seconds, keep_short=keep_short)


@contextmanager
def open_entry(entry: Entry, file_seconds: float) -> Iterator[tuple[Film, Film]]:
    """The film of an entry and the film its sound comes from; most often one and the same.

    Raises:
        MediaError: one of them cannot be opened.
    """
    with ExitStack() as stack:
        film = stack.enter_context(Film.open(entry.path, file_seconds))
        if entry.audio_path is None:
            yield film, film
        else:
            yield film, stack.enter_context(Film.open(entry.audio_path, file_seconds))


def entry_spans(
    entry: Entry, film: Film, sound: Film, clip: ClipSettings, stride_seconds: float | None, *, keep_short: bool = False
) -> list[Span]:
    """Spans of a film's clips: full clips, `stride_seconds` apart, from the stretch's start on.

    Raises:
        MediaError: the stretch is shorter than a clip ("too-short").
    """
    # Beyond the end of its sound file a film would be paired with silence.
    duration_seconds = min(film.info.duration_seconds, sound.info.duration_seconds)
    start = entry.start_seconds or 0.0
    end = duration_seconds if entry.end_seconds is None else min(entry.end_seconds, duration_seconds)
    stride = clip.clip_seconds if stride_seconds is None else stride_seconds
    spans = clip_spans(end - start, clip.clip_seconds, stride, keep_short=keep_short) if end > start else []
    if not spans:
        got = f"got {max(end - start, 0.0):.2f} s" + ("" if entry.key == entry.name else " in the stretch that is used")
        raise MediaError(entry.path, "too-short", f"{got}, a clip takes {clip.clip_seconds:g} s")
    return [Span(start + span.start_seconds, start + span.end_seconds) for span in spans]


# As where films are decoded: a file that hangs its reader is ended from outside, a little later than it should give up.
_GRACE_SECONDS = 5.0


def entry_seconds(
    entries: Sequence[Entry], *, workers: int, file_seconds: float, progress: Progress
) -> list[float | None]:
    """Length of every entry: of its stretch of the film, and of the shorter of film and sound file.

    None where it cannot be read; whoever decodes it will say why.
    """
    measure = partial(_seconds, file_seconds=file_seconds)
    found: list[float | None] = []
    for _, result in map_isolated(measure, entries, workers=workers, seconds_each=file_seconds + _GRACE_SECONDS):
        found.append(None if isinstance(result, MediaError) else result)
        progress.advance()
    return found


def _seconds(entry: Entry, file_seconds: float) -> float:
    """Runs in a decoder process.

    Raises:
        MediaError: it cannot be opened, or its stretch lies behind its end.
    """
    deadline = time.monotonic() + file_seconds
    with ExitStack() as files:
        film = files.enter_context(Film.open(entry.path, file_seconds))
        seconds = film.info.duration_seconds
        if entry.audio_path is not None:
            sound = files.enter_context(Film.open(entry.audio_path, max(0.1, deadline - time.monotonic())))
            seconds = min(seconds, sound.info.duration_seconds)
    return stretch_of(entry, seconds).duration_seconds
