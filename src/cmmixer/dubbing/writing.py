"""The new file: copied picture packets and encoded sound, in order of time."""

from __future__ import annotations

import heapq
import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.stream import Stream

from cmmixer.dubbing.filters import SAMPLE_RATE_HZ, Block
from cmmixer.dubbing.picture import PictureSource
from cmmixer.errors import MediaError

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
