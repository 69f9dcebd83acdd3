"""What a page plays of a file: the file itself, or a version of a stretch of it where browsers do not play its format.

What browsers play as it is: kinds of files with the codecs in them that Chromium, Firefox and Safari have in common.

Whatever is not here is converted, and whatever a browser refuses nevertheless it says so, and gets a conversion then.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cmmixer.media.decode import FilmInfo
from cmmixer.media.sandbox import IsolatedPool
from cmmixer.media.thumbnails import LookTask, look
from cmmixer.server.cache import Cache, key_of
from cmmixer.server.previews import told
from cmmixer.server.problems import ProblemError
from cmmixer.server.transcode import ConversionTask, convert, format_here

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


# How much of a file is converted at most. Sound takes a hundredth of the time that pictures take.
LONGEST_SECONDS = {"video": 180.0, "audio": 1800.0}

# Files that are no longer are converted from their beginning, whatever is to be played of them.
_WHOLE_SECONDS = {"video": 60.0, "audio": LONGEST_SECONDS["audio"]}

# A stretch begins so long before what is to be played, on a grid, so that neighbours share one.
_BEFORE_SECONDS = 10.0

_MOST_WAITING = 16

_MOST_KNOWN = 4096

# Bump when versions are made in another way.
_VERSION = "1"


@dataclass(frozen=True)
class Playable:
    """A file that is to be played.

    Attributes:
        path: where it lies.
        content: names what is in it.
        name: as it is known outside.
        info: what it holds, where that is known already.
    """

    path: str
    content: str
    name: str
    info: FilmInfo | None = None


class Playbacks:
    """Decides what is played, and has versions made, one of them at a time for each decoder process."""

    def __init__(self, cache: Cache, pool: IsolatedPool, converters: IsolatedPool, seconds: float) -> None:
        """`pool` looks into files, `converters` take at most `seconds` for a version."""
        self._cache = cache
        self._pool = pool
        self._converters = converters
        self._seconds = seconds
        self._known: dict[str, FilmInfo] = {}
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)

    def start_of(self, file: Playable, sense: str, seconds: float, always: bool) -> float | None:
        """The second of the file where its version begins; None: the file itself is played.

        Args:
            file: the file.
            sense: `video`: its picture with its sound; `audio`: its sound alone.
            seconds: what is to be played of it first.
            always: make a version though browsers usually play such a file.

        Raises:
            ProblemError: the file cannot be read, or lacks the sense.
        """
        info = self._info(file)
        if not always and plays_as_it_is(info, sense):
            return None
        if info.duration_seconds <= _WHOLE_SECONDS[sense]:
            return 0.0
        return _on_grid(min(seconds, info.duration_seconds) - _BEFORE_SECONDS)

    def version(self, file: Playable, sense: str, start_seconds: float) -> Path:
        """The version that begins at a second of the file; made if it is not there.

        Raises:
            ProblemError: it cannot be made, or too many are waiting.
        """
        with told(file.name):
            form = format_here()
        start_seconds = _on_grid(start_seconds)
        key = key_of(_VERSION, "playback", file.content, sense, form.ending, f"{start_seconds:.3f}")

        def write(draft: Path) -> None:
            task = ConversionTask(
                file.path, str(draft), sense, start_seconds, LONGEST_SECONDS[sense], self._seconds, form
            )
            with self._turn(), told(file.name):
                self._converters.run(convert, task, seconds=self._seconds)

        return self._cache.file(key, f".{form.ending}", write)

    def _info(self, file: Playable) -> FilmInfo:
        """What is in the file, remembered."""
        found = file.info or self._known.get(file.content)
        if found is None:
            with told(file.name):
                found = self._pool.run(look, LookTask(file.path, self._seconds), seconds=self._seconds)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[file.content] = found
        return found

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._waiting.acquire(blocking=False):
            raise ProblemError("busy", f"{_MOST_WAITING} files are waiting to be converted", {"Retry-After": "10"})
        try:
            yield
        finally:
            self._waiting.release()


def _on_grid(seconds: float) -> float:
    return max(0.0, seconds // _BEFORE_SECONDS * _BEFORE_SECONDS)
