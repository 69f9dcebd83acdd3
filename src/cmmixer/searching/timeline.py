"""A whole film as the query: which stretch of it goes with what, in the order of the film."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cmmixer.indexing import MomentIndex
from cmmixer.searching.asking import Asking
from cmmixer.searching.hits import FEW_BATCHES, found_in

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
