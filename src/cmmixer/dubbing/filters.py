"""Blocks of samples through libavfilter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from numpy.typing import NDArray

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
