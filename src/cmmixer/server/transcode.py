"""A version of a film or a sound that browsers play, small and only as long as is looked at. Runs in decoder processes.

H.264 and AAC in mp4, which all of them have; VP9 and Opus in WebM where FFmpeg was built without an encoder for the former.
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
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from cmmixer.editing.audio_filters import SAMPLE_RATE_HZ, Block, stereo_blocks
from cmmixer.editing.remux import decode_seconds, sound_packets
from cmmixer.errors import MediaError
from cmmixer.media.container import TimedFrame
from cmmixer.media.decode import Film
from cmmixer.media.resize import UPRIGHT, PictureFitter, displayed_size, orientation_of
from cmmixer.media.thumbnails import refuse_play_list

# As sharp as a player of some hundred pixels' width needs.
_MOST_PIXELS = 854 * 480
_LEAST_SIDE, _MOST_SIDE = 16, 4096
_MOST_FRAMES_PER_SECOND = 30
_TICKS = 90_000
_KEY_FRAME_EVERY = 45
_SOUND_BITS_PER_SECOND = 128_000
# Of the time that is given; what was made until then is finished and shown.
_STOP_AT = 0.7
_HELD_SECONDS = 0.2


@dataclass(frozen=True)
class Format:
    """What is written.

    Attributes:
        ending: of the file.
        picture, sound: FFmpeg's names of the encoders.
        options: of the picture's encoder; the bits of a second are bounded, so the file is.
        container: options of the container.
    """

    ending: str
    picture: str
    sound: str
    options: dict[str, str]
    container: dict[str, str]


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
    """The first format that this FFmpeg can write.

    Raises:
        MediaError: none.
    """
    for form in FORMATS:
        try:
            for name in (form.picture, form.sound):
                av.Codec(name, "w")
        except UnknownCodecError:
            continue
        return form
    raise MediaError("FFmpeg", "unreadable", "PyAV's FFmpeg has no encoder of a format that browsers play")


@dataclass(frozen=True)
class ConversionTask:
    """A stretch of a file that is wanted as browsers play it.

    Attributes:
        path: the file.
        out: where the version is written; its ending does not matter.
        sense: `video`: picture and sound; `audio`: sound alone.
        start_seconds: second of the file that becomes second 0.
        seconds: how much of it.
        file_seconds: longest time spent on it; what is made in most of that is taken as it is.
        form: the format.
    """

    path: str
    out: str
    sense: str
    start_seconds: float
    seconds: float
    file_seconds: float
    form: Format


def convert(task: ConversionTask) -> None:
    """Writes the version.

    Raises:
        MediaError: the sense is not there or cannot be decoded.
        OSError: the disk is full.
    """
    stop_at = time.monotonic() + _STOP_AT * task.file_seconds
    with Film.open(task.path, task.file_seconds) as film:
        refuse_play_list(film.info)
        until = _Until(min(task.start_seconds + task.seconds, film.info.duration_seconds), stop_at)
        try:
            _write(film, task, until)
        except av.FFmpegError as fault:
            if fault.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(fault.errno, "No space left on device") from fault
            raise MediaError(task.path, "unreadable", f"cannot be converted: {fault.strerror or fault}") from fault


@dataclass
class _Until:
    """Where a stretch ends: as it was asked for, or earlier, when time is up."""

    end_seconds: float
    stop_at: float

    def is_over(self, seconds: float) -> bool:
        """Whether something that begins then is not wanted any more."""
        if time.monotonic() > self.stop_at:
            self.end_seconds = min(self.end_seconds, seconds)
        return seconds >= self.end_seconds


def _write(film: Film, task: ConversionTask, until: _Until) -> None:
    options = dict(task.form.container)
    with av.open(task.out, "w", format=task.form.ending, options=options) as container:
        streams: list[Iterator[av.Packet[Stream]]] = []
        if task.sense == "video":
            first, pictures = _first(film.pictures_from(task.start_seconds), task.path)
            shown = _Shown(film, first)
            streams.append(_picture_packets(_picture_stream(container, task.form, shown), pictures, shown, task, until))
        if task.sense == "audio" or film.info.sound is not None:
            sound = container.add_stream(task.form.sound, rate=SAMPLE_RATE_HZ, layout="stereo")
            assert isinstance(sound, AudioStream)
            sound.bit_rate = _SOUND_BITS_PER_SECOND
            streams.append(sound_packets(sound, _heard(film, task, until)))
        container.start_encoding()
        for packet in heapq.merge(*streams, key=decode_seconds):
            container.mux(packet)


def _first(frames: Iterator[TimedFrame], path: str) -> tuple[av.VideoFrame, Iterator[TimedFrame]]:
    """The first picture, which tells the size, and all of them."""
    first = next(frames, None)
    if first is None:
        raise MediaError(path, "unreadable", "no part of its picture can be decoded")
    assert isinstance(first.frame, av.VideoFrame)
    return first.frame, chain([first], frames)


class _Shown:
    """Pictures as a player shows them: turned, pixels square, no larger than needed, sides even."""

    def __init__(self, film: Film, first: av.VideoFrame) -> None:
        self._aspect = film.info.picture.pixel_aspect if film.info.picture is not None else 1.0
        height, width = displayed_size(first, self._aspect)
        scale = min(1.0, math.sqrt(_MOST_PIXELS / (height * width)))
        self.height, self.width = (
            min(_MOST_SIDE, max(_LEAST_SIDE, 2 * round(scale * side / 2))) for side in (height, width)
        )
        self._scaler = VideoReformatter()
        self._fitter = PictureFitter(self.height, self.width, pixel_aspect=self._aspect)

    def __call__(self, frame: av.VideoFrame, tick: int) -> av.VideoFrame:
        if orientation_of(frame) != UPRIGHT:
            frame = av.VideoFrame.from_ndarray(self._fitter.pixels(frame), format="rgb24")
        size = {"width": self.width, "height": self.height}
        shown = self._scaler.reformat(frame, **size, format="yuv420p", interpolation=Interpolation.BILINEAR, threads=1)
        # The type that it had in its own file would be forced on the encoder.
        shown.pts, shown.time_base, shown.pict_type = tick, Fraction(1, _TICKS), PictureType.NONE
        return shown


def _picture_stream(container: OutputContainer, form: Format, shown: _Shown) -> VideoStream:
    options = dict(form.options)
    stream = container.add_stream(form.picture, rate=_MOST_FRAMES_PER_SECOND, options=options)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = shown.width, shown.height, "yuv420p"
    stream.codec_context.time_base = Fraction(1, _TICKS)
    stream.codec_context.gop_size = _KEY_FRAME_EVERY
    return stream


def _picture_packets(
    stream: VideoStream, pictures: Iterable[TimedFrame], shown: _Shown, task: ConversionTask, until: _Until
) -> Iterator[av.Packet[Stream]]:
    """Each picture at its own time, at most 30 a second; the last one is held to the end."""
    next_tick, last, frame = 0, 0, None
    for timed in pictures:
        seconds = max(timed.seconds, task.start_seconds)
        if frame is not None and until.is_over(seconds):
            break
        tick = round((seconds - task.start_seconds) * _TICKS)
        assert isinstance(timed.frame, av.VideoFrame)
        if frame is None or tick >= next_tick:
            frame, last = shown(timed.frame, tick), tick
            # A little less than the distance, because timestamps are rounded.
            next_tick = tick + _TICKS // _MOST_FRAMES_PER_SECOND - _TICKS // 1000
            yield from stream.encode(frame)
    held = round((until.end_seconds - task.start_seconds - 1 / _MOST_FRAMES_PER_SECOND) * _TICKS)
    if frame is not None and held - last > _HELD_SECONDS * _TICKS:
        frame.pts = held
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _heard(film: Film, task: ConversionTask, until: _Until) -> Iterator[Block]:
    place = 0
    for block in stereo_blocks(film.sound_from(task.start_seconds), task.start_seconds, task.seconds):
        if until.is_over(task.start_seconds + place / SAMPLE_RATE_HZ):
            return
        place += block.shape[1]
        yield block
