"""The film's pictures as packets: what they are, how long they last, and their copies for another file.

The new file: copied picture packets and encoded sound, in order of time.
"""

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
from cmmixer.media.container import Deadline, best_picture, check_file, media_errors, open_container, origin_seconds

# Containers write nonsense too; sound for longer than a day is not laid under a picture.
_LONGEST_SECONDS = 24 * 3600.0

# No codec shows a frame later than this many others were decoded.
_MOST_REORDERED = 32


@dataclass(frozen=True)
class PictureFacts:
    """The picture stream that is copied.

    Attributes:
        codec: FFmpeg's name, as h264.
        packets: how many.
        end_seconds: where the last frame ends, from the film's beginning.
        frames_per_second: average; None where the container does not say.
    """

    codec: str
    packets: int
    end_seconds: float
    frames_per_second: float | None


class PictureSource:
    """An open film of which the picture packets are read, from the beginning, once or again."""

    def __init__(self, path: str, container: InputContainer, stream: VideoStream, deadline: Deadline) -> None:
        self.stream = stream
        self.path, self._container, self._deadline = path, container, deadline
        assert stream.time_base is not None
        self._tick = stream.time_base
        self._origin_ticks = round(origin_seconds(container) / float(self._tick))

    @classmethod
    def open(cls, path: str, deadline: Deadline) -> Self:
        """Opens a film.

        Raises:
            MediaError: missing, empty, unreadable, or `no-picture`.
        """
        checked = check_file(path)
        with media_errors(path):
            # AVI and others keep no presentation times; FFmpeg works them out.
            container = open_container(checked, deadline.limit_seconds, {"fflags": "+genpts"})
            stream = best_picture(container)
            if stream is None or not stream.time_base:
                container.close()
                raise MediaError(path, "no-picture", "has no picture, only sound")
            return cls(path, container, stream, deadline)

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    @property
    def metadata(self) -> dict[str, str]:
        """Title and the like, as the container has them."""
        return dict(self._container.metadata)

    def look(self) -> PictureFacts:
        """Reads every packet once, decodes none.

        Raises:
            MediaError: no packet, or times that cannot be.
        """
        end, count, last = 0.0, 0, 0.0
        for packet in self.packets():
            assert packet.pts is not None
            begin = float(packet.pts * self._tick)
            end = max(end, begin + self._duration(packet))
            last, count = max(last, begin), count + 1
        if count == 0:
            raise MediaError(self.path, "unreadable", "holds no picture that can be copied")
        if not last < end <= _LONGEST_SECONDS:
            raise MediaError(self.path, "unreadable", f"its pictures claim to end after {end:.0f} s")
        rate = float(self.stream.average_rate) if self.stream.average_rate else None
        return PictureFacts(self.stream.codec_context.codec.canonical_name, count, end, rate)

    def packets(self) -> Iterator[av.Packet[VideoStream]]:
        """Copies' times count from the film's beginning, in the stream's own ticks; decoding times only ever rise.

        Raises:
            MediaError: packets without times, `time-limit`.
        """
        reader = PictureSource.open(self.path, self._deadline)
        before: int | None = None
        try:
            for packet in _with_decoding_times(reader._read()):
                if packet.pts is None or packet.dts is None:
                    raise MediaError(self.path, "unreadable", "its pictures say not when they are to be shown")
                packet.pts -= self._origin_ticks
                dts = packet.dts - self._origin_ticks
                packet.dts = dts if before is None else max(dts, before + 1)
                packet.pts = max(packet.pts, packet.dts)
                before = packet.dts
                yield packet
        finally:
            reader.close()

    def _read(self) -> Iterator[av.Packet[VideoStream]]:
        """Packets of the stream up to where the file breaks off."""
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

    def _duration(self, packet: av.Packet[VideoStream]) -> float:
        if packet.duration:
            return float(packet.duration * self._tick)
        rate = self.stream.guessed_rate or self.stream.average_rate
        return 1.0 / float(rate) if rate else 0.04


def _with_decoding_times(packets: Iterator[av.Packet[VideoStream]]) -> Iterator[av.Packet[VideoStream]]:
    """Gives each packet a decoding time; what FFmpeg leaves open are the first ones, before it knows how far frames are reordered.

    They are decoded one tick after the other before the first that has a time; where none has, frames are not reordered.
    """
    waiting: list[av.Packet[VideoStream]] = []
    for packet in packets:
        waiting.append(packet)
        if packet.dts is not None:
            for steps, earlier in enumerate(reversed(waiting[:-1]), start=1):
                earlier.dts = packet.dts - steps
        elif len(waiting) <= _MOST_REORDERED:
            continue
        yield from _timed_as_shown(waiting)
        waiting = []
    yield from _timed_as_shown(waiting)


def _timed_as_shown(packets: list[av.Packet[VideoStream]]) -> Iterator[av.Packet[VideoStream]]:
    for packet in packets:
        if packet.dts is None:
            packet.dts = packet.pts
        yield packet


# By the file's ending: FFmpeg's name of the container, and the sound's codec. Editing programs prefer PCM, and get it in
# their own container.
CONTAINERS = {
    ".mp4": ("mp4", "aac"),
    ".m4v": ("mp4", "aac"),
    ".mov": ("mov", "pcm_s24le"),
    ".mkv": ("matroska", "aac"),
}

_AAC_BITS_PER_SECOND = 256_000

# A film for a web page starts to play before it is there as a whole.
_OPTIONS = {"mp4": {"movflags": "+faststart"}, "mov": {"movflags": "+faststart"}, "matroska": {}}

# What describes the work, not the file it stood in.
_KEPT_METADATA = ("title", "artist", "album", "comment", "date", "copyright", "description", "creation_time")


def write(draft: Path, name: str, picture: PictureSource, sound: Iterable[Block]) -> str:
    """Writes the film.

    Args:
        draft: where to; its ending does not matter.
        name: what it will be called; its ending chooses the container.
        picture: the film whose pictures are copied.
        sound: float32 (2, N) at 48 kHz, from the film's beginning.

    Returns:
        FFmpeg's name of the sound's codec.

    Raises:
        MediaError: the container cannot hold such pictures.
    """
    container_name, codec = CONTAINERS[Path(name).suffix.lower()]
    with av.open(str(draft), "w", format=container_name, options=dict(_OPTIONS[container_name])) as container:
        container.metadata.update({key: text for key, text in picture.metadata.items() if key in _KEPT_METADATA})
        copied = _copy_of(container, picture, name)
        encoded = _sound_stream(container, codec)
        try:
            container.start_encoding()
            packets = heapq.merge(_copies(picture, copied), sound_packets(encoded, sound), key=decode_seconds)
            for packet in packets:
                container.mux(packet)
        except (av.error.InvalidDataError, av.error.ArgumentError, av.error.PatchWelcomeError) as fault:
            raise _does_not_fit(picture, name) from fault
    return codec


def _copy_of(container: OutputContainer, picture: PictureSource, name: str) -> Stream:
    try:
        stream = container.add_stream_from_template(picture.stream, opaque=True)
    except ValueError as fault:
        raise _does_not_fit(picture, name) from fault
    if picture.stream.sample_aspect_ratio:  # the container's word, which the codec's own may lack
        stream.codec_context.sample_aspect_ratio = picture.stream.sample_aspect_ratio
    if (
        picture.stream.codec_context.codec.canonical_name == "hevc"
        and CONTAINERS[Path(name).suffix.lower()][0] != "matroska"
    ):
        # FFmpeg's own choice, hev1, is not played by QuickTime and what builds on it.
        stream.codec_context.codec_tag = "hvc1"
    return stream


def _does_not_fit(picture: PictureSource, name: str) -> MediaError:
    suffix = Path(name).suffix.lower()
    codec = picture.stream.codec_context.codec.canonical_name
    others = [other for other in (".mkv", ".mov") if other != suffix and _holds(other, picture)]
    advice = f"write {' or '.join(others)}" if others else "convert the film first"
    return MediaError(picture.path, "unreadable", f"its pictures ({codec}) cannot be copied into {suffix}; {advice}")


def _holds(suffix: str, picture: PictureSource) -> bool:
    """Does FFmpeg write such a header? Its lists of codecs promise more than that."""
    try:
        with av.open(io.BytesIO(), "w", format=CONTAINERS[suffix][0]) as container:
            container.add_stream_from_template(picture.stream, opaque=True)
            container.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True


def _sound_stream(container: OutputContainer, codec: str) -> AudioStream:
    stream = container.add_stream(codec, rate=SAMPLE_RATE_HZ, layout="stereo")
    assert isinstance(stream, AudioStream)
    if codec == "aac":
        stream.bit_rate = _AAC_BITS_PER_SECOND
    return stream


def _copies(picture: PictureSource, stream: Stream) -> Iterator[av.Packet[Stream]]:
    for packet in picture.packets():
        packet.stream = stream  # type: ignore[assignment]
        yield packet  # type: ignore[misc]


def sound_packets(stream: AudioStream, blocks: Iterable[Block]) -> Iterator[av.Packet[Stream]]:
    """Blocks of float32 (2, N) at 48 kHz, encoded, from the file's beginning on."""
    place = 0
    for block in blocks:
        frame = av.AudioFrame.from_ndarray(np.clip(block, -1.0, 1.0), format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE_HZ, Fraction(1, SAMPLE_RATE_HZ), place
        place += block.shape[1]
        yield from stream.encode(frame)
    yield from stream.encode(None)


def decode_seconds(packet: av.Packet[Stream]) -> float:
    """When a packet is due at the decoder: the order in which streams lie in a file."""
    ticks = packet.dts if packet.dts is not None else packet.pts
    return float((ticks or 0) * packet.time_base)
