"""Stereo audio at 48 kHz: decoding it to a track, running it through libavfilter, and measuring its loudness.

Letters: N samples of a block, C channels.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from numpy.typing import NDArray

from cmmixer.media.audio import JOIN_SECONDS, ChannelMixer
from cmmixer.media.container import TimedFrame

SAMPLE_RATE_HZ = 48_000
BLOCK_SAMPLES = SAMPLE_RATE_HZ // 10

# float32 (2, N), full scale is 1.
Block = NDArray[np.float32]

# Adds filters behind the sources and returns them in order; each is linked to the next. The first is a source, or linked already.
GraphBuilder = Callable[[Graph, list[FilterContext]], Sequence[FilterContext]]

# ebur128 reports -70 if no block of 400 ms passes the absolute gate.
_GATE_LUFS = -70.0

_BYTES_PER_SAMPLE = 2 * 4


def stereo_blocks(frames: Iterable[TimedFrame], start_seconds: float, seconds: float) -> Iterator[Block]:
    """Converts decoded audio to gapless stereo, for the stretch [start, start + seconds) or up to the end of the audio.

    Args:
        frames: in order of time, the first early enough for the codec to have settled by `start_seconds`.
        start_seconds: start of the stretch.
        seconds: its greatest length.

    Yields:
        float32 (2, N) at 48 kHz; sample 0 of the first block lies at `start_seconds`.
    """
    playable = (timed for timed in frames if _audio_frame(timed).sample_rate > 0)
    first = next(playable, None)
    if first is None:
        return
    rate = _audio_frame(first).sample_rate
    gapless = _gapless(chain([first], playable), rate, start_seconds, seconds)
    yield from as_blocks(run_filters([gapless], filter_chain(("aresample", str(SAMPLE_RATE_HZ))), rate))


def _gapless(frames: Iterable[TimedFrame], rate: int, start_seconds: float, seconds: float) -> Iterator[Block]:
    """Yields samples at their own rate, each at its place in time, with silence where timestamps leave a gap."""
    mixer = ChannelMixer(rate, "stereo")
    done, length = 0, round(seconds * rate)
    expected: int | None = None
    for timed in frames:
        begin = round((timed.seconds - start_seconds) * rate)
        if expected is not None and abs(begin - expected) <= JOIN_SECONDS * rate:
            begin = expected
        samples_CN = mixer.mix(_audio_frame(timed))
        expected = begin + samples_CN.shape[1]
        if expected <= done:
            continue
        while done < min(begin, length):
            silence = np.zeros((2, min(begin - done, length - done, BLOCK_SAMPLES)), np.float32)
            done += silence.shape[1]
            yield silence
        part = samples_CN[:, max(0, done - begin) : max(0, length - begin)]
        done += part.shape[1]
        if part.shape[1]:
            yield part
        if done >= length:
            return


def _audio_frame(timed: TimedFrame) -> av.AudioFrame:
    assert isinstance(timed.frame, av.AudioFrame)
    return timed.frame


class Track:
    """A sound on a video's timeline, stored in an unnamed temporary file that disappears with the process.

    A file, because two hours are 2.8 GB; decoded once, because measuring, mixing and encoding each read it.
    """

    def __init__(self, folder: Path, video_samples: int, offset_samples: int = 0) -> None:
        """Creates an empty track.

        Args:
            folder: of the temporary file.
            video_samples: length of the timeline.
            offset_samples: where on it the sound begins.
        """
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self.video_samples = video_samples
        self.offset_samples = offset_samples
        self.samples = 0
        self.peak = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def end_samples(self) -> int:
        """Where on the timeline the sound ends."""
        return self.offset_samples + self.samples

    def fill(self, blocks: Iterable[Block]) -> Self:
        """Appends blocks, up to the end of the timeline."""
        for block in blocks:
            part = block[:, : self.video_samples - self.end_samples]
            if part.shape[1]:
                self._file.write(np.ascontiguousarray(part.T).tobytes())
                self.samples += part.shape[1]
                self.peak = max(self.peak, float(np.abs(part).max()))
        return self

    def blocks(self) -> Iterator[Block]:
        """Yields the whole timeline as float32 (2, N), with silence before and after the sound."""
        for begin in range(0, self.video_samples, BLOCK_SAMPLES):
            count = min(BLOCK_SAMPLES, self.video_samples - begin)
            block = np.zeros((2, count), np.float32)
            low, high = max(begin, self.offset_samples), min(begin + count, self.end_samples)
            if high > low:
                block[:, low - begin : high - begin] = self._read(low - self.offset_samples, high - low)
            yield block

    def _read(self, first: int, count: int) -> NDArray[np.float32]:
        self._file.seek(first * _BYTES_PER_SAMPLE)
        return np.frombuffer(self._file.read(count * _BYTES_PER_SAMPLE), np.float32).reshape(count, 2).T


@dataclass(frozen=True)
class Loudness:
    """Loudness of a sound after EBU R128 (ITU-R BS.1770).

    Attributes:
        lufs: integrated loudness; None if it is too short or too quiet to have one.
        true_peak_dbtp: highest peak, also between samples, in decibels relative to full scale.
    """

    lufs: float | None
    true_peak_dbtp: float


def measure_loudness(blocks: Iterable[Block]) -> Loudness:
    """Measures the loudness of stereo audio at 48 kHz, with libavfilter's ebur128."""
    measured: dict[str, str] = {}
    for frame in run_filters([_padded(blocks)], filter_chain(("ebur128", "metadata=1:peak=true:framelog=quiet"))):
        measured = dict(frame.metadata) or measured
    lufs = float(measured.get("lavfi.r128.I", _GATE_LUFS))
    peak = float(measured.get("lavfi.r128.true_peak", 0.0))
    return Loudness(lufs if lufs > _GATE_LUFS else None, decibels(peak))


def decibels(ratio: float) -> float:
    """Returns 20 log10(ratio); minus infinity for 0."""
    return 20.0 * math.log10(ratio) if ratio > 0 else -math.inf


def _padded(blocks: Iterable[Block]) -> Iterator[Block]:
    """Pads with silence to a full 100 ms: ebur128 reports nothing about an incomplete interval."""
    total = 0
    for block in blocks:
        total += block.shape[1]
        yield block
    yield np.zeros((2, -total % BLOCK_SAMPLES or BLOCK_SAMPLES), np.float32)


def run_filters(
    tracks: Sequence[Iterable[Block]], build: GraphBuilder, rate: int = SAMPLE_RATE_HZ
) -> Iterator[av.AudioFrame]:
    """Runs tracks through a filter graph.

    Args:
        tracks: one per source, all in blocks of the same lengths; blocks are float32 (2, N).
        build: builds the graph between sources and sink.
        rate: of the blocks.

    Yields:
        the output; the metadata of its frames hold what filters measured.
    """
    graph = Graph()
    graph.threads = 1
    layout = {"sample_rate": rate, "format": "fltp", "layout": "stereo", "time_base": Fraction(1, rate)}
    sources = [graph.add_abuffer(**layout) for _ in tracks]  # type: ignore[arg-type]
    sink = graph.add("abuffersink")
    # Without this, filters may choose interleaved samples.
    planar = graph.add("aformat", "sample_fmts=fltp:channel_layouts=stereo")
    graph.link_nodes(*build(graph, sources), planar, sink)
    graph.configure()
    position = 0
    for blocks in zip(*tracks, strict=True):
        for source, block in zip(sources, blocks, strict=True):
            source.push(_frame_of(block, position, rate))
        position += blocks[0].shape[1]
        yield from _pull(sink)
    for source in sources:
        source.push(None)
    yield from _pull(sink)


def filter_chain(*filters: tuple[str, str]) -> GraphBuilder:
    """Builds a graph of filters one after the other, given as (name, arguments)."""
    return lambda graph, sources: [*sources, *(graph.add(name, arguments) for name, arguments in filters)]


def as_blocks(frames: Iterable[av.AudioFrame]) -> Iterator[Block]:
    """Converts filtered frames to float32 (2, N)."""
    return (np.asarray(frame.to_ndarray(), np.float32) for frame in frames)


def _frame_of(block: Block, position: int, rate: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="stereo")
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), position
    return frame


def _pull(sink: FilterContext) -> Iterator[av.AudioFrame]:
    """Yields the frames that are ready."""
    while True:
        try:
            frame = sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(frame, av.AudioFrame)
        yield frame
