"""The moments of an index that match those of a query: hits, best first, or a timeline of the query.

Letters: Q moments of the query, E values of a vector.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cmmixer.models.rerank import sequence_scores
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.query import QueryMoment

_FIRST_CANDIDATES = 64

# With up to this many keys the database filters; with more, filtering its result is faster.
MAX_FILTER_KEYS = 1000

# A gap between moments up to this is rounding: they touch.
_TOUCH_SECONDS = 0.05

_TIMELINE_CANDIDATES = 64

# A match that continues the one before is preferred to one whose cosine is higher by less than this.
_CONTINUITY_BONUS = 0.02


@dataclass(frozen=True, repr=False)
class Hit:
    """One moment of the index that matches the query.

    Attributes:
        rank: from 1.
        path: the file that has the target: the video, or its audio file.
        start_seconds, end_seconds: where in it.
        score: cosine similarity, at most 1; after reranking the sequence score, at most 3.
        query_start_seconds, query_end_seconds: the moment of the query that it matches.
        source, label: from the data's layout.
        missing: whether the file has been moved or deleted since it was indexed.
    """

    rank: int
    path: str
    start_seconds: float
    end_seconds: float
    score: float
    query_start_seconds: float
    query_end_seconds: float
    source: str
    label: str | None
    missing: bool

    def __repr__(self) -> str:
        missing = ", missing" if self.missing else ""
        return f"Hit({self.rank}: {self.path!r}, {self.start_seconds:g}..{self.end_seconds:g} s, score={self.score:.3f}{missing})"


def best_moments(
    library: MomentIndex,
    query_moments: Sequence[QueryMoment],
    target: str,
    k: int,
    top: int = 0,
    *,
    batches: Collection[str] | None = None,
    exact: bool = False,
) -> list[dict[str, Any]]:
    """Finds the k best moments. Candidates are fetched until none of the others could be among them.

    Args:
        library: the index.
        query_moments: moments of the query.
        target: `audio`, `video` or `any`.
        k: number of moments.
        top: so many candidates of each query moment are reranked by their frames, and precede all others; 0: no reranking.
        batches: only moments with these keys (`FileRow.batch`); None: all.
        exact: search exactly, even if there is an ANN index.

    Returns:
        Rows of `MomentIndex.nearest`, best first; of moments of one file that overlap or touch, only the best.
    """
    vectors_QE = np.stack([moment.vector_E for moment in query_moments])
    total = library.count()
    limit = max(_FIRST_CANDIDATES, 8 * k, top)
    keys = batches if batches is not None and len(batches) <= MAX_FILTER_KEYS else None
    # An ANN index may return fewer rows than the limit although there are more.
    approximate = not exact and keys is None and library.ann_settings(target) is not None
    while True:
        rows = library.nearest(vectors_QE, target, limit, frames=top > 0, batches=keys, exact=exact)
        named = library.named(row["batch"] for row in rows)
        bound = _best_not_fetched(rows, limit)
        rows = [row for row in rows if row["batch"] in named and (batches is None or row["batch"] in batches)]
        if top:
            _rerank(rows, query_moments, top)
        best = collapse(rows)[:k]
        complete = limit >= total or (bound == -math.inf and not approximate)
        if complete or (len(best) == k and (best[-1]["reranked"] if top else best[-1]["score"] >= bound)):
            return best
        limit *= 4


def _rerank(rows: list[dict[str, Any]], query_moments: Sequence[QueryMoment], top: int) -> None:
    """Marks the best `top` rows of each query moment as `reranked`, and replaces their scores by sequence scores."""
    for number, moment in enumerate(query_moments):
        own = sorted((row for row in rows if row["query"] == number), key=lambda row: (-row["score"], row["id"]))
        for place, row in enumerate(own):
            row["reranked"] = place < top
        # Without vectors of frames there is no timing: the cosine stays.
        framed = [row for row in own[:top] if row["frames"] is not None]
        if framed and moment.frames_TE is not None:
            cosines = np.array([row["score"] for row in framed])
            scores = sequence_scores(cosines, moment.frames_TE, np.stack([row["frames"] for row in framed]))
            for row, score in zip(framed, scores, strict=True):
                row["score"] = float(score)


def _best_not_fetched(rows: list[dict[str, Any]], limit: int) -> float:
    """Returns an upper bound on the scores of moments that were not fetched; minus infinity if all were.

    The bound is the highest among the lowest scores of the query moments that got as many rows as the limit allows.
    """
    lowest: dict[int, tuple[int, float]] = {}
    for row in rows:
        count, score = lowest.get(row["query"], (0, 1.0))
        lowest[row["query"]] = (count + 1, min(score, row["score"]))
    return max((score for count, score in lowest.values() if count == limit), default=-math.inf)


def collapse(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sorts rows, best first, and drops moments that overlap or touch a better one of the same file. Ties go by id.

    Reranked moments precede the others.
    """
    best: list[dict[str, Any]] = []
    spans_of: dict[tuple[str, str | None], list[tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda row: (not row.get("reranked"), -row["score"], row["id"], row["query"])):
        start, end = row["start_seconds"], row["end_seconds"]
        spans = spans_of.setdefault(_file(row), [])
        if all(
            start > other_end + _TOUCH_SECONDS or end < other_start - _TOUCH_SECONDS for other_start, other_end in spans
        ):
            spans.append((start, end))
            best.append(row)
    return best


def to_hit(rank: int, row: dict[str, Any], target: str, query_moments: Sequence[QueryMoment]) -> Hit:
    """Converts a row of `best_moments`."""
    path = target_file(row, target)
    span = query_moments[row["query"]].span
    return Hit(
        rank=rank,
        path=path,
        start_seconds=row["start_seconds"],
        end_seconds=row["end_seconds"],
        score=row["score"],
        query_start_seconds=span.start_seconds,
        query_end_seconds=span.end_seconds,
        source=row["source"],
        label=row["label"],
        missing=on_disk(path) is None,
    )


def target_file(row: dict[str, Any], target: str) -> str:
    """Returns the file of a row that has the target."""
    path: str = row["audio_path"] if target == "audio" and row["audio_path"] is not None else row["path"]
    return path


def on_disk(path: str) -> str | bytes | None:
    """Returns the file that a path of an index names, or None if it is missing.

    An index writes bytes that are not UTF-8 in hexadecimal (`data.manifest.readable`).
    """
    if os.path.exists(path):
        return path
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(path))
    return raw if os.path.exists(raw) else None


@dataclass(frozen=True, repr=False)
class Match:
    """A section of the query and the section of a file that matches it best.

    Attributes:
        query_start_seconds, query_end_seconds: in the query; the sections follow each other without overlap.
        path: the file that has the target.
        start_seconds, end_seconds: where in it.
        score: mean cosine similarity over the moments of the section.
    """

    query_start_seconds: float
    query_end_seconds: float
    path: str
    start_seconds: float
    end_seconds: float
    score: float

    def __repr__(self) -> str:
        query = f"{self.query_start_seconds:g}..{self.query_end_seconds:g} s"
        return f"Match({query}: {self.path!r}, {self.start_seconds:g}..{self.end_seconds:g} s, score={self.score:.3f})"


@dataclass
class _OpenMatch:
    """A match that the next moment of the query may extend."""

    file: tuple[str, str | None]
    offset_seconds: float
    match: Match
    moments: int = 1

    def drift(self, row: dict[str, Any], start: float) -> float:
        """Returns how far a row is from where the match would continue, in seconds; infinity in another file."""
        if _file(row) != self.file:
            return math.inf
        return abs(float(row["start_seconds"]) - start - self.offset_seconds)

    def extend(self, row: dict[str, Any], start: float, end: float) -> None:
        """Adds the row of the query's moment from `start` to `end`."""
        before = self.match
        self.match = Match(
            before.query_start_seconds,
            end,
            before.path,
            min(before.start_seconds, row["start_seconds"]),
            max(before.end_seconds, row["end_seconds"]),
            (before.score * self.moments + row["score"]) / (self.moments + 1),
        )
        self.moments += 1
        self.offset_seconds = row["start_seconds"] - start


def timeline(
    library: MomentIndex,
    query_moments: Sequence[QueryMoment],
    target: str,
    *,
    batches: Collection[str] | None = None,
    exact: bool = False,
) -> list[Match]:
    """Finds the best moment of the index for every moment of the query, and joins those that continue in the same file.

    A query moment lasts until the next one starts. Two neighbours are joined if their rows are as far apart in the file as
    they are in the query, up to their own distance. A row that continues the match is preferred to one that is hardly
    better.

    Args:
        library: the index.
        query_moments: moments of the query.
        target: `audio`, `video` or `any`.
        batches: only moments with these keys (`FileRow.batch`); None: all. A query moment without a near enough one among
            them has no match.
        exact: search exactly, even if there is an ANN index.
    """
    in_order = sorted(query_moments, key=lambda moment: (moment.span.start_seconds, moment.span.end_seconds))
    if not in_order:
        return []
    candidates = _timeline_candidates(library, in_order, target, batches, exact)
    matches: list[Match] = []
    current: _OpenMatch | None = None
    for place, (moment, rows) in enumerate(zip(in_order, candidates, strict=True)):
        if not rows:
            continue
        start = moment.span.start_seconds
        end = in_order[place + 1].span.start_seconds if place + 1 < len(in_order) else moment.span.end_seconds
        end = max(end, start)
        near = [row for row in rows if row["score"] >= rows[0]["score"] - _CONTINUITY_BONUS]
        if current is not None:
            closest = min(near, key=partial(current.drift, start=start))
            if current.drift(closest, start) <= end - start + 1e-6:
                current.extend(closest, start, end)
                continue
            matches.append(current.match)
        row = rows[0]
        match = Match(start, end, target_file(row, target), row["start_seconds"], row["end_seconds"], row["score"])
        current = _OpenMatch(_file(row), row["start_seconds"] - start, match)
    return matches if current is None else [*matches, current.match]


def _file(row: dict[str, Any]) -> tuple[str, str | None]:
    return row["path"], row["audio_path"]


def _timeline_candidates(
    library: MomentIndex,
    query_moments: Sequence[QueryMoment],
    target: str,
    batches: Collection[str] | None,
    exact: bool,
) -> list[list[dict[str, Any]]]:
    """Returns each query moment's rows that a file of the index names, best first."""
    vectors_QE = np.stack([moment.vector_E for moment in query_moments])
    keys = batches if batches is not None and len(batches) <= MAX_FILTER_KEYS else None
    rows = library.nearest(vectors_QE, target, _TIMELINE_CANDIDATES, batches=keys, exact=exact)
    named = library.named(row["batch"] for row in rows)
    candidates: list[list[dict[str, Any]]] = [[] for _ in query_moments]
    for row in sorted(rows, key=lambda row: (-row["score"], row["id"])):
        if row["batch"] in named and (batches is None or row["batch"] in batches):
            candidates[row["query"]].append(row)
    return candidates
