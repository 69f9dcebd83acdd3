"""Decoded sound as a track on the film's timeline: stereo, 48 kHz, float32, read again as often as needed.

Letters: N samples of a block, two channels.

Blocks of samples through libavfilter.

How loud a sound is: integrated loudness and true peak after EBU R128 (ITU-R BS.1770), by libavfilter's ebur128.
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

# Adds filters behind the sources and gives them in order, each linked to the next; the first is linked already or a source.
Wire = Callable[[Graph, list[FilterContext]], Sequence[FilterContext]]


def filtered(tracks: Sequence[Iterable[Block]], wire: Wire, rate: int = SAMPLE_RATE_HZ) -> Iterator[av.AudioFrame]:
    """Pushes tracks of equal blocks through a filter graph.

    Args:
        tracks: one for each source; blocks float32 (2, N).
        wire: builds the graph between sources and sink.
        rate: of the blocks.

    Yields:
        what comes out; its metadata hold what filters measured.
    """
    graph = Graph()
    graph.threads = 1
    layout = {"sample_rate": rate, "format": "fltp", "layout": "stereo", "time_base": Fraction(1, rate)}
    sources = [graph.add_abuffer(**layout) for _ in tracks]  # type: ignore[arg-type]
    sink = graph.add("abuffersink")
    # Filters choose interleaved samples where they may.
    shape = graph.add("aformat", "sample_fmts=fltp:channel_layouts=stereo")
    graph.link_nodes(*wire(graph, sources), shape, sink)
    graph.configure()
    place = 0
    for blocks in zip(*tracks, strict=True):
        for source, block in zip(sources, blocks, strict=True):
            source.push(_frame(block, place, rate))
        place += blocks[0].shape[1]
        yield from _ready(sink)
    for source in sources:
        source.push(None)
    yield from _ready(sink)


def in_line(*filters: tuple[str, str]) -> Wire:
    """Filters one after the other, as (name, arguments)."""
    return lambda graph, sources: [*sources, *(graph.add(name, arguments) for name, arguments in filters)]


def _frame(block: Block, place: int, rate: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="stereo")
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), place
    return frame


def _ready(sink: FilterContext) -> Iterator[av.AudioFrame]:
    while True:
        try:
            frame = sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(frame, av.AudioFrame)
        yield frame


_FRAME_BYTES = 2 * 4


def stereo_blocks(frames: Iterable[TimedFrame], start_seconds: float, seconds: float) -> Iterator[Block]:
    """The stretch [start, start + seconds) of a sound, without gaps; it ends early where the sound does.

    Args:
        frames: in order of time, the first early enough for the codec to have settled by `start_seconds`.
        start_seconds: where the stretch begins.
        seconds: how long it is at most.

    Yields:
        float32 (2, N) at 48 kHz; sample 0 of the first lies at `start_seconds`.
    """
    playable = (timed for timed in frames if _sound(timed).sample_rate > 0)
    first = next(playable, None)
    if first is None:
        return
    rate = _sound(first).sample_rate
    laid = _laid_out(chain([first], playable), rate, start_seconds, seconds)
    resampled = filtered([laid], lambda graph, sources: [*sources, graph.add("aresample", str(SAMPLE_RATE_HZ))], rate)
    yield from (np.asarray(frame.to_ndarray(), np.float32) for frame in resampled)


def _laid_out(frames: Iterable[TimedFrame], rate: int, start_seconds: float, seconds: float) -> Iterator[Block]:
    """Samples at the sound's own rate, each in its place; silence where timestamps leave a gap."""
    mixer = ChannelMixer(rate, "stereo")
    done, wanted = 0, round(seconds * rate)
    following: int | None = None
    for timed in frames:
        place = round((timed.seconds - start_seconds) * rate)
        if following is not None and abs(place - following) <= JOIN_SECONDS * rate:
            place = following
        samples_CN = mixer.mix(_sound(timed))
        following = place + samples_CN.shape[1]
        if following <= done:
            continue
        while done < min(place, wanted):
            silent = np.zeros((2, min(place - done, wanted - done, BLOCK_SAMPLES)), np.float32)
            done += silent.shape[1]
            yield silent
        part = samples_CN[:, max(0, done - place) : max(0, wanted - place)]
        done += part.shape[1]
        if part.shape[1]:
            yield part
        if done >= wanted:
            return


def _sound(timed: TimedFrame) -> av.AudioFrame:
    assert isinstance(timed.frame, av.AudioFrame)
    return timed.frame


class Track:
    """A sound on the film's timeline, kept in a temporary file without a name, which goes when the process does.

    A file, because two hours are 2.8 GB; decoded once, because measuring, mixing and encoding each read it.
    """

    def __init__(self, folder: Path, film_samples: int, offset_samples: int = 0) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self.film_samples = film_samples
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
        """Where on the film's timeline it ends."""
        return self.offset_samples + self.samples

    def fill(self, blocks: Iterable[Block]) -> Self:
        """Takes what fits before the film's end."""
        for block in blocks:
            part = block[:, : self.film_samples - self.end_samples]
            if part.shape[1]:
                self._file.write(np.ascontiguousarray(part.T).tobytes())
                self.samples += part.shape[1]
                self.peak = max(self.peak, float(np.abs(part).max()))
        return self

    def blocks(self) -> Iterator[Block]:
        """The whole film's length from its beginning, float32 (2, N); silence where this sound is not."""
        for begin in range(0, self.film_samples, BLOCK_SAMPLES):
            count = min(BLOCK_SAMPLES, self.film_samples - begin)
            block = np.zeros((2, count), np.float32)
            low, high = max(begin, self.offset_samples), min(begin + count, self.end_samples)
            if high > low:
                block[:, low - begin : high - begin] = self._read(low - self.offset_samples, high - low)
            yield block

    def _read(self, first: int, count: int) -> NDArray[np.float32]:
        self._file.seek(first * _FRAME_BYTES)
        return np.frombuffer(self._file.read(count * _FRAME_BYTES), np.float32).reshape(count, 2).T


# The filter says -70 where no block of 400 ms passes the absolute gate.
_GATE_LUFS = -70.0


@dataclass(frozen=True)
class Loudness:
    """What was measured.

    Attributes:
        lufs: integrated loudness; None where nothing is loud or long enough to have one.
        true_peak_dbtp: highest peak between the samples, decibels relative to full scale.
    """

    lufs: float | None
    true_peak_dbtp: float


def measure(blocks: Iterable[Block]) -> Loudness:
    """Loudness of a stereo sound at 48 kHz."""
    told: dict[str, str] = {}
    for frame in filtered([_whole(blocks)], in_line(("ebur128", "metadata=1:peak=true:framelog=quiet"))):
        told = dict(frame.metadata) or told
    lufs = float(told.get("lavfi.r128.I", _GATE_LUFS))
    peak = float(told.get("lavfi.r128.true_peak", 0.0))
    return Loudness(lufs if lufs > _GATE_LUFS else None, decibels(peak))


def decibels(ratio: float) -> float:
    """20 log10; minus infinity for nothing."""
    return 20.0 * math.log10(ratio) if ratio > 0 else -math.inf


def _whole(blocks: Iterable[Block]) -> Iterator[Block]:
    """The sound and silence up to a full 100 ms: the filter tells nothing about a stretch that is cut short."""
    total = 0
    for block in blocks:
        total += block.shape[1]
        yield block
    yield np.zeros((2, -total % BLOCK_SAMPLES or BLOCK_SAMPLES), np.float32)
