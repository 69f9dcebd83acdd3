"""What a browser can play of a file: the file itself, or a converted part of it in a format that browsers play."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cmmixer.media.decode import MediaInfo
from cmmixer.media.sandbox import SandboxPool
from cmmixer.media.thumbnails import InfoTask, read_info
from cmmixer.server.cache import Cache, key_of
from cmmixer.server.problems import ProblemError, naming
from cmmixer.server.transcode import ConversionTask, convert, format_here

# Longest part of a file that is converted. Audio takes a hundredth of the time that video takes.
MAX_SECONDS = {"video": 180.0, "audio": 1800.0}
# Files up to this length are converted from their beginning, whatever is to be played of them.
_WHOLE_SECONDS = {"video": 60.0, "audio": MAX_SECONDS["audio"]}
# A part begins this long before what is to be played, on a grid, so that nearby moments share one conversion.
_GRID_SECONDS = 10.0
_MAX_WAITING = 16
_MAX_KNOWN = 4096
# Bump when conversions are made in another way: it is part of their key in the cache.
_VERSION = "1"

_MODERN_VIDEO = frozenset(("vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d"))
_MODERN_AUDIO = frozenset(("opus", "libopus", "vorbis"))
_PCM = frozenset(("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_f32le"))
# 8-bit 4:2:0, which every H.264 decoder of a browser supports.
_PIXEL_FORMATS = frozenset(("yuv420p", "yuvj420p", ""))


@dataclass(frozen=True)
class _Container:
    """The codecs that browsers play in a container format."""

    video: frozenset[str]
    audio: frozenset[str]


# What Chromium, Firefox and Safari have in common, by FFmpeg's names of containers and codecs. A browser that cannot
# play one of these all the same reports it, and the page asks for a conversion then.
_CONTAINERS = {
    "mp4": _Container(frozenset(("h264", "av1", "libdav1d")), frozenset(("aac", "mp3", "mp3float"))),
    "webm": _Container(_MODERN_VIDEO, _MODERN_AUDIO),
    "mp3": _Container(frozenset(), frozenset(("mp3", "mp3float"))),
    "ogg": _Container(frozenset(), _MODERN_AUDIO),
    "wav": _Container(frozenset(), _PCM),
    "flac": _Container(frozenset(), frozenset(("flac",))),
    "aac": _Container(frozenset(), frozenset(("aac",))),
}


def plays_in_browsers(info: MediaInfo, modality: str) -> bool:
    """Returns whether browsers play a file without conversion.

    Args:
        info: streams of the file.
        modality: `video`: it is shown, with its own audio; `audio`: it is only heard.
    """
    names = info.container.split(",")
    container = next((_CONTAINERS[name] for name in _CONTAINERS if name in names), None)
    if container is None:
        return False
    audio_plays = info.audio is None or info.audio.codec in container.audio
    if modality == "audio" or info.video is None:
        return audio_plays
    return audio_plays and info.video.codec in container.video and info.video.pixel_format in _PIXEL_FORMATS


@dataclass(frozen=True)
class PlayableFile:
    """A file to be played.

    Attributes:
        path: of the file.
        content_key: identifies the content of the file.
        name: for clients.
        info: streams of the file, where they are known already.
    """

    path: str
    content_key: str
    name: str
    info: MediaInfo | None = None


class Playbacks:
    """Decides what is played, and has files converted, one at a time per decoder process."""

    def __init__(self, cache: Cache, pool: SandboxPool, converters: SandboxPool, convert_seconds: float) -> None:
        """Starts without conversions.

        Args:
            cache: keeps conversions.
            pool: processes that read the streams of a file.
            converters: processes that convert.
            convert_seconds: time limit of a conversion.
        """
        self._cache = cache
        self._pool = pool
        self._converters = converters
        self._convert_seconds = convert_seconds
        self._known: dict[str, MediaInfo] = {}
        self._waiting = threading.BoundedSemaphore(_MAX_WAITING)

    def conversion_start(self, file: PlayableFile, modality: str, seconds: float, always: bool) -> float | None:
        """Returns the second of the file at which its conversion begins; None where the file itself is played.

        Args:
            file: the file.
            modality: `video`: its video with its audio; `audio`: its audio alone.
            seconds: time in the file that is to be played first.
            always: convert even a format that browsers usually play.

        Raises:
            ProblemError: the file cannot be read, or lacks the modality.
        """
        info = self._info(file)
        if not always and plays_in_browsers(info, modality):
            return None
        if info.duration_seconds <= _WHOLE_SECONDS[modality]:
            return 0.0
        return _on_grid(min(seconds, info.duration_seconds) - _GRID_SECONDS)

    def converted(self, file: PlayableFile, modality: str, start_seconds: float) -> Path:
        """Returns the conversion that begins at a second of the file, and makes it if it is not in the cache.

        Raises:
            ProblemError: the file cannot be converted, or too many files are waiting.
        """
        with naming(file.name):
            output_format = format_here()
        start_seconds = _on_grid(start_seconds)
        suffix = f".{output_format.ending}"
        key = key_of(_VERSION, "playback", file.content_key, modality, output_format.ending, f"{start_seconds:.3f}")

        def write(draft: Path) -> None:
            task = ConversionTask(
                path=file.path,
                out=str(draft),
                modality=modality,
                start_seconds=start_seconds,
                seconds=MAX_SECONDS[modality],
                file_seconds=self._convert_seconds,
                output_format=output_format,
            )
            with self._slot(), naming(file.name):
                self._converters.run(convert, task, seconds=self._convert_seconds)

        return self._cache.get_file(key, suffix, write)

    def _info(self, file: PlayableFile) -> MediaInfo:
        """Returns the streams of a file, and remembers them."""
        info = file.info or self._known.get(file.content_key)
        if info is None:
            with naming(file.name):
                task = InfoTask(file.path, self._convert_seconds)
                info = self._pool.run(read_info, task, seconds=self._convert_seconds)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[file.content_key] = info
        return info

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._waiting.acquire(blocking=False):
            raise ProblemError("busy", f"{_MAX_WAITING} files are waiting to be converted", {"Retry-After": "10"})
        try:
            yield
        finally:
            self._waiting.release()


def _on_grid(seconds: float) -> float:
    return max(0.0, seconds // _GRID_SECONDS * _GRID_SECONDS)
