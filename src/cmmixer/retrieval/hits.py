"""The moments of a library that go with those of a query, best first.

Letters: Q moments of the query, E values of a vector.

A whole film as the query: which stretch of it goes with what, in the order of the film.
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
from cmmixer.retrieval.query import Asking

_FIRST_CANDIDATES = 64

# So many keys are looked for by the database; a list of more is slower than leaving out the rest afterwards.
FEW_BATCHES = 1000

# Moments count as touching when the gap between them is only rounding.
_TOUCH_SECONDS = 0.05


@dataclass(frozen=True)
class Hit:
    """One moment of the library.

    Attributes:
        rank: from 1.
        path: the file that holds what was searched for: the film, or the file of its sound.
        start_seconds, end_seconds: where in it.
        score: cosine similarity, at most 1; after re-ranking the sequence score, at most 3.
        query_start_seconds, query_end_seconds: the moment of the query it goes with.
        source, label: as in the library's data.
        missing: whether the file has gone from its place since it was indexed.
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


def best_moments(
    library: MomentIndex,
    asking: list[Asking],
    target: str,
    k: int,
    top: int = 0,
    *,
    batches: Collection[str] | None = None,
    exact: bool = False,
) -> list[dict[str, Any]]:
    """The k best moments: more candidates are fetched until none that was left out could be among them.

    Args:
        library: where to search.
        asking: moments of the query.
        target: `audio`, `video` or `film`.
        k: how many.
        top: so many candidates of each query moment are ordered by their frames and stand before all others.
        batches: only moments with these keys (`FileRow.batch`); None: all.
        exact: look at every moment, in an optimised index too.

    Returns:
        Rows of `MomentIndex.nearest`, best first, neighbours of one file merged.
    """
    vectors_QE = np.stack([moment.vector_E for moment in asking])
    everything = library.count()
    limit = max(_FIRST_CANDIDATES, 8 * k, top)
    few = batches if batches is not None and len(batches) <= FEW_BATCHES else None
    # An approximate index gives fewer than it was asked for though there are more.
    approximate = not exact and few is None and library.plan(target) is not None
    while True:
        rows = library.nearest(vectors_QE, target, limit, frames=top > 0, batches=few, exact=exact)
        named = library.named(row["batch"] for row in rows)
        left_out = _best_left_out(rows, limit)
        rows = [row for row in rows if row["batch"] in named and (batches is None or row["batch"] in batches)]
        if top:
            _by_sequence(rows, asking, top)
        best = collapse(rows)[:k]
        nothing_left_out = limit >= everything or (left_out == -math.inf and not approximate)
        if nothing_left_out or (len(best) == k and (best[-1]["timed"] if top else best[-1]["score"] >= left_out)):
            return best
        limit *= 4


def _by_sequence(rows: list[dict[str, Any]], asking: list[Asking], top: int) -> None:
    """Gives each query moment's best `top` rows, which `timed` names, their sequence scores."""
    for number, moment in enumerate(asking):
        own = sorted((row for row in rows if row["query"] == number), key=lambda row: (-row["score"], row["id"]))
        for place, row in enumerate(own):
            row["timed"] = place < top
        # Whoever has no vectors of single frames has no timing: the cosine stays.
        framed = [row for row in own[:top] if row["frames"] is not None]
        if framed and moment.frames_TE is not None:
            cosines = np.array([row["score"] for row in framed])
            scores = sequence_scores(cosines, moment.frames_TE, np.stack([row["frames"] for row in framed]))
            for row, score in zip(framed, scores, strict=True):
                row["score"] = float(score)


def _best_left_out(rows: list[dict[str, Any]], limit: int) -> float:
    """No moment outside the candidates scores higher than this: the last candidate of the most generous query moment.

    Minus infinity: there is none outside.
    """
    last: dict[int, tuple[int, float]] = {}
    for row in rows:
        count, score = last.get(row["query"], (0, 1.0))
        last[row["query"]] = (count + 1, min(score, row["score"]))
    return max((score for count, score in last.values() if count == limit), default=-math.inf)


def collapse(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Best first, without moments that overlap or touch a better one of the same file. Equal scores go by id.

    Moments that were scored by their frames stand before those that were not.
    """
    kept: list[dict[str, Any]] = []
    taken: dict[tuple[str, str | None], list[tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda row: (not row.get("timed"), -row["score"], row["id"], row["query"])):
        start, end = row["start_seconds"], row["end_seconds"]
        spans = taken.setdefault((row["path"], row["audio_path"]), [])
        if all(
            start > other_end + _TOUCH_SECONDS or end < other_start - _TOUCH_SECONDS for other_start, other_end in spans
        ):
            spans.append((start, end))
            kept.append(row)
    return kept


def hit_of(rank: int, row: dict[str, Any], target: str, asking: list[Asking]) -> Hit:
    """A row of `best_moments` as people and programs get it."""
    path = found_in(row, target)
    span = asking[row["query"]].span
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


def found_in(row: dict[str, Any], target: str) -> str:
    """The file of a row that holds what was searched for."""
    path: str = row["audio_path"] if target == "audio" and row["audio_path"] is not None else row["path"]
    return path


def on_disk(path: str) -> str | bytes | None:
    """Where a path of an index lies, or None if nothing does: bytes that are not text stand in an index in hexadecimal."""
    if os.path.exists(path):
        return path
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(path))
    return raw if os.path.exists(raw) else None


# So many finds of a moment are looked at for one that goes on.
_CANDIDATES = 64

# A find that goes on is as good as one with a cosine higher by this.
_AS_GOOD = 0.02


@dataclass(frozen=True)
class Match:
    """A stretch of the query and the stretch of the library that goes with it best.

    Attributes:
        query_start_seconds, query_end_seconds: of the query; stretches follow one another without overlap.
        path: the file that holds what was searched for.
        start_seconds, end_seconds: where in it.
        score: mean cosine similarity over the moments of the stretch.
    """

    query_start_seconds: float
    query_end_seconds: float
    path: str
    start_seconds: float
    end_seconds: float
    score: float


@dataclass
class _Open:
    """A stretch that may go on."""

    file: tuple[str, str | None]
    offset_seconds: float
    match: Match
    moments: int = 1

    def drift(self, row: dict[str, Any], start: float) -> float:
        """How many seconds this find of a moment lies from where the stretch would be by then."""
        if _file(row) != self.file:
            return math.inf
        return abs(float(row["start_seconds"]) - start - self.offset_seconds)

    def take(self, row: dict[str, Any], start: float, end: float) -> None:
        """Goes on with this find."""
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
    asking: Sequence[Asking],
    target: str,
    *,
    batches: Collection[str] | None = None,
    exact: bool = False,
) -> list[Match]:
    """The best moment of the library for every moment of the query; those that go on in the same file are one stretch.

    A moment stands for the time from its start to the next one's. Two neighbours go on when their finds lie as far apart
    in the file as they do in the query, give or take their own distance; a find that goes on is taken before another one
    that is hardly better.

    Args:
        library: where to search.
        asking: moments of the query.
        target: `audio`, `video` or `film`.
        batches: only moments with these keys (`FileRow.batch`); None: all. Where they leave out all that is near to a moment
            of the query, nothing goes with it.
        exact: look at every moment, in an optimised index too.
    """
    in_order = sorted(asking, key=lambda moment: (moment.span.start_seconds, moment.span.end_seconds))
    if not in_order:
        return []
    candidates = _candidates(library, in_order, target, batches, exact)
    matches: list[Match] = []
    current: _Open | None = None
    for place, (moment, rows) in enumerate(zip(in_order, candidates, strict=True)):
        if not rows:
            continue
        start = moment.span.start_seconds
        end = in_order[place + 1].span.start_seconds if place + 1 < len(in_order) else moment.span.end_seconds
        end = max(end, start)
        near = [row for row in rows if row["score"] >= rows[0]["score"] - _AS_GOOD]
        if current is not None:
            nearest = min(near, key=partial(current.drift, start=start))
            if current.drift(nearest, start) <= end - start + 1e-6:
                current.take(nearest, start, end)
                continue
            matches.append(current.match)
        row = rows[0]
        match = Match(start, end, found_in(row, target), row["start_seconds"], row["end_seconds"], row["score"])
        current = _Open(_file(row), row["start_seconds"] - start, match)
    return matches if current is None else [*matches, current.match]


def _file(row: dict[str, Any]) -> tuple[str, str | None]:
    return row["path"], row["audio_path"]


def _candidates(
    library: MomentIndex, asking: Sequence[Asking], target: str, batches: Collection[str] | None, exact: bool
) -> list[list[dict[str, Any]]]:
    """Each moment's rows that count and that a file of the library still names, best first."""
    vectors_QE = np.stack([moment.vector_E for moment in asking])
    few = batches if batches is not None and len(batches) <= FEW_BATCHES else None
    rows = library.nearest(vectors_QE, target, _CANDIDATES, batches=few, exact=exact)
    named = library.named(row["batch"] for row in rows)
    candidates: list[list[dict[str, Any]]] = [[] for _ in asking]
    for row in sorted(rows, key=lambda row: (-row["score"], row["id"])):
        if row["batch"] in named and (batches is None or row["batch"] in batches):
            candidates[row["query"]].append(row)
    return candidates
