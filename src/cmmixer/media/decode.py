"""Decodes media files with PyAV (FFmpeg): frames at given instants, and audio windows around them.

    with MediaFile.open("video.mp4") as media:
        media.info.duration_seconds
        media.frames(instants, 224, 224)
        media.audio_windows(instants, 2.6, 44100)

All times are seconds from the start of the file. Letters: T instants, H x W pixels, N samples of a window.
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
from numpy.typing import NDArray

from cmmixer.config import ClipSettings
from cmmixer.errors import MediaError
from cmmixer.media.audio import assemble_mono
from cmmixer.media.container import (
    Deadline,
    StreamReader,
    TimedFrame,
    best_audio_stream,
    best_video_stream,
    check_file,
    duration_seconds,
    media_errors,
    open_container,
    origin_seconds,
)
from cmmixer.media.resize import FrameFitter
from cmmixer.media.timeline import frame_instants
from cmmixer.types import AudioWindows, Clip, Frames, Span

# Instants are sums of floats; a frame that begins within a microsecond of one is on screen at it.
_SAME_INSTANT_SECONDS = 1e-6

# Where the container has no index, decoding forward is cheaper than seeking up to about this distance.
_DECODE_FORWARD_SECONDS = 3.0
_NEVER_SEEK_SECONDS = 0.5

# Codecs need earlier packets to give exact samples: overlapping blocks, bit reservoirs (Opus asks for 80 ms).
_SETTLE_SECONDS = 0.25
_SETTLE_SAMPLES = 4096

# Windows closer together than this are decoded in one pass.
_SHARED_PASS_SECONDS = 1.0


@dataclass(frozen=True)
class VideoStreamInfo:
    """The video stream that is decoded.

    Attributes:
        width, height: stored pixels, before rotation and before pixels are made square.
        pixel_aspect: width of a stored pixel divided by its height.
        frames_per_second: average, as stated by the container; None if it states none.
        codec: FFmpeg's name of the decoder.
        pixel_format: FFmpeg's name of the pixel format; empty if unknown.
    """

    width: int
    height: int
    pixel_aspect: float
    frames_per_second: float | None
    codec: str
    pixel_format: str = ""


@dataclass(frozen=True)
class AudioStreamInfo:
    """The audio stream that is decoded.

    Attributes:
        sample_rate_hz: as stored.
        channels: as stored.
        codec: FFmpeg's name of the decoder.
    """

    sample_rate_hz: int
    channels: int
    codec: str


@dataclass(frozen=True)
class MediaInfo:
    """The contents of a media file; at least one of `video` and `audio` is present.

    Attributes:
        path: as passed to `MediaFile.open`.
        duration_seconds: from the container's start to the end of its longest stream. For a truncated file with an index,
            the part that is left.
        video: the video stream, if any.
        audio: the audio stream, if any.
        container: FFmpeg's name of the container format.
    """

    path: str
    duration_seconds: float
    video: VideoStreamInfo | None
    audio: AudioStreamInfo | None
    container: str = ""


class MediaFile:
    """An open video or sound. Use it as a context manager; it must not be shared between threads."""

    def __init__(self, info: MediaInfo, video: StreamReader | None, audio: StreamReader | None) -> None:
        self.info = info
        self._video = video
        self._audio = audio

    @classmethod
    def open(cls, path: str | Path, file_seconds: float = 60.0) -> Self:
        """Opens a video (with or without audio), an audio file or a still image.

        Args:
            path: a local file.
            file_seconds: time limit for all work on this file, from now on; decoding beyond it raises `time-limit`.

        Raises:
            MediaError: the file is missing, empty, not a regular file, or not readable as media.
        """
        name = os.fspath(path)
        checked = check_file(name)
        deadline = Deadline(name, file_seconds)
        with media_errors(name):
            container = open_container(checked, file_seconds)
            try:
                video, audio = best_video_stream(container), best_audio_stream(container)
                if video is None and audio is None:
                    raise MediaError(name, "unreadable", "has neither video nor audio that can be decoded")
                origin = origin_seconds(container)
                duration = duration_seconds(container, checked, origin, deadline)
                info = MediaInfo(name, duration, _video_info(video), _audio_info(audio), container.format.name)
                readers = [
                    None if stream is None else StreamReader(checked, stream.index, origin, deadline)
                    for stream in (video, audio)
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
        for reader in (self._video, self._audio):
            if reader is not None:
                reader.close()

    def frames(
        self,
        instants: Sequence[float] | NDArray[np.float64],
        height: int,
        width: int,
        crop: tuple[float, float] = (0.5, 0.5),
    ) -> Frames:
        """Returns the frame on screen at each instant: the last to begin at or before it, or the first of the video.

        Args:
            instants: (T,) seconds from the start of the video, in any order.
            height: H.
            width: W.
            crop: (down, right) offset of the crop after the short side was scaled to fit; 0.5 is the center.

        Raises:
            MediaError: `no-video`, `unreadable` or `time-limit`.
        """
        reader, stream = self._need_video()
        times_T = np.asarray(instants, dtype=np.float64)
        pixels_THWC = np.empty((len(times_T), height, width, 3), np.uint8)
        fitter = FrameFitter(height, width, pixel_aspect=stream.pixel_aspect, crop=crop)
        with media_errors(self.info.path):
            cursor: _Cursor | None = None
            for index in np.argsort(times_T, kind="stable"):
                instant = float(times_T[index])
                if cursor is None or cursor.better_seek(instant):
                    cursor = _Cursor(reader, instant, self.info.path)
                pixels_THWC[index] = fitter.pixels(cursor.frame_at(instant))
        return Frames(pixels_THWC, times_T)

    def audio_windows(
        self, centers: Sequence[float] | NDArray[np.float64], window_seconds: float, sample_rate_hz: int
    ) -> AudioWindows:
        """Returns mono windows of N = round(window_seconds x sample_rate_hz) samples, each centered on an instant.

        Samples outside the audio stream are zero; a window is never shifted to fit.

        Args:
            centers: (T,) seconds from the start of the file.
            window_seconds: length of a window.
            sample_rate_hz: rate of the returned samples.

        Raises:
            MediaError: `no-audio`, `unreadable` or `time-limit`.
        """
        self._need_audio()
        centers_T = np.asarray(centers, dtype=np.float64)
        length = round(window_seconds * sample_rate_hz)
        starts_T = np.rint((centers_T - window_seconds / 2) * sample_rate_hz).astype(np.int64)
        samples_TN = np.zeros((len(centers_T), length), np.int16)
        with media_errors(self.info.path):
            for indices in _passes(starts_T, length, round(_SHARED_PASS_SECONDS * sample_rate_hz)):
                first, last = int(starts_T[indices[0]]), int(starts_T[indices[-1]]) + length
                stretch = self._mono_samples(first / sample_rate_hz, last / sample_rate_hz, sample_rate_hz)
                for index in indices:
                    offset = int(starts_T[index]) - first
                    samples_TN[index] = stretch[offset : offset + length]
        return AudioWindows(samples_TN, centers_T, sample_rate_hz)

    def video_frames_from(self, start_seconds: float) -> Iterator[TimedFrame]:
        """Yields decoded frames without any conversion, beginning with the one on screen at `start_seconds`.

        Raises:
            MediaError: `no-video`, `unreadable` or `time-limit`; also during iteration.
        """
        reader, _ = self._need_video()
        with media_errors(self.info.path):
            yield from _from_instant(reader.frames_from(start_seconds), start_seconds)

    def audio_frames_from(self, start_seconds: float) -> Iterator[TimedFrame]:
        """Yields decoded audio without any conversion, beginning early enough for the codec to settle by `start_seconds`.

        Raises:
            MediaError: `no-audio`, `unreadable` or `time-limit`; also during iteration.
        """
        reader, stream = self._need_audio()
        settle = max(_SETTLE_SECONDS, _SETTLE_SAMPLES / max(1, stream.sample_rate_hz))
        with media_errors(self.info.path):
            yield from reader.frames_from(start_seconds - settle)

    def _need_video(self) -> tuple[StreamReader, VideoStreamInfo]:
        if self._video is None or self.info.video is None:
            raise MediaError(self.info.path, "no-video", "has no video stream, only audio")
        return self._video, self.info.video

    def _need_audio(self) -> tuple[StreamReader, AudioStreamInfo]:
        if self._audio is None or self.info.audio is None:
            raise MediaError(self.info.path, "no-audio", "has no audio stream, only video")
        return self._audio, self.info.audio

    def _mono_samples(self, start_seconds: float, end_seconds: float, sample_rate_hz: int) -> NDArray[np.int16]:
        frames = self.audio_frames_from(start_seconds)
        samples = assemble_mono(frames, start_seconds, end_seconds, sample_rate_hz)
        if samples is None:
            raise MediaError(self.info.path, "unreadable", "no part of its audio can be decoded")
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
    video: bool = True,
    audio: bool = True,
    file_seconds: float = 60.0,
) -> Clip:
    """Decodes one clip: T frames at the centers of T equal cells of the span, and an audio window around each.

    Args:
        path: the video; with `audio_path`, only its frames are used.
        span: the clip's place in the video.
        clip: number and size of the frames, length and rate of the windows.
        id: of the clip.
        source: the video that the clip belongs to when data are split.
        label: class name.
        audio_path: file that holds the audio, if it is not in the video itself.
        video: whether to decode frames.
        audio: whether to decode audio windows.
        file_seconds: time limit per file.

    Raises:
        MediaError: a requested modality is missing or cannot be decoded.
    """
    instants_T = frame_instants(span, clip.frames)
    frames: Frames | None = None
    windows: AudioWindows | None = None
    same_file = audio_path is None
    if video or (audio and same_file):
        with MediaFile.open(path, file_seconds) as media:
            if video:
                frames = media.frames(instants_T, clip.height, clip.width)
            if audio and same_file:
                windows = media.audio_windows(instants_T, clip.window_seconds, clip.sample_rate_hz)
    if audio and audio_path is not None:
        with MediaFile.open(audio_path, file_seconds) as media:
            windows = media.audio_windows(instants_T, clip.window_seconds, clip.sample_rate_hz)
    return Clip(id=id, source=source, label=label, span=span, frames=frames, sound=windows)


class _Cursor:
    """A position in the video stream that moves forward and knows the frame on screen."""

    def __init__(self, reader: StreamReader, instant: float, path: str) -> None:
        self._reader = reader
        self._frames = reader.frames_from(instant)
        current = next(self._frames, None)
        if current is None:
            raise MediaError(path, "unreadable", "no part of its video can be decoded")
        self._current = current
        self._upcoming = next(self._frames, None)

    def frame_at(self, instant: float) -> av.VideoFrame:
        """Returns the last frame that began at or before the instant; instants must not decrease."""
        while self._upcoming is not None and self._upcoming.seconds <= instant + _SAME_INSTANT_SECONDS:
            self._current, self._upcoming = self._upcoming, next(self._frames, None)
        assert isinstance(self._current.frame, av.VideoFrame)
        return self._current.frame

    def better_seek(self, instant: float) -> bool:
        """Whether the instant is so far ahead that seeking is cheaper than decoding forward."""
        if self._upcoming is None or instant - self._upcoming.seconds < _NEVER_SEEK_SECONDS:
            return False
        key_frame = self._reader.key_frame_between(self._upcoming.seconds, instant)
        return instant - self._upcoming.seconds > _DECODE_FORWARD_SECONDS if key_frame is None else key_frame


def _from_instant(frames: Iterator[TimedFrame], start_seconds: float) -> Iterator[TimedFrame]:
    """Drops frames that are no longer on screen at `start_seconds`."""
    current = next(frames, None)
    for upcoming in frames:
        if current is not None and upcoming.seconds > start_seconds + _SAME_INSTANT_SECONDS:
            yield current
        current = upcoming
    if current is not None:
        yield current


def _passes(starts_T: NDArray[np.int64], length: int, max_gap: int) -> list[list[int]]:
    """Groups the indices of windows, in order of time; windows less than `max_gap` samples apart share a group."""
    order = [int(index) for index in np.argsort(starts_T, kind="stable")]
    groups = [[order[0]]] if order else []
    for before, index in pairwise(order):
        if starts_T[index] - (starts_T[before] + length) < max_gap:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _video_info(stream: av.VideoStream | None) -> VideoStreamInfo | None:
    if stream is None:
        return None
    aspect = float(stream.sample_aspect_ratio or 1)
    rate = float(stream.average_rate) if stream.average_rate else None
    usable = aspect if math.isfinite(aspect) and aspect > 0 else 1.0
    context = stream.codec_context
    return VideoStreamInfo(stream.width, stream.height, usable, rate, context.name, context.pix_fmt or "")


def _audio_info(stream: av.AudioStream | None) -> AudioStreamInfo | None:
    if stream is None:
        return None
    return AudioStreamInfo(stream.sample_rate or 0, stream.channels, stream.codec_context.name)
