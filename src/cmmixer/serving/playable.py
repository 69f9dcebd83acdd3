"""What browsers play as it is: kinds of files with the codecs in them that Chromium, Firefox and Safari have in common.

Whatever is not here is converted, and whatever a browser refuses nevertheless it says so, and gets a conversion then.
"""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.media.decode import FilmInfo

_MODERN_PICTURES = frozenset(("vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d"))
_MODERN_SOUNDS = frozenset(("opus", "libopus", "vorbis"))
# Eight bits, colour at half the size: what every H.264 decoder of a browser takes.
_PIXELS = frozenset(("yuv420p", "yuvj420p", ""))
_PCM = frozenset(("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_f32le"))


@dataclass(frozen=True)
class _Kind:
    """A kind of file, and which codecs may be in it."""

    pictures: frozenset[str]
    sounds: frozenset[str]


# By FFmpeg's names of the formats.
_KINDS = {
    "mp4": _Kind(frozenset(("h264", "av1", "libdav1d")), frozenset(("aac", "mp3", "mp3float"))),
    "webm": _Kind(_MODERN_PICTURES, _MODERN_SOUNDS),
    "mp3": _Kind(frozenset(), frozenset(("mp3", "mp3float"))),
    "ogg": _Kind(frozenset(), _MODERN_SOUNDS),
    "wav": _Kind(frozenset(), _PCM),
    "flac": _Kind(frozenset(), frozenset(("flac",))),
    "aac": _Kind(frozenset(), frozenset(("aac",))),
}


def plays_as_it_is(info: FilmInfo, sense: str) -> bool:
    """Whether a browser can be given the file itself.

    Args:
        info: what the file holds.
        sense: `video`: its picture is shown, with its own sound; `audio`: it is only heard.
    """
    names = info.container.split(",")
    kind = next((_KINDS[name] for name in _KINDS if name in names), None)
    if kind is None:
        return False
    heard = info.sound is None or info.sound.codec in kind.sounds
    if sense == "audio" or info.picture is None:
        return heard
    return heard and info.picture.codec in kind.pictures and info.picture.pixel_format in _PIXELS
