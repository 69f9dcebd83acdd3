"""Copies the video packets of a file, without decoding them, into a new file with new audio."""

from __future__ import annotations

import heapq
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from cmmixer.editing.audio_filters import SAMPLE_RATE_HZ, Block
from cmmixer.errors import MediaError
from cmmixer.media.container import (
    Deadline,
    best_video_stream,
    check_file,
    media_errors,
    open_container,
    origin_seconds,
)

# Suffix -> FFmpeg's names of the container and of the audio codec. Editing programs prefer PCM, and get it in mov.
CONTAINERS = {
    ".mp4": ("mp4", "aac"),
    ".m4v": ("mp4", "aac"),
    ".mov": ("mov", "pcm_s24le"),
    ".mkv": ("matroska", "aac"),
}

_AAC_BITS_PER_SECOND = 256_000

# With the index first, a video on a web page starts to play before it is loaded completely.
_OPTIONS = {"mp4": {"movflags": "+faststart"}, "mov": {"movflags": "+faststart"}, "matroska": {}}

# Metadata that describes the work, not the file it was stored in.
_KEPT_METADATA = ("title", "artist", "album", "comment", "date", "copyright", "description", "creation_time")

# Timestamps may be garbage; no video of more than a day is written.
_MAX_SECONDS = 24 * 3600.0

# No codec decodes more than this many frames before it shows the first.
_MAX_REORDERED = 32


@dataclass(frozen=True)
class VideoFacts:
    """The video stream that is copied.

    Attributes:
        codec: FFmpeg's name, such as h264.
        packets: their number.
        end_seconds: end of the last frame, from the start of the video.
        frames_per_second: average; None if the container states none.
    """

    codec: str
    packets: int
    end_seconds: float
    frames_per_second: float | None


class VideoSource:
    """An open video whose video packets can be read from the beginning, any number of times."""

    def __init__(self, path: str, container: InputContainer, stream: VideoStream, deadline: Deadline) -> None:
        self.stream = stream
        self.path, self._container, self._deadline = path, container, deadline
        assert stream.time_base is not None
        self._tick = stream.time_base
        self._origin_ticks = round(origin_seconds(container) / float(self._tick))

    @classmethod
    def open(cls, path: str, deadline: Deadline) -> Self:
        """Opens a video.

        Raises:
            MediaError: missing, empty, unreadable, or `no-video`.
        """
        checked = check_file(path)
        with media_errors(path):
            # AVI and others store no presentation times; FFmpeg computes them.
            container = open_container(checked, deadline.limit_seconds, {"fflags": "+genpts"})
            stream = best_video_stream(container)
            if stream is None or not stream.time_base:
                container.close()
                raise MediaError(path, "no-video", "has no video stream, only audio")
            return cls(path, container, stream, deadline)

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec."""
        return self.stream.codec_context.codec.canonical_name

    @property
    def metadata(self) -> dict[str, str]:
        """The container's metadata, such as its title."""
        return dict(self._container.metadata)

    def read_facts(self) -> VideoFacts:
        """Reads every packet once, without decoding.

        Raises:
            MediaError: no packets, or impossible times.
        """
        end, count, last = 0.0, 0, 0.0
        for packet in self.packets():
            assert packet.pts is not None
            begin = float(packet.pts * self._tick)
            end = max(end, begin + self._packet_seconds(packet))
            last, count = max(last, begin), count + 1
        if count == 0:
            raise MediaError(self.path, "unreadable", "has no video packets that could be copied")
        if not last < end <= _MAX_SECONDS:
            raise MediaError(self.path, "unreadable", f"states that its video ends after {end:.0f} s")
        rate = float(self.stream.average_rate) if self.stream.average_rate else None
        return VideoFacts(self.codec, count, end, rate)

    def packets(self) -> Iterator[av.Packet[VideoStream]]:
        """Yields the packets, with times from the start of the video in ticks of the stream; decoding times increase strictly.

        Raises:
            MediaError: packets without times; `time-limit`.
        """
        reader = VideoSource.open(self.path, self._deadline)
        previous: int | None = None
        try:
            for packet in _with_decoding_times(reader._read()):
                if packet.pts is None or packet.dts is None:
                    raise MediaError(self.path, "unreadable", "has video packets without timestamps")
                packet.pts -= self._origin_ticks
                dts = packet.dts - self._origin_ticks
                packet.dts = dts if previous is None else max(dts, previous + 1)
                packet.pts = max(packet.pts, packet.dts)
                previous = packet.dts
                yield packet
        finally:
            reader.close()

    def _read(self) -> Iterator[av.Packet[VideoStream]]:
        """Yields packets up to the point where the file breaks off."""
        with media_errors(self.path):
            packets = self._container.demux(self.stream)
            while True:
                self._deadline.check()
                try:
                    packet = next(packets, None)
                except av.error.ExitError:
                    raise
                except av.FFmpegError:
                    return
                if packet is None:
                    return
                if packet.size:
                    yield packet

    def _packet_seconds(self, packet: av.Packet[VideoStream]) -> float:
        if packet.duration:
            return float(packet.duration * self._tick)
        rate = self.stream.guessed_rate or self.stream.average_rate
        return 1.0 / float(rate) if rate else 0.04


def _with_decoding_times(packets: Iterator[av.Packet[VideoStream]]) -> Iterator[av.Packet[VideoStream]]:
    """Gives every packet a decoding time.

    FFmpeg leaves it open for the first packets, until it knows how far frames are reordered. These get one tick each, before the
    first packet that has a time. If none has one, frames are not reordered.
    """
    waiting: list[av.Packet[VideoStream]] = []
    for packet in packets:
        waiting.append(packet)
        if packet.dts is not None:
            for steps, earlier in enumerate(reversed(waiting[:-1]), start=1):
                earlier.dts = packet.dts - steps
        elif len(waiting) <= _MAX_REORDERED:
            continue
        yield from _decoded_when_shown(waiting)
        waiting = []
    yield from _decoded_when_shown(waiting)


def _decoded_when_shown(packets: list[av.Packet[VideoStream]]) -> Iterator[av.Packet[VideoStream]]:
    for packet in packets:
        if packet.dts is None:
            packet.dts = packet.pts
        yield packet


def remux(temporary: Path, name: str, video: VideoSource, audio: Iterable[Block]) -> str:
    """Writes a video with copied video packets and new audio.

    Args:
        temporary: file to write; its suffix does not matter.
        name: final name; its suffix chooses the container.
        video: source of the video packets.
        audio: float32 (2, N) at 48 kHz, from the start of the video.

    Returns:
        FFmpeg's name of the audio codec.

    Raises:
        MediaError: the container does not support this video codec.
    """
    container_name, audio_codec = CONTAINERS[Path(name).suffix.lower()]
    with av.open(str(temporary), "w", format=container_name, options=dict(_OPTIONS[container_name])) as container:
        container.metadata.update({key: text for key, text in video.metadata.items() if key in _KEPT_METADATA})
        video_stream = _add_video_stream(container, container_name, video, name)
        audio_stream = _add_audio_stream(container, audio_codec)
        try:
            container.start_encoding()
            streams = _copied_packets(video, video_stream), encode_audio_blocks(audio_stream, audio)
            for packet in heapq.merge(*streams, key=dts_seconds):
                container.mux(packet)
        except (av.error.InvalidDataError, av.error.ArgumentError, av.error.PatchWelcomeError) as error:
            raise _unsupported(video, name) from error
    return audio_codec


def _add_video_stream(container: OutputContainer, container_name: str, video: VideoSource, name: str) -> Stream:
    try:
        stream = container.add_stream_from_template(video.stream, opaque=True)
    except ValueError as error:
        raise _unsupported(video, name) from error
    if video.stream.sample_aspect_ratio:  # stated by the container; the codec may not have it
        stream.codec_context.sample_aspect_ratio = video.stream.sample_aspect_ratio
    if video.codec == "hevc" and container_name != "matroska":
        # QuickTime and programs built on it do not play hev1, FFmpeg's default.
        stream.codec_context.codec_tag = "hvc1"
    return stream


def _add_audio_stream(container: OutputContainer, codec: str) -> AudioStream:
    stream = container.add_stream(codec, rate=SAMPLE_RATE_HZ, layout="stereo")
    assert isinstance(stream, AudioStream)
    if codec == "aac":
        stream.bit_rate = _AAC_BITS_PER_SECOND
    return stream


def _unsupported(video: VideoSource, name: str) -> MediaError:
    suffix = Path(name).suffix.lower()
    others = [other for other in (".mkv", ".mov") if other != suffix and _supports(other, video)]
    advice = f"write {' or '.join(others)}" if others else "convert the video first"
    return MediaError(video.path, "unreadable", f"its video ({video.codec}) cannot be copied into {suffix}; {advice}")


def _supports(suffix: str, video: VideoSource) -> bool:
    """Whether FFmpeg writes a header for this codec; its lists of supported codecs promise more than that."""
    try:
        with av.open(io.BytesIO(), "w", format=CONTAINERS[suffix][0]) as container:
            container.add_stream_from_template(video.stream, opaque=True)
            container.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True


def _copied_packets(video: VideoSource, stream: Stream) -> Iterator[av.Packet[Stream]]:
    for packet in video.packets():
        packet.stream = stream  # type: ignore[assignment]
        yield packet  # type: ignore[misc]


def encode_audio_blocks(stream: AudioStream, blocks: Iterable[Block]) -> Iterator[av.Packet[Stream]]:
    """Encodes blocks of float32 (2, N) at 48 kHz, from the start of the file."""
    position = 0
    for block in blocks:
        frame = av.AudioFrame.from_ndarray(np.clip(block, -1.0, 1.0), format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE_HZ, Fraction(1, SAMPLE_RATE_HZ), position
        position += block.shape[1]
        yield from stream.encode(frame)
    yield from stream.encode(None)


def dts_seconds(packet: av.Packet[Stream]) -> float:
    """Returns the decoding time of a packet, by which the packets of all streams are ordered in a file."""
    ticks = packet.dts if packet.dts is not None else packet.pts
    return float((ticks or 0) * packet.time_base)
