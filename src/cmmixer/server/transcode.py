"""Converts a part of a file to a small format that browsers play. Runs in decoder processes.

The format is H.264 and AAC in MP4, which every browser plays. Where FFmpeg was built without an H.264 encoder it is VP9 and
Opus in WebM.
"""

from __future__ import annotations

import errno
import heapq
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import chain

import av
from av.audio.stream import AudioStream
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.stream import Stream
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from cmmixer.editing.audio_filters import SAMPLE_RATE_HZ, Block, stereo_blocks
from cmmixer.editing.remux import dts_seconds, encode_audio_blocks
from cmmixer.errors import MediaError
from cmmixer.media.container import TimedFrame
from cmmixer.media.decode import MediaFile
from cmmixer.media.resize import UPRIGHT, FrameFitter, displayed_size, orientation_of

# Sharp enough for the player of the page.
_MAX_PIXELS = 854 * 480
_MIN_SIDE, _MAX_SIDE = 16, 4096
_MAX_FRAMES_PER_SECOND = 30
_TICKS_PER_SECOND = 90_000
_KEY_FRAME_INTERVAL = 45
_AUDIO_BITS_PER_SECOND = 128_000
# FFmpeg's AV_PICTURE_TYPE_NONE: the encoder decides which frames are key frames.
_ANY_FRAME_TYPE = 0
# Share of the time limit after which the conversion ends early, so that a shorter result is still finished in time.
_STOP_AT = 0.7
# The last frame is repeated at the end where the gap to it is longer than this.
_MAX_GAP_SECONDS = 0.2


@dataclass(frozen=True)
class Format:
    """An output format.

    Attributes:
        ending: of the file.
        video_codec, audio_codec: FFmpeg's names of the encoders.
        video_options: of the video encoder; they bound the bits of a second, and so the size of the file.
        container_options: of the muxer.
    """

    ending: str
    video_codec: str
    audio_codec: str
    video_options: dict[str, str]
    container_options: dict[str, str]


FORMATS = (
    Format(
        "mp4",
        "libx264",
        "aac",
        {"preset": "superfast", "crf": "25", "maxrate": "2M", "bufsize": "4M", "bf": "0", "threads": "1"},
        {"movflags": "+faststart"},
    ),
    Format(
        "webm",
        "libvpx-vp9",
        "libopus",
        {
            "deadline": "realtime",
            "cpu-used": "8",
            "crf": "36",
            "b": "1M",
            "maxrate": "2M",
            "bufsize": "4M",
            "threads": "1",
        },
        {"cues_to_front": "1"},
    ),
)


@cache
def format_here() -> Format:
    """Returns the first format that this FFmpeg can write.

    Raises:
        MediaError: it can write none of them.
    """
    for output_format in FORMATS:
        try:
            for name in (output_format.video_codec, output_format.audio_codec):
                av.Codec(name, "w")
        except UnknownCodecError:
            continue
        return output_format
    raise MediaError("FFmpeg", "unreadable", "PyAV's FFmpeg has no encoder for a format that browsers play")


@dataclass(frozen=True)
class ConversionTask:
    """A part of a file to convert.

    Attributes:
        path: of the file.
        out: path to write; its ending does not matter.
        modality: `video`: video and audio; `audio`: audio alone.
        start_seconds: time in the file at which the result begins.
        seconds: longest duration of the result.
        file_seconds: time limit; near it the conversion ends early.
        output_format: the format.
    """

    path: str
    out: str
    modality: str
    start_seconds: float
    seconds: float
    file_seconds: float
    output_format: Format


def convert(task: ConversionTask) -> None:
    """Writes the converted part to `task.out`.

    Raises:
        MediaError: the file lacks the modality, or cannot be decoded.
        OSError: the disk is full.
    """
    stop_at = time.monotonic() + _STOP_AT * task.file_seconds
    with MediaFile.open(task.path, task.file_seconds) as source:
        end = _End(min(task.start_seconds + task.seconds, source.info.duration_seconds), stop_at)
        try:
            _write(source, task, end)
        except av.FFmpegError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(error.errno, "No space left on device") from error
            raise MediaError(task.path, "unreadable", f"cannot be converted: {error.strerror or error}") from error


@dataclass
class _End:
    """The end of the part: as requested, or earlier where the time limit is near."""

    end_seconds: float
    stop_at: float

    def is_reached(self, seconds: float) -> bool:
        """Returns whether a frame that begins at this second lies behind the end."""
        if time.monotonic() > self.stop_at:
            self.end_seconds = min(self.end_seconds, seconds)
        return seconds >= self.end_seconds


def _write(source: MediaFile, task: ConversionTask, end: _End) -> None:
    output_format = task.output_format
    options = dict(output_format.container_options)
    with av.open(task.out, "w", format=output_format.ending, options=options) as container:
        streams: list[Iterator[av.Packet[Stream]]] = []
        if task.modality == "video":
            first, frames = _with_first(source.video_frames_from(task.start_seconds), task.path)
            scale = _Scaler(source, first)
            stream = _video_stream(container, output_format, scale)
            streams.append(_encode_video(stream, frames, scale, task, end))
        if task.modality == "audio" or source.info.audio is not None:
            audio = container.add_stream(output_format.audio_codec, rate=SAMPLE_RATE_HZ, layout="stereo")
            assert isinstance(audio, AudioStream)
            audio.bit_rate = _AUDIO_BITS_PER_SECOND
            streams.append(encode_audio_blocks(audio, _audio_blocks(source, task, end)))
        container.start_encoding()
        for packet in heapq.merge(*streams, key=dts_seconds):
            container.mux(packet)


def _with_first(frames: Iterator[TimedFrame], path: str) -> tuple[av.VideoFrame, Iterator[TimedFrame]]:
    """Returns the first frame, which has the size, and all frames."""
    first = next(frames, None)
    if first is None:
        raise MediaError(path, "unreadable", "no part of its video can be decoded")
    assert isinstance(first.frame, av.VideoFrame)
    return first.frame, chain([first], frames)


class _Scaler:
    """Makes frames as a player shows them: upright, with square pixels, no larger than needed, with even sides."""

    def __init__(self, source: MediaFile, first: av.VideoFrame) -> None:
        aspect = source.info.video.pixel_aspect if source.info.video is not None else 1.0
        height, width = displayed_size(first, aspect)
        scale = min(1.0, math.sqrt(_MAX_PIXELS / (height * width)))
        self.height, self.width = (
            min(_MAX_SIDE, max(_MIN_SIDE, 2 * round(scale * side / 2))) for side in (height, width)
        )
        self._reformatter = VideoReformatter()
        self._fitter = FrameFitter(self.height, self.width, pixel_aspect=aspect)

    def __call__(self, frame: av.VideoFrame, tick: int) -> av.VideoFrame:
        if orientation_of(frame) != UPRIGHT:
            frame = av.VideoFrame.from_ndarray(self._fitter.pixels(frame), format="rgb24")
        scaled = self._reformatter.reformat(
            frame,
            width=self.width,
            height=self.height,
            format="yuv420p",
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        # The encoder would be forced to use the frame type of the source.
        scaled.pts, scaled.time_base, scaled.pict_type = tick, Fraction(1, _TICKS_PER_SECOND), _ANY_FRAME_TYPE
        return scaled


def _video_stream(container: OutputContainer, output_format: Format, scale: _Scaler) -> VideoStream:
    options = dict(output_format.video_options)
    stream = container.add_stream(output_format.video_codec, rate=_MAX_FRAMES_PER_SECOND, options=options)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = scale.width, scale.height, "yuv420p"
    stream.codec_context.time_base = Fraction(1, _TICKS_PER_SECOND)
    stream.codec_context.gop_size = _KEY_FRAME_INTERVAL
    return stream


def _encode_video(
    stream: VideoStream, frames: Iterable[TimedFrame], scale: _Scaler, task: ConversionTask, end: _End
) -> Iterator[av.Packet[Stream]]:
    """Encodes each frame at its own time, at most 30 per second, and holds the last one until the end."""
    next_tick, last_tick, frame = 0, 0, None
    for timed in frames:
        seconds = max(timed.seconds, task.start_seconds)
        if frame is not None and end.is_reached(seconds):
            break
        tick = round((seconds - task.start_seconds) * _TICKS_PER_SECOND)
        assert isinstance(timed.frame, av.VideoFrame)
        if frame is None or tick >= next_tick:
            frame, last_tick = scale(timed.frame, tick), tick
            # A millisecond less than the interval, because timestamps are rounded.
            next_tick = tick + _TICKS_PER_SECOND // _MAX_FRAMES_PER_SECOND - _TICKS_PER_SECOND // 1000
            yield from stream.encode(frame)
    held_tick = round((end.end_seconds - task.start_seconds - 1 / _MAX_FRAMES_PER_SECOND) * _TICKS_PER_SECOND)
    if frame is not None and held_tick - last_tick > _MAX_GAP_SECONDS * _TICKS_PER_SECOND:
        frame.pts = held_tick
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _audio_blocks(source: MediaFile, task: ConversionTask, end: _End) -> Iterator[Block]:
    samples = 0
    for block in stereo_blocks(source.audio_frames_from(task.start_seconds), task.start_seconds, task.seconds):
        if end.is_reached(task.start_seconds + samples / SAMPLE_RATE_HZ):
            return
        samples += block.shape[1]
        yield block
