"""Opens media containers and reads one of their streams from any instant. The only module that seeks.

Time 0 is the container's start, whatever its timestamps say: broadcast recordings start at any hour.
"""

from __future__ import annotations

import math
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.format import ContainerFormat
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from cmmixer.errors import MediaError

MediaStream = VideoStream | AudioStream
MediaFrame = av.VideoFrame | av.AudioFrame

# A frame with more pixels than this is an attack or damage, not a video.
_MAX_PIXELS = 1 << 28

# A damaged container may fail to read one packet and still have good ones after it.
_MAX_READ_ERRORS = 16

# No codec stores audio or moving images in fewer bits; a header that states a longer duration than its bytes can hold is wrong.
_MIN_BITS_PER_SECOND = 600

# FFmpeg's demuxers that open files or connections named by the file, or guess the names of further files (image2, mlv,
# vobsub), and those that read devices or generate media. A stranger's file must not reach anything but itself.
_REFERRING_FORMATS = frozenset(
    [
        "alsa",
        "concat",
        "dash",
        "fbdev",
        "hls",
        "image2",
        "imf",
        "kmsgrab",
        "lavfi",
        "mlv",
        "oss",
        "rtp",
        "rtsp",
        "sap",
        "sdp",
        "v4l2",
        "video4linux2",
        "video4linux2,v4l2",
        "vobsub",
        "webm_dash_manifest",
        "x11grab",
        "xcbgrab",
    ]
)

# How such a file begins. Only for the message: what may be read is decided by the demuxer's name.
_PLAYLIST = re.compile(rb"#EXTM3U|ffconcat version|v=0\s|(?:<\?xml[^>]*>\s*)?<(?:MPD|CompositionPlaylist)\b")

_STILL_IMAGES = Disposition.attached_pic | Disposition.timed_thumbnails


class Deadline:
    """A time limit that decoding loops check at every packet."""

    def __init__(self, path: str, limit_seconds: float) -> None:
        self.path = path
        self.limit_seconds = limit_seconds
        self._end = time.monotonic() + limit_seconds

    def check(self) -> None:
        """Raises MediaError (`time-limit`) once the time is up."""
        if time.monotonic() > self._end:
            raise MediaError(self.path, "time-limit", f"took longer than {self.limit_seconds:g} s")


@contextmanager
def media_errors(path: str) -> Iterator[None]:
    """Turns FFmpeg's errors, and those PyAV raises on invalid input, into MediaError."""
    try:
        yield
    except MediaError:
        raise
    except av.error.ExitError as error:
        raise MediaError(path, "time-limit", "reading took longer than the limit for one file") from error
    except av.FFmpegError as error:
        raise MediaError(path, "unreadable", f"cannot be decoded: {error.strerror or error}") from error
    except (ValueError, OverflowError, MemoryError, UnicodeError) as error:
        raise MediaError(path, "unreadable", f"cannot be decoded: {error}") from error


def check_file(path: str | Path) -> str:
    """Returns the absolute path of a regular file that is not empty.

    Raises:
        MediaError: `missing`, `not-a-file`, `empty` or `unreadable`.
    """
    name = os.fspath(path)
    try:
        status = os.stat(name)
    except OSError as error:
        # A dangling or looping link exists but leads to no file.
        if os.path.islink(name):
            raise MediaError(name, "not-a-file", "is a link that leads nowhere") from error
        if isinstance(error, FileNotFoundError):
            raise MediaError(name, "missing", "no such file") from error
        raise MediaError(name, "unreadable", error.strerror or "cannot be opened") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
        raise MediaError(name, "not-a-file", f"is {kind}, not a media file")
    if status.st_size == 0:
        raise MediaError(name, "empty", "has zero bytes")
    return os.path.abspath(name)


def open_container(path: str, limit_seconds: float, options: dict[str, str] | None = None) -> InputContainer:
    """Opens a checked path with FFmpeg's options. Reads this file and no other, whatever it is called and whatever it names.

    Raises:
        MediaError: `unreadable`, for a playlist or anything else that is not media; `time-limit`.
    """
    with media_errors(path):
        try:
            return av.open(
                path,
                mode="r",
                options={"protocol_whitelist": "file", "format_whitelist": _readable_formats(), **(options or {})},
                metadata_errors="replace",
                timeout=(limit_seconds, limit_seconds),
            )
        except av.FFmpegError:
            with open(path, "rb") as file:
                if _PLAYLIST.match(file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")):
                    raise MediaError(
                        path, "unreadable", "is a playlist of other files, not a video or a sound; give those files"
                    ) from None
            raise


@cache
def _readable_formats() -> str:
    """Returns FFmpeg's demuxers that read nothing but the file they are given, as its option `format_whitelist`."""
    names = set()
    for name in av.formats_available:
        try:
            names.add(ContainerFormat(name, "r").name)
        except ValueError:  # a muxer only
            continue
    return ",".join(sorted(names - _REFERRING_FORMATS))


def origin_seconds(container: InputContainer) -> float:
    """Returns the timestamp of the container's start, which is never later than that of its streams."""
    if container.start_time is not None:
        return container.start_time / av.time_base
    starts = [float(s.start_time * s.time_base) for s in container.streams if s.start_time is not None and s.time_base]
    return min(starts, default=0.0)


def best_video_stream(container: InputContainer) -> VideoStream | None:
    """Returns the video stream a player would choose; cover art and thumbnails do not count.

    Raises:
        MediaError: `unreadable`, if its frames are too large.
    """
    streams = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & _STILL_IMAGES
    ]
    best = container.streams.best("video")
    chosen = best if best in streams else max(streams, key=lambda stream: stream.width * stream.height, default=None)
    if chosen is not None and chosen.width * chosen.height > _MAX_PIXELS:
        raise MediaError(
            container.name, "unreadable", f"its frames of {chosen.width} x {chosen.height} pixels are too large"
        )
    return chosen


def best_audio_stream(container: InputContainer) -> AudioStream | None:
    """Returns the audio stream a player would choose."""
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    best = container.streams.best("audio")
    return best if best in streams else (streams[0] if streams else None)


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame and the time at which it begins, counted from the start of the file."""

    seconds: float
    frame: MediaFrame


class StreamReader:
    """A reader of one stream of one file. Each has its own container, so that two never disturb each other."""

    def __init__(self, path: str, index: int, origin_seconds: float, deadline: Deadline) -> None:
        self._path = path
        self._index = index
        self._origin_seconds = origin_seconds
        self._deadline = deadline
        self._container: InputContainer | None = None
        self._at_start = False
        self._tick_seconds = 1.0

    def adopt(self, container: InputContainer) -> None:
        """Takes over a newly opened container instead of opening the file again."""
        self._container, self._at_start = container, True
        self._select_stream()

    def close(self) -> None:
        """Closes the file."""
        if self._container is not None:
            self._container.close()
            self._container = None

    @property
    def stream(self) -> MediaStream:
        """The PyAV stream."""
        if self._container is None:
            self._reopen()
        assert self._container is not None
        return self._container.streams[self._index]  # type: ignore[return-value]

    def frames_from(self, seconds: float) -> Iterator[TimedFrame]:
        """Returns decoded frames in order; the first begins at or before `seconds` if the stream has such a frame.

        Seeks to a key frame. If the container's index leads too far, steps back, in the end to the first packet.
        """
        start_seconds = self._start_seconds()
        for target in _steps_back(seconds, start_seconds):
            if not self._seek(target):
                break
            frames = self._decode()
            first = next(frames, None)
            if first is not None and first.seconds <= max(seconds, start_seconds) + 1e-3:
                return chain([first], frames)
        self._reopen()
        return self._decode()

    def key_frame_between(self, start_seconds: float, end_seconds: float) -> bool | None:
        """Whether a key frame begins in (start, end]; None if the container's index does not cover it."""
        stream = self.stream
        entries = stream.index_entries
        if len(entries) == 0 or self._seconds(entries[-1].timestamp) < end_seconds - 3.0:
            return None
        found = entries.search_timestamp(self._timestamp(end_seconds), backward=True)
        return found >= 0 and self._seconds(entries[found].timestamp) > start_seconds

    def _start_seconds(self) -> float:
        start = self.stream.start_time
        return 0.0 if start is None else self._seconds(start)

    def _seconds(self, timestamp: int) -> float:
        return timestamp * self._tick_seconds - self._origin_seconds

    def _timestamp(self, seconds: float) -> int:
        return round((seconds + self._origin_seconds) / self._tick_seconds)

    def _reopen(self) -> None:
        self.close()
        self._container = open_container(self._path, self._deadline.limit_seconds)
        self._at_start = True
        self._select_stream()

    def _select_stream(self) -> None:
        assert self._container is not None
        for stream in self._container.streams:
            stream.discard = Discard.default if stream.index == self._index else Discard.all
        # Converted once: exact fractions cost more than decoding a small frame.
        self._tick_seconds = float(self.stream.time_base or 1)
        # Decoder processes run side by side; threads would only compete with them.
        self.stream.codec_context.thread_count = 1

    def _seek(self, seconds: float) -> bool:
        """Moves to a key frame at or before `seconds`; returns False if the container cannot seek."""
        stream = self.stream
        if self._at_start and seconds <= self._start_seconds():
            return True
        assert self._container is not None
        self._at_start = False
        try:
            self._container.seek(self._timestamp(seconds), stream=stream, backward=True)
        except av.FFmpegError:
            return False
        return True

    def _decode(self) -> Iterator[TimedFrame]:
        """Decodes frames from the current position on; skips damaged packets."""
        self._at_start = False
        stream = self.stream
        next_seconds = self._start_seconds()
        for packet in self._packets():
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):
                continue
            for frame in frames:
                assert isinstance(frame, av.VideoFrame | av.AudioFrame)
                timestamp = frame.pts if frame.pts is not None else frame.dts
                seconds = next_seconds if timestamp is None else self._seconds(timestamp)
                next_seconds = seconds + _frame_seconds(frame, stream)
                yield TimedFrame(seconds, frame)

    def _packets(self) -> Iterator[av.Packet[Stream]]:
        assert self._container is not None
        for _ in range(_MAX_READ_ERRORS):
            try:
                for packet in self._container.demux(self.stream):
                    self._deadline.check()
                    yield packet
            except av.error.ExitError:
                raise
            except av.FFmpegError:
                continue
            return


def _steps_back(seconds: float, start_seconds: float) -> Iterator[float]:
    """Yields seek targets in the order they are tried: the instant itself, ever earlier ones, then the start."""
    step = 1.0
    target = seconds
    while target > start_seconds:
        yield target
        target = seconds - step
        step *= 4
    yield start_seconds


def _frame_seconds(frame: MediaFrame, stream: MediaStream) -> float:
    """Duration of a frame, for streams whose timestamps are missing."""
    if isinstance(frame, av.AudioFrame):
        return frame.samples / frame.sample_rate if frame.sample_rate else 0.0
    rate = stream.guessed_rate
    return 1.0 / float(rate) if rate else 0.04


def duration_seconds(container: InputContainer, path: str, origin: float, deadline: Deadline) -> float:
    """Returns the duration stated by the container, or, if that cannot be true, the end of the last packet.

    Args:
        container: an open container.
        path: the checked path it was opened from; it may be opened again.
        origin: timestamp of its start, in seconds.
        deadline: checked while all packets are read.

    Raises:
        MediaError: `unreadable`, if it holds no packets at all; `time-limit`.
    """
    stated = (container.duration or 0) / av.time_base
    believable = 0 < stated < container.size * 8 / _MIN_BITS_PER_SECOND
    duration = stated if believable else _last_packet_end(path, origin, deadline)
    if "mp4" in container.format.name:
        duration = min(duration, _indexed_seconds(container, origin))
    if not duration > 0:
        raise MediaError(deadline.path, "unreadable", "holds a header but no video and no audio")
    return duration


def _indexed_seconds(container: InputContainer, origin: float) -> float:
    """Time up to which a truncated file holds what its index lists; infinity if it is complete."""
    ends = []
    for stream in container.streams:
        entries = stream.index_entries
        if len(entries) == 0 or stream.time_base is None or stream.type not in ("video", "audio"):
            continue
        if entries[-1].pos + entries[-1].size <= container.size:
            return math.inf
        present = [entry.timestamp for entry in entries if entry.pos + entry.size <= container.size]
        ends.append(float(max(present, default=0) * stream.time_base) - origin)
    return max(ends, default=math.inf)


def _last_packet_end(path: str, origin: float, deadline: Deadline) -> float:
    """End of the last packet of video or audio, found by reading the whole file without decoding."""
    end = 0.0
    with open_container(path, deadline.limit_seconds) as container:
        streams = [
            stream for stream in (best_video_stream(container), best_audio_stream(container)) if stream is not None
        ]
        packets = container.demux(streams)
        while True:
            deadline.check()
            try:
                packet = next(packets, None)
            except av.error.ExitError:
                raise
            except av.FFmpegError:
                break
            if packet is None:
                break
            timestamp = packet.pts if packet.pts is not None else packet.dts
            if timestamp is not None and packet.time_base is not None:
                end = max(end, float((timestamp + (packet.duration or 0)) * packet.time_base) - origin)
    return end
