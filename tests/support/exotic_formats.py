"""Videos and sounds in formats that browsers do not play; colors and tones are those of `tests.support.coloured_videos`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import torch

from cmmixer.media.decode import MediaFile
from tests.support.coloured_videos import FPS, Colour, ColourEncoder, pixels, samples

RATE_HZ, BITS_PER_SECOND = 48000, 128_000
# Kind -> container, video codec, pixel format, audio codec.
VIDEOS = {
    "avi": ("avi", "mpeg4", "yuv420p", "mp2"),
    "mkv": ("matroska", "ffv1", "yuv444p", "flac"),
    "mov": ("mov", "prores_ks", "yuv422p10le", "pcm_s16le"),
    "mov-aac": ("mov", "prores_ks", "yuv422p10le", "aac"),
    "wmv": ("asf", "wmv2", "yuv420p", "wmav2"),
    "mxf": ("mxf", "mpeg2video", "yuv422p", "pcm_s16le"),
}
# Kind -> container, audio codec.
SOUNDS = {
    "aiff": ("aiff", "pcm_s16be"),
    "ac3": ("ac3", "ac3"),
    "wma": ("asf", "wmav2"),
    "au": ("au", "pcm_s16be"),
    "m4a": ("mp4", "alac"),
    "tta": ("tta", "tta"),
}


def exotic_video(path: Path, colours: Sequence[Colour], kind: str, *, silent: bool = False) -> Path:
    """Writes a video with one second per color, in a format of `VIDEOS` whatever the path's ending."""
    container_format, video_codec, pixel_format, audio_codec = VIDEOS[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    # MXF has fixed sizes and rates only.
    rate, width, height = (25, 720, 576) if kind == "mxf" else (round(FPS), 64, 64)
    with av.open(str(path), "w", format=container_format) as container:
        video = container.add_stream(video_codec, rate=rate)
        video.width, video.height, video.pix_fmt = width, height, pixel_format
        audio = None
        if not silent:
            audio = container.add_stream(audio_codec, rate=RATE_HZ, layout="stereo", bit_rate=BITS_PER_SECOND)
        for number in range(rate * len(colours)):
            frame = av.VideoFrame.from_ndarray(pixels([colours[number // rate]])[0], format="rgb24")
            frame = frame.reformat(width, height, pixel_format)
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(video.encode(frame))
            if audio is not None and number % rate == 0:
                container.mux(audio.encode(_second(colours, number // rate)))
        container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
    return path


def exotic_sound(path: Path, colours: Sequence[Colour], kind: str) -> Path:
    """Writes a sound with one second per color, in a format of `SOUNDS`."""
    container_format, codec = SOUNDS[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container_format) as container:
        audio = container.add_stream(codec, rate=RATE_HZ, layout="stereo", bit_rate=BITS_PER_SECOND)
        for number in range(len(colours)):
            container.mux(audio.encode(_second(colours, number)))
        container.mux(audio.encode(None))
    return path


def seen_colors(path: Path, times: list[float]) -> list[int]:
    """Returns which of red (0), green (1) and blue (2) is strongest in the frame at each time."""
    with MediaFile.open(path) as video:
        return video.frames(times, 8, 8).pixels_THWC.mean((1, 2)).argmax(1).tolist()  # type: ignore[no-any-return]


def heard_tones(path: Path, times: list[float]) -> list[int]:
    """Returns which of the tones of red (0), green (1) and blue (2) is strongest around each time."""
    with MediaFile.open(path) as audio:
        windows = audio.audio_windows(times, 0.4, 8000).samples_TN
    tones = ColourEncoder().embed_audio(torch.from_numpy(windows.reshape(-1, 2, windows.shape[1]))).frames_BTE
    return tones.reshape(len(times), 4)[:, :3].argmax(1).tolist()  # type: ignore[no-any-return]


def _second(colours: Sequence[Colour], number: int) -> av.AudioFrame:
    """The second of audio that matches a color."""
    mono = samples([colours[number]], rate_hz=RATE_HZ)
    frame = av.AudioFrame.from_ndarray(mono.repeat(2)[None], format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, number * RATE_HZ, Fraction(1, RATE_HZ)
    return frame
