"""`cmmixer search`: finds the moments of an index that match a video, a silent video or a sound.

The query is cut into moments like the files of the index. Its frames are compared with their sound, or its sound with their
frames, or, if asked for, any modality with any, or both fused. The search is exact unless the index is large and
`cmmixer index --optimize` has built an ANN index. A hit is a moment of the index and the moment of the query that it matches
best; of moments of one file that overlap or touch, the best stands for all. Where one modality searches for the other, the
best moments are reranked by the order of events (`models.rerank`).
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
from cmmixer.config.fields import accepts_settings
from cmmixer.editing.edl import source_timing, write_csv, write_edl
from cmmixer.editing.timecode import FrameRate
from cmmixer.encoders.base import Encoder
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import CheckpointError, SearchIndexError
from cmmixer.progress import NoProgress, Progress
from cmmixer.retrieval.hits import Hit, Match, best_moments, timeline, to_hit
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.query import SEARCHED_BY, STANDARD_INPUT, embed_query, query_file, uses_reranking
from cmmixer.retrieval.schema import EXACT

_TARGETS = {"audio": "sounds for", "video": "pictures for", "any": "videos for"}
_MODALITIES_OF_QUERY = {"audio": " the sound of", "video": " the pictures of", "any": " picture and sound of"}

# For timecodes where neither the query nor a hit has frames.
_DEFAULT_FRAMES_PER_SECOND = 25.0


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        query: the file, or `-`.
        target: what was searched for: `audio`, `video` or `any`.
        by: the modality of the query that it was searched by.
        hits: best first.
        moments: number of moments in the index.
        index_kind: `exact`, or the type of the ANN index that was used.
        recall: the part of the nearest moments that this index finds, as measured when it was built.
        rerank: `sequence` if the best were reranked by the order of events, else `none`.
        timeline: the best match of each section of the query, in its order; None if not asked for.
    """

    query: str
    target: str
    by: str
    hits: list[Hit]
    moments: int
    index_kind: str = EXACT
    recall: float = 1.0
    rerank: str = "none"
    timeline: list[Match] | None = None

    def as_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "query": self.query,
            "target": self.target,
            "by": self.by,
            "moments_searched": self.moments,
            "index_kind": self.index_kind,
            "recall": self.recall,
            "rerank": self.rerank,
            "hits": [asdict(hit) for hit in self.hits],
        }
        if self.timeline is not None:
            values["timeline"] = [asdict(match) for match in self.timeline]
        return values

    def render(self) -> RenderableType:
        """Formats the hits, and the timeline if there is one, as tables for the terminal."""
        what = _TARGETS[self.target]
        if self.by != SEARCHED_BY[self.target]:
            what += _MODALITIES_OF_QUERY[self.by]
        query = "standard input" if self.query == STANDARD_INPUT else self.query
        hits = _hits_table(f"{what} {query}", self.hits, self.moments)
        return hits if self.timeline is None else Group(hits, "", _timeline_table(self.timeline))


@accepts_settings(SearchSettings)
def search(
    settings: SearchSettings,
    progress: Progress | None = None,
    *,
    encoder: Encoder | None = None,
    stdin: BinaryIO | None = None,
) -> SearchResult:
    """Finds the moments of an index that match a query.

    Args:
        settings: options of the command.
        progress: shows the stages.
        encoder: the index's model, if it is loaded already.
        stdin: the query, if it is `-`.

    Raises:
        SearchIndexError: there is no index, or it is damaged or of another model.
        MediaError: the query cannot be used, or lacks the modality to search by.
    """
    progress = progress or NoProgress()
    library = MomentIndex.open(settings.index)
    encoder = load_encoder_of(library, settings.model, settings.device) if encoder is None else encoder
    library.metadata.check_encoder(encoder, library.folder)
    progress.start(None, "embedding the query")
    with query_file(settings.query, stdin) as path:
        target, by, query_moments = embed_query(path, settings, library, encoder)
        query_rate = settings.fps or (source_timing(path).frames_per_second if settings.edl or settings.csv else None)
    progress.start(None, "searching")
    rerank = uses_reranking(settings.rerank, target, by)
    top = settings.rerank_top if rerank else 0
    rows = best_moments(library, query_moments, target, settings.k, top, exact=settings.exact)
    ann = None if settings.exact else library.ann_settings(target)
    result = SearchResult(
        query=settings.query,
        target=target,
        by=by,
        hits=[to_hit(rank, row, target, query_moments) for rank, row in enumerate(rows, start=1)],
        moments=library.count(),
        index_kind=EXACT if ann is None else ann.kind,
        recall=1.0 if ann is None else ann.recall,
        rerank="sequence" if rerank else "none",
        timeline=timeline(library, query_moments, target, exact=settings.exact) if settings.timeline else None,
    )
    _write_cut_lists(result, settings, query_rate)
    return result


def load_encoder_of(library: MomentIndex, model: str | None = None, device: str = "auto") -> Encoder:
    """Loads the model of an index.

    Args:
        library: the index.
        model: where its model is now; None: where it was when the index was made.
        device: auto, cpu or cuda.

    Raises:
        SearchIndexError: it cannot be loaded from where it was.
        CheckpointError: `model` cannot be loaded.
    """
    try:
        return load_encoder(model or library.metadata.model, device)
    except CheckpointError as error:
        if model is not None:
            raise
        raise SearchIndexError(
            f"{library.folder}: its model {library.metadata.model_id[:16]} cannot be loaded from where it was ({error}); "
            "say where it is with --model"
        ) from error


def _write_cut_lists(result: SearchResult, settings: SearchSettings, query_rate: float | None) -> None:
    """Writes the EDL and the CSV that were asked for; timecodes use the query's frame rate, else that of the first hit with one."""
    if settings.edl is None and settings.csv is None:
        return
    timing = functools.cache(source_timing)
    rates = (timing(hit.path).frames_per_second for hit in result.hits)
    rate = FrameRate.fitting(query_rate or next(filter(None, rates), None) or _DEFAULT_FRAMES_PER_SECOND)
    query = "standard input" if result.query == STANDARD_INPUT else os.path.basename(result.query)
    if settings.edl is not None:
        title = f"{_TARGETS[result.target]} {query}"
        write_edl(settings.edl, result.hits, target=result.target, rate=rate, title=title, query=query, timing=timing)
    if settings.csv is not None:
        write_csv(settings.csv, result.hits, rate=rate, query=query, timing=timing)


def show_seconds(seconds: float) -> str:
    """Formats seconds as minutes, seconds and tenths: 75.25 -> 1:15.2."""
    tenths = int(seconds * 10 + 1e-6)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def _hits_table(title: str, hits: Sequence[Hit], moments: int) -> Table:
    table = _table(title, {"#": "right", "score": "right", "moment": "right", "file": "left", "query at": "right"})
    for hit in hits:
        # Text instead of markup: a file may be called [red].mp4.
        file = Text(_short_path(hit.path))
        if hit.missing:
            file.append(" (missing)", style="red")
        moment = f"{show_seconds(hit.start_seconds)} – {show_seconds(hit.end_seconds)}"
        table.add_row(str(hit.rank), f"{hit.score:.3f}", moment, file, show_seconds(hit.query_start_seconds))
    if not hits:
        table.caption = Text(f"nothing found among {moments} moments")
    return table


def _timeline_table(matches: Sequence[Match]) -> Table:
    table = _table(
        "best match for each part of the query", {"query": "right", "score": "right", "moment": "right", "file": "left"}
    )
    for match in matches:
        table.add_row(
            f"{show_seconds(match.query_start_seconds)} – {show_seconds(match.query_end_seconds)}",
            f"{match.score:.3f}",
            f"{show_seconds(match.start_seconds)} – {show_seconds(match.end_seconds)}",
            Text(_short_path(match.path)),
        )
    return table


def _table(title: str, columns: dict[str, str]) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, justify in columns.items():
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "file")  # type: ignore[arg-type]
    return table


def _short_path(path: str) -> str:
    """Makes the path of a file in the current folder relative to it."""
    return path.removeprefix(os.path.join(os.getcwd(), ""))
