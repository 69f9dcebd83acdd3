"""Finds the cuts of a video with FFmpeg's scene change detector, on every frame, scaled down."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
from av.filter import Graph

from cmmixer.media.container import media_errors
from cmmixer.media.decode import MediaFile

# A shorter shot counts as a flash within a shot.
MIN_SHOT_SECONDS = 0.5

# The detector's own default; its manual calls 8 to 14 good values (ffmpeg-filters, scdet).
_THRESHOLD = 10.0
_WIDTH = 160
# Cuts this close to the ends of the range are not inside it.
_MARGIN_SECONDS = 1e-3


def detect_cuts(media: MediaFile, start_seconds: float, end_seconds: float) -> list[float]:
    """Returns the instants in (start, end) at which a new shot begins, at least `MIN_SHOT_SECONDS` apart.

    Raises:
        MediaError: `no-video`, `unreadable` or `time-limit`.
    """
    cuts: list[float] = []
    with media_errors(media.info.path):
        for seconds in _scene_changes(media, start_seconds, end_seconds):
            long_enough = not cuts or seconds - cuts[-1] >= MIN_SHOT_SECONDS
            if long_enough and start_seconds + _MARGIN_SECONDS < seconds < end_seconds - _MARGIN_SECONDS:
                cuts.append(seconds)
    return cuts


def _scene_changes(media: MediaFile, start_seconds: float, end_seconds: float) -> Iterator[float]:
    detector: _Detector | None = None
    for timed in media.video_frames_from(start_seconds):
        if timed.seconds >= end_seconds:
            return
        assert isinstance(timed.frame, av.VideoFrame)
        shape = (timed.frame.width, timed.frame.height, timed.frame.format.name)
        if detector is None or detector.shape != shape:
            detector = _Detector(shape)  # a stream may change its size halfway
        if detector.is_change(timed.frame):
            yield timed.seconds


class _Detector:
    """scdet on small RGB frames, in which a change of color counts as much as one of brightness."""

    def __init__(self, shape: tuple[int, int, str]) -> None:
        self.shape = shape
        width, height, pixel_format = shape
        self._graph = Graph()
        self._graph.threads = 1
        pixels = av.VideoFormat(pixel_format, width, height)
        self._source = self._graph.add_buffer(width=width, height=height, format=pixels, time_base=Fraction(1, 1000))
        self._sink = self._graph.add("buffersink")
        scale = self._graph.add("scale", f"w={_WIDTH}:h=-2:flags=area")
        to_rgb = self._graph.add("format", "rgb24")
        scene_change = self._graph.add("scdet", f"threshold={_THRESHOLD}")
        self._graph.link_nodes(self._source, scale, to_rgb, scene_change, self._sink)
        self._graph.configure()
        self._pushed = 0

    def is_change(self, frame: av.VideoFrame) -> bool:
        """Whether a frame begins a new scene; frames must be passed in order."""
        # The filter needs increasing timestamps but does not use their distance.
        frame.pts = self._pushed
        self._pushed += 1
        self._source.push(frame)
        return "lavfi.scd.time" in self._sink.pull().metadata
