"""`cmmixer search`: a film, a silent film or a sound in; the moments of an index that go with it out.

The query is cut into moments as the library was. Its pictures are compared with the library's sounds, or its sounds with
the library's pictures, or on request any sense or both together with any. Every moment is looked at, unless the library is large
and `cmmixer index --optimize` has made a plan whose recall was measured. A hit is a moment of the library with the moment of the query
that it goes with best; of moments of one file that overlap or touch, the best one stands for all. Where one sense asks for the
other, the best moments are ordered anew by what happens when (`evaluation.sequence`).

Hits and timelines on the terminal.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cmmixer.config import SearchSettings
from cmmixer.editing.edl import FrameRate, source_timing, write_csv, write_edl
from cmmixer.encoders.base import Encoder
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import CheckpointError, SearchIndexError
from cmmixer.progress import NoProgress, Progress
from cmmixer.retrieval.hits import Hit, Match, best_moments, hit_of, timeline
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.query import FOUND_BY, STANDARD_INPUT, cut_query, query_file, reranked
from cmmixer.retrieval.schema import EXACT


def hits_table(title: str, hits: Sequence[Hit], moments: int) -> Table:
    """The hits, best first; times as minutes:seconds."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, justify in (
        ("#", "right"),
        ("score", "right"),
        ("moment", "right"),
        ("file", "left"),
        ("query at", "right"),
    ):
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "file")  # type: ignore[arg-type]
    for hit in hits:
        # Text, not markup: a file may be called [red].mp4.
        file = Text(_short_path(hit.path))
        if hit.missing:
            file.append(" (missing)", style="red")
        moment = f"{show_seconds(hit.start_seconds)} – {show_seconds(hit.end_seconds)}"
        table.add_row(str(hit.rank), f"{hit.score:.3f}", moment, file, show_seconds(hit.query_start_seconds))
    if not hits:
        table.caption = Text(f"nothing found among {moments} moments")
    return table


def show_seconds(seconds: float) -> str:
    """Minutes, seconds and tenths, 75.25 -> 1:15.2."""
    tenths = int(seconds * 10 + 1e-6)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def _short_path(path: str) -> str:
    """Seen from the current folder where the file is inside it."""
    here = os.path.join(os.getcwd(), "")
    return path.removeprefix(here)


def timeline_table(matches: Sequence[Match]) -> Table:
    """Stretches of the query in its order, and what goes with each."""
    table = Table(
        title=Text("what goes with which part"), title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for name, justify in (("query", "right"), ("score", "right"), ("moment", "right"), ("file", "left")):
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "file")  # type: ignore[arg-type]
    for match in matches:
        table.add_row(
            f"{show_seconds(match.query_start_seconds)} – {show_seconds(match.query_end_seconds)}",
            f"{match.score:.3f}",
            f"{show_seconds(match.start_seconds)} – {show_seconds(match.end_seconds)}",
            Text(_short_path(match.path)),
        )
    return table


_FOUND = {"audio": "sounds for", "video": "pictures for", "film": "films for"}

# Where neither the query nor what it found has pictures.
_USUAL_FRAMES_PER_SECOND = 25.0


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        query: the file searched with, or `-`.
        target: what was searched for: `audio`, `video` or `film`.
        by: what of the query it was found by.
        hits: best first.
        moments: how many moments the index holds.
        plan: how they were looked at: `exact`, or the kind of the approximate index.
        recall: part of the nearest moments that it finds, as measured when it was made.
        rerank: `sequence` where the best were ordered anew by what happens when, else `none`.
        timeline: what goes with which stretch of the query, in its order; None where it was not asked for.
    """

    query: str
    target: str
    by: str
    hits: list[Hit]
    moments: int
    plan: str = EXACT
    recall: float = 1.0
    rerank: str = "none"
    timeline: list[Match] | None = None

    def as_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "query": self.query,
            "target": self.target,
            "by": self.by,
            "moments_searched": self.moments,
            "plan": self.plan,
            "recall": self.recall,
            "rerank": self.rerank,
            "hits": [asdict(hit) for hit in self.hits],
        }
        if self.timeline is not None:
            values["timeline"] = [asdict(match) for match in self.timeline]
        return values

    def render(self) -> RenderableType:
        """The hits as a table for the terminal, and the timeline where it was asked for."""
        what = _FOUND[self.target]
        if self.by != FOUND_BY[self.target]:
            what += {"audio": " the sound of", "video": " the pictures of", "film": " picture and sound of"}[self.by]
        query = "standard input" if self.query == STANDARD_INPUT else self.query
        hits = hits_table(f"{what} {query}", self.hits, self.moments)
        return hits if self.timeline is None else Group(hits, "", timeline_table(self.timeline))


def search(
    settings: SearchSettings,
    progress: Progress | None = None,
    *,
    encoder: Encoder | None = None,
    stdin: BinaryIO | None = None,
) -> SearchResult:
    """Finds the moments of an index that go with a query.

    Args:
        settings: of the command.
        progress: told what goes on.
        encoder: the index's model, where it is loaded already.
        stdin: where the query `-` is read from.

    Raises:
        SearchIndexError: no index, a damaged one, or one of another model.
        MediaError: the query cannot be used, or lacks the sense that finds the target.
    """
    progress = progress or NoProgress()
    library = MomentIndex.open(settings.index)
    encoder = _encoder_of(library, settings) if encoder is None else encoder
    library.card.check_encoder(encoder, library.folder)
    progress.start(None, "listening to and looking at the query")
    with query_file(settings.query, stdin) as path:
        target, by, asking = cut_query(path, settings, library, encoder)
        own_rate = settings.fps or (source_timing(path).frames_per_second if settings.edl or settings.csv else None)
    progress.start(None, "searching")
    anew = reranked(settings.rerank, target, by)
    best = best_moments(library, asking, target, settings.k, settings.rerank_top if anew else 0, exact=settings.exact)
    hits = [hit_of(rank, row, target, asking) for rank, row in enumerate(best, start=1)]
    plan = None if settings.exact else library.plan(target)
    followed = (EXACT, 1.0) if plan is None else (plan.kind, plan.recall)
    found = timeline(library, asking, target, exact=settings.exact) if settings.timeline else None
    result = SearchResult(
        settings.query, target, by, hits, library.count(), *followed, "sequence" if anew else "none", found
    )
    _take_along(result, settings, own_rate)
    return result


def _take_along(result: SearchResult, settings: SearchSettings, frames_per_second: float | None) -> None:
    """The lists that were asked for, in timecodes of the query, else of the first hit that has pictures."""
    if settings.edl is None and settings.csv is None:
        return
    timing = functools.cache(source_timing)
    rates = (timing(hit.path).frames_per_second for hit in result.hits)
    rate = FrameRate.fitting(frames_per_second or next(filter(None, rates), None) or _USUAL_FRAMES_PER_SECOND)
    query = "standard input" if result.query == STANDARD_INPUT else os.path.basename(result.query)
    if settings.edl is not None:
        title = f"{_FOUND[result.target]} {query}"
        write_edl(settings.edl, result.hits, target=result.target, rate=rate, title=title, query=query, timing=timing)
    if settings.csv is not None:
        write_csv(settings.csv, result.hits, rate=rate, query=query, timing=timing)


def _encoder_of(library: MomentIndex, settings: SearchSettings) -> Encoder:
    path = settings.model or library.card.model
    try:
        return load_encoder(path, settings.device)
    except CheckpointError as fault:
        if settings.model is not None:
            raise
        raise SearchIndexError(
            f"{library.folder}: the model that made it, {library.card.model_id[:16]}, cannot be loaded from where it was "
            f"({fault}); say where it is with --model"
        ) from fault
