"""Where shots of a film change: FFmpeg's scene change detector looks at every frame, made small."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
from av.filter import Graph

from cmmixer.media.container import media_errors
from cmmixer.media.decode import Film

# The detector's own default; its manual calls 8 to 14 good values (ffmpeg-filters, scdet).
_THRESHOLD = 10.0
_WIDTH = 160
# What is shorter is a flash within a shot.
SHORTEST_SHOT_SECONDS = 0.5
_SOON_SECONDS = 1e-3


def cut_instants(film: Film, start_seconds: float, end_seconds: float) -> list[float]:
    """Seconds in (start, end) at which a new shot begins, at least `SHORTEST_SHOT_SECONDS` apart.

    Raises:
        MediaError: `no-picture`, `unreadable` or `time-limit`.
    """
    found: list[float] = []
    with media_errors(film.info.path):
        for seconds in _changes(film, start_seconds, end_seconds):
            fresh = not found or seconds - found[-1] >= SHORTEST_SHOT_SECONDS
            if fresh and start_seconds + _SOON_SECONDS < seconds < end_seconds - _SOON_SECONDS:
                found.append(seconds)
    return found


def _changes(film: Film, start_seconds: float, end_seconds: float) -> Iterator[float]:
    detector: _Detector | None = None
    for timed in film.pictures_from(start_seconds):
        if timed.seconds >= end_seconds:
            return
        assert isinstance(timed.frame, av.VideoFrame)
        shape = (timed.frame.width, timed.frame.height, timed.frame.format.name)
        if detector is None or detector.shape != shape:
            detector = _Detector(shape)  # a stream may change its size; what comes after is looked at anew
        if detector.is_change(timed.frame):
            yield timed.seconds


class _Detector:
    """scdet on small RGB frames, in which a change of colour counts as one of brightness does."""

    def __init__(self, shape: tuple[int, int, str]) -> None:
        self.shape = shape
        width, height, kind = shape
        self._graph = Graph()
        self._graph.threads = 1
        pixels = av.VideoFormat(kind, width, height)
        self._source = self._graph.add_buffer(width=width, height=height, format=pixels, time_base=Fraction(1, 1000))
        self._sink = self._graph.add("buffersink")
        small = self._graph.add("scale", f"w={_WIDTH}:h=-2:flags=area")
        colours = self._graph.add("format", "rgb24")
        change = self._graph.add("scdet", f"threshold={_THRESHOLD}")
        self._graph.link_nodes(self._source, small, colours, change, self._sink)
        self._graph.configure()
        self._pushed = 0

    def is_change(self, frame: av.VideoFrame) -> bool:
        # Only the order of the frames counts for the filter.
        frame.pts = self._pushed
        self._pushed += 1
        self._source.push(frame)
        told = self._sink.pull()
        return "lavfi.scd.time" in told.metadata
