"""Films -> frames at given instants and sound windows around them, through PyAV (FFmpeg). All times in seconds.

with Film.open("film.mp4") as film:
    film.info.duration_seconds
    film.frames(instants, 224, 224)
    film.sound_windows(instants, 2.6, 44100)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from cmmixer.config import ClipSettings
from cmmixer.errors import MediaError
from cmmixer.media.audio import lay_out, loudness_dbfs
from cmmixer.media.container import (
    Deadline,
    StreamReader,
    TimedFrame,
    best_picture,
    best_sound,
    check_file,
    media_errors,
    open_container,
    origin_seconds,
    packet_end_seconds,
)
from cmmixer.media.resize import PictureFitter
from cmmixer.media.timeline import frame_instants
from cmmixer.types import Clip, Frames, SoundWindows, Span

__all__ = ["Film", "FilmInfo", "PictureInfo", "SoundInfo", "loudness_dbfs", "read_clip"]

# Instants are sums of floats; a frame that begins within a microsecond of one is on screen at it.
_SAME_INSTANT_SECONDS = 1e-6

# Without an index to ask, decoding on is cheaper than seeking up to about this far.
_DECODE_ON_SECONDS = 3.0
_NEVER_SEEK_SECONDS = 0.5

# Codecs need what came before to give the right samples: overlapping blocks, bit reservoirs (Opus asks for 80 ms).
_SETTLE_SECONDS = 0.25
_SETTLE_SAMPLES = 4096

# Windows closer to one another than this share one pass.
_SHARE_SECONDS = 1.0

# No codec for sound or moving pictures gets below this; a header that promises more time than its bytes can hold lies.
_FEWEST_BITS_PER_SECOND = 600


@dataclass(frozen=True)
class PictureInfo:
    """The picture stream that is decoded.

    Attributes:
        width, height: stored pixels, before turning and before pixels are made square.
        pixel_aspect: width of a stored pixel divided by its height.
        frames_per_second: average, as the container says; None where it does not.
        codec: FFmpeg's name of the decoder.
        pixel_format: FFmpeg's name of how pixels are stored; empty where the file does not say.
    """

    width: int
    height: int
    pixel_aspect: float
    frames_per_second: float | None
    codec: str
    pixel_format: str = ""


@dataclass(frozen=True)
class SoundInfo:
    """The sound stream that is decoded.

    Attributes:
        sample_rate_hz: as stored.
        channels: as stored.
        codec: FFmpeg's name of the decoder.
    """

    sample_rate_hz: int
    channels: int
    codec: str


@dataclass(frozen=True)
class FilmInfo:
    """What a file holds; at least one of `picture` and `sound` is there.

    Attributes:
        path: as it was given.
        duration_seconds: from the container's start to the end of its longest stream; of a truncated file with an index,
            what is left of it.
        container: FFmpeg's name of the file's format.
    """

    path: str
    duration_seconds: float
    picture: PictureInfo | None
    sound: SoundInfo | None
    container: str = ""


class Film:
    """An open media file. Use it as a context manager; it is not safe to share between threads."""

    def __init__(self, info: FilmInfo, picture: StreamReader | None, sound: StreamReader | None) -> None:
        self.info = info
        self._picture = picture
        self._sound = sound

    @classmethod
    def open(cls, path: str | Path, file_seconds: float = 60.0) -> Self:
        """Opens a film, a silent film, a sound or a still picture.

        Args:
            path: a local file.
            file_seconds: longest time spent on this file from here on; decoding beyond it raises `time-limit`.

        Raises:
            MediaError: the file is missing, empty, not a file or not readable as media.
        """
        name = os.fspath(path)
        checked = check_file(name)
        deadline = Deadline(name, file_seconds)
        with media_errors(name):
            container = open_container(checked, file_seconds)
            try:
                picture, sound = best_picture(container), best_sound(container)
                if picture is None and sound is None:
                    raise MediaError(name, "unreadable", "has neither a picture nor a sound that can be decoded")
                origin = origin_seconds(container)
                duration = _duration_seconds(container, checked, origin, deadline)
                info = FilmInfo(name, duration, _picture_info(picture), _sound_info(sound), container.format.name)
                readers = [
                    None if stream is None else StreamReader(checked, stream.index, origin, deadline)
                    for stream in (picture, sound)
                ]
                next(reader for reader in readers if reader is not None).adopt(container)
            except BaseException:
                container.close()
                raise
        return cls(info, readers[0], readers[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        for reader in (self._picture, self._sound):
            if reader is not None:
                reader.close()

    def frames(
        self,
        instants: Sequence[float] | NDArray[np.float64],
        height: int,
        width: int,
        crop: tuple[float, float] = (0.5, 0.5),
    ) -> Frames:
        """The frame on screen at each instant: the last that began at or before it, or the film's first.

        Args:
            instants: (T,) seconds from the film's beginning, in any order.
            height: H wanted.
            width: W wanted.
            crop: (down, right) offset of the crop after the short side was made to fit; 0.5 is the centre.

        Raises:
            MediaError: `no-picture`, `unreadable` or `time-limit`.
        """
        if self._picture is None or self.info.picture is None:
            raise MediaError(self.info.path, "no-picture", "has no picture, only sound")
        times_T = np.asarray(instants, dtype=np.float64)
        pixels_THWC = np.empty((len(times_T), height, width, 3), np.uint8)
        fitter = PictureFitter(height, width, pixel_aspect=self.info.picture.pixel_aspect, crop=crop)
        with media_errors(self.info.path):
            cursor: _Cursor | None = None
            for place in np.argsort(times_T, kind="stable"):
                instant = float(times_T[place])
                if cursor is None or cursor.better_seek(instant):
                    cursor = _Cursor(self._picture, instant, self.info.path)
                pixels_THWC[place] = fitter.pixels(cursor.frame_at(instant))
        return Frames(pixels_THWC, times_T)

    def sound_windows(
        self, centres: Sequence[float] | NDArray[np.float64], window_seconds: float, sample_rate_hz: int
    ) -> SoundWindows:
        """Mono windows of N = round(window_seconds x sample_rate_hz) samples, the middle of each at its centre.

        A window that reaches beyond the film's sound is zero there; it is never shifted.

        Args:
            centres: (T,) seconds from the film's beginning.
            window_seconds: length of a window.
            sample_rate_hz: wanted rate.

        Raises:
            MediaError: `no-sound`, `unreadable` or `time-limit`.
        """
        if self._sound is None:
            raise MediaError(self.info.path, "no-sound", "has no sound, only a picture")
        centres_T = np.asarray(centres, dtype=np.float64)
        length = round(window_seconds * sample_rate_hz)
        starts_T = np.rint((centres_T - window_seconds / 2) * sample_rate_hz).astype(np.int64)
        samples_TN = np.zeros((len(centres_T), length), np.int16)
        with media_errors(self.info.path):
            for places in _passes(starts_T, length, round(_SHARE_SECONDS * sample_rate_hz)):
                first, last = int(starts_T[places[0]]), int(starts_T[places[-1]]) + length
                stretch = self._stretch(first / sample_rate_hz, last / sample_rate_hz, sample_rate_hz)
                for place in places:
                    offset = int(starts_T[place]) - first
                    samples_TN[place] = stretch[offset : offset + length]
        return SoundWindows(samples_TN, centres_T, sample_rate_hz)

    def pictures_from(self, start_seconds: float) -> Iterator[TimedFrame]:
        """Decoded pictures as they are, the first one on screen at `start_seconds`.

        Raises:
            MediaError: `no-picture`, `unreadable` or `time-limit`; also while it is read.
        """
        if self._picture is None:
            raise MediaError(self.info.path, "no-picture", "has no picture, only sound")
        with media_errors(self.info.path):
            yield from _from_instant(self._picture.frames_from(start_seconds), start_seconds)

    def sound_from(self, start_seconds: float) -> Iterator[TimedFrame]:
        """Decoded sound as it is, the first frame early enough for the codec to have settled by `start_seconds`.

        Raises:
            MediaError: `no-sound`, `unreadable` or `time-limit`; also while it is read.
        """
        if self._sound is None or self.info.sound is None:
            raise MediaError(self.info.path, "no-sound", "has no sound, only a picture")
        settle = max(_SETTLE_SECONDS, _SETTLE_SAMPLES / max(1, self.info.sound.sample_rate_hz))
        with media_errors(self.info.path):
            yield from self._sound.frames_from(start_seconds - settle)

    def _stretch(self, start_seconds: float, end_seconds: float, sample_rate_hz: int) -> NDArray[np.int16]:
        samples = lay_out(self.sound_from(start_seconds), start_seconds, end_seconds, sample_rate_hz)
        if samples is None:
            raise MediaError(self.info.path, "unreadable", "no part of its sound can be decoded")
        return samples


def read_clip(
    path: str | Path,
    span: Span,
    clip: ClipSettings,
    *,
    id: str,  # noqa: A002 - the name of the field it fills
    source: str,
    label: str | None = None,
    audio_path: str | Path | None = None,
    picture: bool = True,
    sound: bool = True,
    file_seconds: float = 60.0,
) -> Clip:
    """Decodes one clip: T frames at the centres of T cells of the span, and a sound window around each.

    Args:
        path: the film; with `audio_path`, only its picture is used.
        span: where the clip lies.
        clip: how many frames, how large, how long the windows are.
        id: of the clip.
        source: the film it counts to when data are split.
        label: class name.
        audio_path: file that holds the sound, when it is not in the film itself.
        picture: whether frames are wanted.
        sound: whether sound windows are wanted.
        file_seconds: longest time spent on each file.

    Raises:
        MediaError: what was wanted is not there or cannot be decoded.
    """
    instants_T = frame_instants(span, clip.frames)
    frames: Frames | None = None
    windows: SoundWindows | None = None
    same_file = audio_path is None
    if picture or (sound and same_file):
        with Film.open(path, file_seconds) as film:
            if picture:
                frames = film.frames(instants_T, clip.height, clip.width)
            if sound and same_file:
                windows = film.sound_windows(instants_T, clip.window_seconds, clip.sample_rate_hz)
    if sound and audio_path is not None:
        with Film.open(audio_path, file_seconds) as film:
            windows = film.sound_windows(instants_T, clip.window_seconds, clip.sample_rate_hz)
    return Clip(id=id, source=source, label=label, span=span, frames=frames, sound=windows)


class _Cursor:
    """Walks forward through the picture stream and knows which frame is on screen."""

    def __init__(self, reader: StreamReader, instant: float, path: str) -> None:
        self._reader = reader
        self._frames = reader.frames_from(instant)
        current = next(self._frames, None)
        if current is None:
            raise MediaError(path, "unreadable", "no part of its picture can be decoded")
        self._current = current
        self._upcoming = next(self._frames, None)

    def frame_at(self, instant: float) -> av.VideoFrame:
        """The last frame that began at or before the instant; instants must not decrease."""
        while self._upcoming is not None and self._upcoming.seconds <= instant + _SAME_INSTANT_SECONDS:
            self._current, self._upcoming = self._upcoming, next(self._frames, None)
        assert isinstance(self._current.frame, av.VideoFrame)
        return self._current.frame

    def better_seek(self, instant: float) -> bool:
        """Is the instant so far ahead that seeking is cheaper than decoding on?"""
        if self._upcoming is None or instant - self._upcoming.seconds < _NEVER_SEEK_SECONDS:
            return False
        key_frame = self._reader.key_frame_between(self._upcoming.seconds, instant)
        return instant - self._upcoming.seconds > _DECODE_ON_SECONDS if key_frame is None else key_frame


def _from_instant(frames: Iterator[TimedFrame], start_seconds: float) -> Iterator[TimedFrame]:
    """Without the frames that were on screen before."""
    current = next(frames, None)
    for upcoming in frames:
        if current is not None and upcoming.seconds > start_seconds + _SAME_INSTANT_SECONDS:
            yield current
        current = upcoming
    if current is not None:
        yield current


def _passes(starts_T: NDArray[np.int64], length: int, share: int) -> list[list[int]]:
    """Windows in order of time, those less than `share` samples apart together."""
    order = [int(place) for place in np.argsort(starts_T, kind="stable")]
    groups = [[order[0]]] if order else []
    for before, place in pairwise(order):
        if starts_T[place] - (starts_T[before] + length) < share:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _picture_info(stream: av.VideoStream | None) -> PictureInfo | None:
    if stream is None:
        return None
    aspect = float(stream.sample_aspect_ratio or 1)
    rate = float(stream.average_rate) if stream.average_rate else None
    usable = aspect if math.isfinite(aspect) and aspect > 0 else 1.0
    context = stream.codec_context
    return PictureInfo(stream.width, stream.height, usable, rate, context.name, context.pix_fmt or "")


def _sound_info(stream: av.AudioStream | None) -> SoundInfo | None:
    if stream is None:
        return None
    return SoundInfo(stream.sample_rate or 0, stream.channels, stream.codec_context.name)


def _duration_seconds(container: InputContainer, path: str, origin: float, deadline: Deadline) -> float:
    """As the container says, if that is possible; else what a look at every packet gives."""
    told = (container.duration or 0) / av.time_base
    believable = 0 < told < container.size * 8 / _FEWEST_BITS_PER_SECOND
    duration = told if believable else packet_end_seconds(path, origin, deadline)
    if "mp4" in container.format.name:
        duration = min(duration, _indexed_seconds(container, origin))
    if not duration > 0:
        raise MediaError(deadline.path, "unreadable", "holds no picture and no sound, only a header")
    return duration


def _indexed_seconds(container: InputContainer, origin: float) -> float:
    """Up to where the file holds what its index promises; infinity unless it was cut off."""
    ends = []
    for stream in container.streams:
        entries = stream.index_entries
        if len(entries) == 0 or stream.time_base is None or stream.type not in ("video", "audio"):
            continue
        if entries[-1].pos + entries[-1].size <= container.size:
            return math.inf
        there = [entry.timestamp for entry in entries if entry.pos + entry.size <= container.size]
        ends.append(float(max(there, default=0) * stream.time_base) - origin)
    return max(ends, default=math.inf)
