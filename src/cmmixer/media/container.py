"""Opening a file and reading one of its streams from any instant; the only place that seeks.

Film time 0 is the container's start, whatever its timestamps say (broadcast recordings start at any hour).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from cmmixer.errors import MediaError

MediaStream = VideoStream | AudioStream
MediaFrame = av.VideoFrame | av.AudioFrame

# A picture of more stored pixels than this is an attack or damage, not a film.
_MOST_PIXELS = 1 << 28

# A damaged container may fail to give a packet and still have good ones behind it.
_MOST_READ_ERRORS = 16

_NOT_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails


class Deadline:
    """A time limit that decoding loops ask about, packet by packet."""

    def __init__(self, path: str, limit_seconds: float) -> None:
        self.path = path
        self.limit_seconds = limit_seconds
        self._end = time.monotonic() + limit_seconds

    def check(self) -> None:
        """Raises MediaError (`time-limit`) once the limit is over."""
        if time.monotonic() > self._end:
            raise MediaError(self.path, "time-limit", f"took longer than {self.limit_seconds:g} s")


@contextmanager
def media_errors(path: str) -> Iterator[None]:
    """FFmpeg's errors, and those of PyAV on nonsense, told as MediaError."""
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
    """The absolute path of a regular file that is not empty.

    Raises:
        MediaError: `missing`, `not-a-file`, `empty` or `unreadable`.
    """
    name = os.fspath(path)
    try:
        status = os.stat(name)
    except OSError as error:
        # A dangling or looping link is there, but leads to no file.
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
    """Opens a checked path, with FFmpeg's options. Only local files are ever read, even where a play list names others."""
    with media_errors(path):
        return av.open(
            path,
            mode="r",
            options={"protocol_whitelist": "file", **(options or {})},
            metadata_errors="replace",
            timeout=(limit_seconds, limit_seconds),
        )


def origin_seconds(container: InputContainer) -> float:
    """The container's start; it is at most that of its streams."""
    if container.start_time is not None:
        return container.start_time / av.time_base
    starts = [float(s.start_time * s.time_base) for s in container.streams if s.start_time is not None and s.time_base]
    return min(starts, default=0.0)


def best_picture(container: InputContainer) -> VideoStream | None:
    """The picture stream a player would choose; cover art and thumbnails are none."""
    streams = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & _NOT_PICTURES
    ]
    best = container.streams.best("video")
    chosen = best if best in streams else max(streams, key=lambda stream: stream.width * stream.height, default=None)
    if chosen is not None and chosen.width * chosen.height > _MOST_PIXELS:
        raise MediaError(container.name, "unreadable", f"a picture of {chosen.width} x {chosen.height} is too large")
    return chosen


def best_sound(container: InputContainer) -> AudioStream | None:
    """The sound stream a player would choose."""
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    best = container.streams.best("audio")
    return best if best in streams else (streams[0] if streams else None)


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame and when it begins, from the film's beginning."""

    seconds: float
    frame: MediaFrame


class StreamReader:
    """Reads one stream of one file from any instant. Each reader has its own container, so two never disturb each other."""

    def __init__(self, path: str, index: int, origin_seconds: float, deadline: Deadline) -> None:
        self._path = path
        self._index = index
        self._origin_seconds = origin_seconds
        self._deadline = deadline
        self._container: InputContainer | None = None
        self._untouched = False
        self._tick_seconds = 1.0

    def adopt(self, container: InputContainer) -> None:
        """Takes over a freshly opened container instead of opening the file again."""
        self._container, self._untouched = container, True
        self._choose()

    def close(self) -> None:
        """Closes the file."""
        if self._container is not None:
            self._container.close()
            self._container = None

    @property
    def stream(self) -> MediaStream:
        """The stream, as PyAV sees it."""
        if self._container is None:
            self._reopen()
        assert self._container is not None
        return self._container.streams[self._index]  # type: ignore[return-value]

    def frames_from(self, seconds: float) -> Iterator[TimedFrame]:
        """Decoded frames in order, the first at or before `seconds` where the stream has one.

        Seeks to a key frame; where the container's index led too far, steps back, in the end to the first packet.
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
        """Does a key frame begin in (start, end]? None where the container's index does not tell."""
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
        self._untouched = True
        self._choose()

    def _choose(self) -> None:
        assert self._container is not None
        for stream in self._container.streams:
            stream.discard = Discard.default if stream.index == self._index else Discard.all
        # A float once: exact fractions cost more than decoding a small frame.
        self._tick_seconds = float(self.stream.time_base or 1)
        # Decoder processes run side by side; threads within one would only fight them.
        self.stream.codec_context.thread_count = 1

    def _seek(self, seconds: float) -> bool:
        """Moves to a key frame at or before `seconds`; False where the container cannot seek."""
        stream = self.stream
        if self._untouched and seconds <= self._start_seconds():
            return True
        assert self._container is not None
        self._untouched = False
        try:
            self._container.seek(self._timestamp(seconds), stream=stream, backward=True)
        except av.FFmpegError:
            return False
        return True

    def _decode(self) -> Iterator[TimedFrame]:
        """Frames from the current position on; damaged packets are stepped over."""
        self._untouched = False
        stream = self.stream
        after = self._start_seconds()
        for packet in self._packets():
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):
                continue
            for frame in frames:
                assert isinstance(frame, av.VideoFrame | av.AudioFrame)
                timestamp = frame.pts if frame.pts is not None else frame.dts
                seconds = after if timestamp is None else self._seconds(timestamp)
                after = seconds + _frame_seconds(frame, stream)
                yield TimedFrame(seconds, frame)

    def _packets(self) -> Iterator[av.Packet[Stream]]:
        assert self._container is not None
        for _ in range(_MOST_READ_ERRORS):
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
    """Where to seek to, one attempt after the other: the instant itself, then ever earlier ones, then the start."""
    step = 1.0
    target = seconds
    while target > start_seconds:
        yield target
        target = seconds - step
        step *= 4
    yield start_seconds


def _frame_seconds(frame: MediaFrame, stream: MediaStream) -> float:
    """How long a frame lasts; only asked for where timestamps are missing."""
    if isinstance(frame, av.AudioFrame):
        return frame.samples / frame.sample_rate if frame.sample_rate else 0.0
    rate = stream.guessed_rate
    return 1.0 / float(rate) if rate else 0.04


def packet_end_seconds(path: str, origin_seconds: float, deadline: Deadline) -> float:
    """Where the last packet of picture or sound ends, found by reading the whole file without decoding."""
    end = 0.0
    with open_container(path, deadline.limit_seconds) as container:
        streams = [stream for stream in (best_picture(container), best_sound(container)) if stream is not None]
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
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None and packet.time_base is not None:
                end = max(end, float((stamp + (packet.duration or 0)) * packet.time_base) - origin_seconds)
    return end
