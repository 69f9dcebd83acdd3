"""A search as the service does it: by an upload, by a file of the library, or by one of its moments."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmmixer.embedding.pipeline import Moment
from cmmixer.retrieval.hits import best_moments, timeline
from cmmixer.retrieval.query import Asking, asking_with, reranked, senses
from cmmixer.server import schemas
from cmmixer.server.entry import Entry
from cmmixer.server.library import Snapshot
from cmmixer.server.problems import ProblemError
from cmmixer.server.uploads import Queries
from cmmixer.types import Span

# A long film asks with moments from all over it; more of them find little else and take as much longer.
_MOST_ASKING = 240
# The frames of what so many moments find are read in some tenths of a second; those of more take as long as all of the search.
_MOST_RERANKED, _RERANK_TOP = 40, 100


@dataclass(frozen=True)
class _Asked:
    """What searches: its name, its moments, and the file of the library that it is, if any."""

    name: str
    moments: list[Moment]
    entry: Entry | None = None


def find(library: Snapshot, queries: Queries, wanted: schemas.SearchQuery, prefix: str) -> schemas.SearchPage:
    """One page of hits.

    Args:
        library: where to search.
        queries: uploads.
        wanted: what is searched for.
        prefix: where the service's addresses begin.

    Raises:
        ProblemError: nothing or two things to search with, an unknown id, or a query without the sense that is needed.
    """
    began = time.perf_counter()
    asked = _asked(library, queries, wanted)
    target, by = senses(asked.moments, wanted.target, wanted.by)
    if wanted.rerank == "sequence" and "film" in (target, by):
        raise ProblemError(
            "bad-request", "rerank=sequence compares one sense with one; got film, expected audio or video"
        )
    asking = _evenly(asking_with(asked.moments, by))
    if not asking:
        needs = {"video": "pictures", "audio": "sound"}[by]
        raise ProblemError("missing-sense", f"{asked.name}: has no {needs} that could be searched by")
    batches = _batches(library, wanted, asked.entry)
    last = wanted.offset + wanted.limit
    anew = reranked(wanted.rerank, target, by) and (wanted.rerank is not None or len(asking) <= _MOST_RERANKED)
    top = _RERANK_TOP if anew else 0
    rows = best_moments(library.index, asking, target, last + 1, top, batches=batches) if batches != set() else []
    # What another process has just added shows once its file is known here.
    rows = [row for row in rows if row["batch"] in library.by_batch]
    hits = [
        _hit(library, rank, row, target, asking, prefix)
        for rank, row in enumerate(rows[wanted.offset : last], start=wanted.offset + 1)
    ]
    return schemas.SearchPage.model_validate(
        {
            "for": target,
            "by": by,
            "rerank": "sequence" if anew else "none",
            "hits": hits,
            "offset": wanted.offset,
            "next_offset": last if len(rows) > last else None,
            "moments_searched": library.index.count(),
            "timeline": _stretches(library, asking, target, batches, prefix) if wanted.timeline else None,
            "took_seconds": round(time.perf_counter() - began, 4),
        }
    )


def _asked(library: Snapshot, queries: Queries, wanted: schemas.SearchQuery) -> _Asked:
    if (wanted.query is None) == (wanted.item is None):
        raise ProblemError("bad-request", "got neither or both of query and item, expected one of them")
    if wanted.query is not None:
        query = queries.get(wanted.query)
        return _Asked(query.name, _at(query.moments, wanted.start_seconds))
    assert wanted.item is not None
    entry = library.entry(wanted.item)
    moments = [_moment(row) for row in library.index.moments_of(entry.batch, frames=True)]
    if not moments:
        raise ProblemError(
            "not-found", f"{entry.name}: has just been taken out of the library or indexed anew; ask again"
        )
    return _Asked(entry.name, _at(moments, wanted.start_seconds), entry)


def _moment(row: dict[str, Any]) -> Moment:
    video, audio = (
        None if row[sense] is None else np.asarray(row[sense], dtype=np.float32) for sense in ("video", "audio")
    )
    span = Span(row["start_seconds"], row["end_seconds"])
    return Moment(span, video, audio, row["video_frames"], row["audio_frames"])


def _at(moments: list[Moment], start_seconds: float | None) -> list[Moment]:
    """All moments, or the one that begins nearest to a second."""
    if start_seconds is None:
        return moments
    return [min(moments, key=lambda moment: abs(moment.span.start_seconds - start_seconds))]


def _evenly(asking: list[Asking]) -> list[Asking]:
    if len(asking) <= _MOST_ASKING:
        return asking
    return [asking[place * len(asking) // _MOST_ASKING] for place in range(_MOST_ASKING)]


def _batches(library: Snapshot, wanted: schemas.SearchQuery, asked: Entry | None) -> set[str] | None:
    """Keys of the moments that count; None: all. A file of the library does not find itself."""
    filters = schemas.Filters(**{name: getattr(wanted, name) for name in schemas.Filters.model_fields})
    if filters == schemas.Filters() and asked is None:  # type: ignore[call-arg]
        return None
    batches = {entry.batch for entry in library.filtered(filters)}
    return batches - {asked.batch} if asked is not None else batches


def _hit(
    library: Snapshot, rank: int, row: dict[str, Any], target: str, asking: list[Asking], prefix: str
) -> schemas.Hit:
    entry, span = library.by_batch[row["batch"]], asking[row["query"]].span
    return schemas.Hit(
        rank=rank,
        item=entry.item(),
        moment=schemas.Moment(start_seconds=row["start_seconds"], end_seconds=row["end_seconds"]),
        query_moment=schemas.Moment(start_seconds=span.start_seconds, end_seconds=span.end_seconds),
        score=round(row["score"], 5),
        media=_media(entry, target, prefix),
    )


def _stretches(
    library: Snapshot, asking: list[Asking], target: str, batches: set[str] | None, prefix: str
) -> list[schemas.Stretch]:
    """What goes with which stretch of the query, in its order."""
    there: dict[str, list[Entry]] = {}
    for entry in library.entries.values():
        if batches is None or entry.batch in batches:
            there.setdefault(_file(entry, target), []).append(entry)
    stretches = []
    for match in timeline(library.index, asking, target, batches=batches) if there else []:
        # Rows of a manifest may be stretches of one file. What another process has just added is not known here yet.
        in_it = (e for e in there.get(match.path, []) if e.start_seconds <= match.start_seconds < e.end_seconds)
        if (found := next(in_it, None)) is not None:
            stretches.append(
                schemas.Stretch(
                    item=found.item(),
                    moment=schemas.Moment(start_seconds=match.start_seconds, end_seconds=match.end_seconds),
                    query_moment=schemas.Moment(
                        start_seconds=match.query_start_seconds, end_seconds=match.query_end_seconds
                    ),
                    score=round(match.score, 5),
                    media=_media(found, target, prefix),
                )
            )
    return stretches


def _file(entry: Entry, target: str) -> str:
    """The file that holds what is searched for, as the index calls it."""
    own_sound = entry.row.audio_path if target == "audio" else None
    return own_sound or entry.row.path


def _media(entry: Entry, target: str, prefix: str) -> str:
    return f"{prefix}/items/{entry.id}/media?sense={'audio' if target == 'audio' else 'video'}"
