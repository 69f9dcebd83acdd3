"""Films and sounds in formats that browsers do not play; their colours and tones are those of `tests.support.coloured_videos`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av

from tests.support.coloured_videos import FPS, Colour, pixels, samples

RATE_HZ, BITS = 48000, 128_000
# File's ending -> container, picture's codec and how its pixels are stored, sound's codec.
FILMS = {
    "avi": ("avi", "mpeg4", "yuv420p", "mp2"),
    "mkv": ("matroska", "ffv1", "yuv444p", "flac"),
    "mov": ("mov", "prores_ks", "yuv422p10le", "pcm_s16le"),
    "mov-aac": ("mov", "prores_ks", "yuv422p10le", "aac"),
    "wmv": ("asf", "wmv2", "yuv420p", "wmav2"),
    "mxf": ("mxf", "mpeg2video", "yuv422p", "pcm_s16le"),
}
SOUNDS = {
    "aiff": ("aiff", "pcm_s16be"),
    "ac3": ("ac3", "ac3"),
    "wma": ("asf", "wmav2"),
    "au": ("au", "pcm_s16be"),
    "m4a": ("mp4", "alac"),
    "tta": ("tta", "tta"),
}


def exotic_film(path: Path, colours: Sequence[Colour], kind: str, *, silent: bool = False) -> Path:
    """A film of a second a colour, as `FILMS` says, whatever the path's ending."""
    form, picture, pixel_format, sound = FILMS[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = 25 if kind == "mxf" else round(FPS)
    with av.open(str(path), "w", format=form) as container:
        shown = container.add_stream(picture, rate=rate)
        shown.width, shown.height, shown.pix_fmt = (720, 576, pixel_format) if kind == "mxf" else (64, 64, pixel_format)
        heard = None if silent else container.add_stream(sound, rate=RATE_HZ, layout="stereo", bit_rate=BITS)
        for place in range(rate * len(colours)):
            frame = av.VideoFrame.from_ndarray(pixels([colours[place // rate]])[0], format="rgb24")
            frame = frame.reformat(shown.width, shown.height, pixel_format)
            frame.pts, frame.time_base = place, Fraction(1, rate)
            container.mux(shown.encode(frame))
            if heard is not None and place % rate == 0:
                container.mux(heard.encode(_block(colours, place // rate)))
        container.mux(shown.encode(None))
        if heard is not None:
            container.mux(heard.encode(None))
    return path


def exotic_sound(path: Path, colours: Sequence[Colour], kind: str) -> Path:
    """A sound of a second a colour, as `SOUNDS` says."""
    form, codec = SOUNDS[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=form) as container:
        heard = container.add_stream(codec, rate=RATE_HZ, layout="stereo", bit_rate=BITS)
        for place in range(len(colours)):
            container.mux(heard.encode(_block(colours, place)))
        container.mux(heard.encode(None))
    return path


def _block(colours: Sequence[Colour], place: int) -> av.AudioFrame:
    """The second of sound that goes with a colour."""
    mono = samples([colours[place]], rate_hz=RATE_HZ)
    frame = av.AudioFrame.from_ndarray(mono.repeat(2)[None], format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, place * RATE_HZ, Fraction(1, RATE_HZ)
    return frame
