"""Searches over HTTP: with an upload, with a file of the library, or with one of its moments."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmmixer.embedding.pipeline import Moment
from cmmixer.retrieval.hits import best_moments, timeline
from cmmixer.retrieval.query import QueryMoment, choose_modalities, query_moments_by, uses_reranking
from cmmixer.server import schemas
from cmmixer.server.entry import Entry
from cmmixer.server.library import Snapshot
from cmmixer.server.problems import ProblemError
from cmmixer.server.uploads import Queries
from cmmixer.types import Span

# A long query is searched by moments spread evenly over it: more of them find little else, and take longer in proportion.
_MAX_QUERY_MOMENTS = 240
# Re-ranking reads the frame vectors of the best hits: some tenths of a second for this many query moments; for more it
# takes as long as the rest of the search.
_MAX_RERANKED, _RERANK_TOP = 40, 100


@dataclass(frozen=True)
class _QueryFile:
    """The file to search with: its name, its moments, and its entry where it is a file of the library."""

    name: str
    moments: list[Moment]
    entry: Entry | None = None


def search(library: Snapshot, queries: Queries, request: schemas.SearchRequest, prefix: str) -> schemas.SearchPage:
    """Returns one page of hits.

    Args:
        library: where to search.
        queries: uploads.
        request: what to search for.
        prefix: of the addresses in the result.

    Raises:
        ProblemError: neither or both of query and item, an unknown id, or a query that lacks the modality to search by.
    """
    started = time.perf_counter()
    query = _query_file(library, queries, request)
    target, by = choose_modalities(query.moments, request.target, request.by)
    if request.rerank == "sequence" and "any" in (target, by):
        raise ProblemError(
            "bad-request", "rerank=sequence: compares two single modalities; got any, expected audio or video"
        )
    query_moments = _evenly(query_moments_by(query.moments, by))
    if not query_moments:
        raise ProblemError("missing-modality", f"{query.name}: has no {by} to search by")
    batches = _batches(library, request, query.entry)
    last = request.offset + request.limit
    rerank = uses_reranking(request.rerank, target, by)
    if request.rerank is None and len(query_moments) > _MAX_RERANKED:
        rerank = False
    top = _RERANK_TOP if rerank else 0
    rows = (
        best_moments(library.index, query_moments, target, last + 1, top, batches=batches) if batches != set() else []
    )
    # Moments that another process has just added show once the snapshot has their file.
    rows = [row for row in rows if row["batch"] in library.by_batch]
    hits = [
        _hit(library, rank, row, target, query_moments, prefix)
        for rank, row in enumerate(rows[request.offset : last], start=request.offset + 1)
    ]
    return schemas.SearchPage.model_validate(
        {
            "for": target,
            "by": by,
            "rerank": "sequence" if rerank else "none",
            "hits": hits,
            "offset": request.offset,
            "next_offset": last if len(rows) > last else None,
            "moments_searched": library.index.count(),
            "timeline": _timeline(library, query_moments, target, batches, prefix) if request.timeline else None,
            "took_seconds": round(time.perf_counter() - started, 4),
        }
    )


def _query_file(library: Snapshot, queries: Queries, request: schemas.SearchRequest) -> _QueryFile:
    if (request.query is None) == (request.item is None):
        raise ProblemError("bad-request", "got neither or both of query and item, expected one of them")
    if request.query is not None:
        upload = queries.get(request.query)
        return _QueryFile(upload.name, _at(upload.moments, request.start_seconds))
    assert request.item is not None
    entry = library.entry(request.item)
    moments = [_moment(row) for row in library.index.moments_of(entry.batch, frames=True)]
    if not moments:
        raise ProblemError(
            "not-found", f"{entry.name}: has just been removed from the library or indexed again; search again"
        )
    return _QueryFile(entry.name, _at(moments, request.start_seconds), entry)


def _moment(row: dict[str, Any]) -> Moment:
    video, audio = (
        None if row[modality] is None else np.asarray(row[modality], dtype=np.float32)
        for modality in ("video", "audio")
    )
    span = Span(row["start_seconds"], row["end_seconds"])
    return Moment(span, video, audio, row["video_frames"], row["audio_frames"])


def _at(moments: list[Moment], start_seconds: float | None) -> list[Moment]:
    """Returns all moments, or the one that begins nearest to a second."""
    if start_seconds is None:
        return moments
    return [min(moments, key=lambda moment: abs(moment.span.start_seconds - start_seconds))]


def _evenly(moments: list[QueryMoment]) -> list[QueryMoment]:
    """Returns at most `_MAX_QUERY_MOMENTS` moments, spread evenly."""
    if len(moments) <= _MAX_QUERY_MOMENTS:
        return moments
    return [moments[number * len(moments) // _MAX_QUERY_MOMENTS] for number in range(_MAX_QUERY_MOMENTS)]


def _batches(library: Snapshot, request: schemas.SearchRequest, query: Entry | None) -> set[str] | None:
    """Returns the keys of the moments to search in; None: all. A file of the library does not find itself."""
    filters = schemas.Filters(**{name: getattr(request, name) for name in schemas.Filters.model_fields})
    if filters == schemas.Filters() and query is None:  # type: ignore[call-arg]
        return None
    batches = {entry.batch for entry in library.filtered(filters)}
    return batches if query is None else batches - {query.batch}


def _hit(
    library: Snapshot, rank: int, row: dict[str, Any], target: str, query_moments: list[QueryMoment], prefix: str
) -> schemas.Hit:
    entry, span = library.by_batch[row["batch"]], query_moments[row["query"]].span
    return schemas.Hit(
        rank=rank,
        item=entry.item(),
        moment=schemas.Moment(start_seconds=row["start_seconds"], end_seconds=row["end_seconds"]),
        query_moment=schemas.Moment(start_seconds=span.start_seconds, end_seconds=span.end_seconds),
        score=round(row["score"], 5),
        media=_media(entry, target, prefix),
    )


def _timeline(
    library: Snapshot, query_moments: list[QueryMoment], target: str, batches: set[str] | None, prefix: str
) -> list[schemas.TimelineSegment]:
    """Returns which segment of the query matches what, in query order."""
    entries_of: dict[str, list[Entry]] = {}
    for entry in library.entries.values():
        if batches is None or entry.batch in batches:
            entries_of.setdefault(_file(entry, target), []).append(entry)
    segments = []
    for match in timeline(library.index, query_moments, target, batches=batches) if entries_of else []:
        # Several rows of a manifest may be spans of one file. Files that another process has just added are not known yet.
        candidates = entries_of.get(match.path, [])
        containing = (each for each in candidates if each.start_seconds <= match.start_seconds < each.end_seconds)
        if (entry_found := next(containing, None)) is not None:
            segments.append(
                schemas.TimelineSegment(
                    item=entry_found.item(),
                    moment=schemas.Moment(start_seconds=match.start_seconds, end_seconds=match.end_seconds),
                    query_moment=schemas.Moment(
                        start_seconds=match.query_start_seconds, end_seconds=match.query_end_seconds
                    ),
                    score=round(match.score, 5),
                    media=_media(entry_found, target, prefix),
                )
            )
    return segments


def _file(entry: Entry, target: str) -> str:
    """Returns the path of the file that holds the target modality, as the index has it."""
    audio_path = entry.row.audio_path if target == "audio" else None
    return audio_path or entry.row.path


def _media(entry: Entry, target: str, prefix: str) -> str:
    """Returns the address of the file that holds the target modality."""
    return f"{prefix}/items/{entry.id}/media?modality={'audio' if target == 'audio' else 'video'}"
