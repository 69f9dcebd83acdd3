"""`cmmixer search`: a film, a silent film or a sound in; the moments of an index that go with it out.

The query is cut into moments as the library was. Its pictures are compared with the library's sounds, or its sounds with
the library's pictures, or on request any sense or both together with any. Every moment is looked at, unless the library is large
and `cmmixer index --optimize` has made a plan whose recall was measured. A hit is a moment of the library with the moment of the query
that it goes with best; of moments of one file that overlap or touch, the best one stands for all. On request the best
moments are ordered anew by what happens when (`evaluation.sequence`).

Letters: Q moments of the query, T frames of a moment, E values of a vector.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from cmmixer.config import SearchSettings
from cmmixer.cutlist import FrameRate, source_timing, write_csv, write_edl
from cmmixer.embedding import Encoder, Moment, embed_file, load_encoder
from cmmixer.errors import CheckpointError, MediaError, SearchIndexError
from cmmixer.evaluation.sequence import sequence_scores
from cmmixer.indexing import MomentIndex
from cmmixer.indexing.plan import EXACT
from cmmixer.progress import NoProgress, Progress
from cmmixer.types import Span

STANDARD_INPUT = "-"
_FIRST_CANDIDATES = 64
_FEW_BATCHES = 1000
# What of the query finds a target, if nothing else is said.
FOUND_BY = {"audio": "video", "video": "audio", "film": "film"}
_FOUND = {"audio": "sounds for", "video": "pictures for", "film": "films for"}
# Where neither the query nor what it found has pictures.
_USUAL_FRAMES_PER_SECOND = 25.0
# Moments count as touching when the gap between them is only rounding.
_TOUCH_SECONDS = 0.05


@dataclass(frozen=True)
class Hit:
    """One moment of the library.

    Attributes:
        rank: from 1.
        path: the file that holds what was searched for: the film, or the file of its sound.
        start_seconds, end_seconds: where in it.
        score: cosine similarity, at most 1; after re-ranking, the mean cosine of aligned frames.
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
    """

    query: str
    target: str
    by: str
    hits: list[Hit]
    moments: int
    plan: str = EXACT
    recall: float = 1.0

    def as_json(self) -> dict[str, Any]:
        return {
            "query": self.query,
            "target": self.target,
            "by": self.by,
            "moments_searched": self.moments,
            "plan": self.plan,
            "recall": self.recall,
            "hits": [asdict(hit) for hit in self.hits],
        }

    def render(self) -> Table:
        """The hits as a table for the terminal."""
        return render(self)


@dataclass(frozen=True)
class Asking:
    """A moment of the query, and the vectors that ask with it: its own [E] and, of one sense, its frames' [T, E]."""

    span: Span
    vector_E: NDArray[np.float32]
    frames_TE: NDArray[np.float32] | None = None


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
    with _query_file(settings.query, stdin) as path:
        target, by, asking = _cut_query(path, settings, library, encoder)
        own_rate = settings.fps or (source_timing(path).frames_per_second if settings.edl or settings.csv else None)
    progress.start(None, "searching")
    top = settings.rerank_top if settings.rerank == "sequence" else 0
    best = best_moments(library, asking, target, settings.k, top, exact=settings.exact)
    hits = [_hit(rank, row, target, asking) for rank, row in enumerate(best, start=1)]
    plan = None if settings.exact else library.plan(target)
    followed = (EXACT, 1.0) if plan is None else (plan.kind, plan.recall)
    result = SearchResult(settings.query, target, by, hits, library.count(), *followed)
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


# ------------------------------------------------------------------------------------------------------------ the query


@contextmanager
def _query_file(query: str, stdin: BinaryIO | None) -> Iterator[str]:
    """The query as a file; standard input is put into a temporary one, because decoders need to go back and forth."""
    if query != STANDARD_INPUT:
        yield query
        return
    with tempfile.TemporaryDirectory(prefix="cmmixer-query-") as folder:
        path = Path(folder) / "standard input"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer if stdin is None else stdin, file)
        try:
            yield str(path)
        except MediaError as fault:
            raise MediaError("standard input", fault.reason, fault.message) from fault


def _cut_query(
    path: str, settings: SearchSettings, library: MomentIndex, encoder: Encoder
) -> tuple[str, str, list[Asking]]:
    """What is searched for, what of the query it is found by, and the query's moments that ask for it.

    Raises:
        MediaError: the query cannot be used, or lacks the sense that finds the target.
    """
    wanted = settings.target
    by = settings.by or (None if wanted is None else FOUND_BY[wanted])
    try:
        moments = embed_file(
            path,
            encoder,
            stride_seconds=library.card.stride_seconds,
            file_seconds=settings.file_seconds,
            picture=by != "audio",
            sound=by != "video",
        )
    except MediaError as fault:
        if by in (None, "film") or fault.reason not in ("no-picture", "no-sound", "silent"):
            raise
        needs = {"video": "pictures", "audio": "sound"}[by]
        told = f"--for {wanted}" if settings.by is None else f"--by {by}"
        raise MediaError(fault.path, fault.reason, f"{fault.message}, and {told} searches with {needs}") from fault
    wanted, by = senses(moments, settings.target, settings.by)
    return wanted, by, asking_with(moments, by)


def senses(moments: Sequence[Moment], target: str | None, by: str | None) -> tuple[str, str]:
    """What is searched for and by which sense of these moments, where it was not said: the sense that they lack, or audio."""
    if target is None:
        target = "audio" if any(moment.video is not None for moment in moments) else "video"
    return target, by or FOUND_BY[target]


def asking_with(moments: Sequence[Moment], by: str) -> list[Asking]:
    """The moments that have this sense, ready to ask; none may be left."""
    vectors = [(moment.span, getattr(moment, by), getattr(moment, f"{by}_frames", None)) for moment in moments]
    return [Asking(*vector) for vector in vectors if vector[1] is not None]


# ------------------------------------------------------------------------------------------------------------- the hits


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
    # A few keys are looked for by the database; a list of many would be slower than leaving out the rest afterwards.
    few = batches if batches is not None and len(batches) <= _FEW_BATCHES else None
    while True:
        rows = library.nearest(vectors_QE, target, limit, frames=top > 0, batches=few, exact=exact)
        named = library.named(row["batch"] for row in rows)
        left_out = _best_left_out(rows, limit)
        rows = [row for row in rows if row["batch"] in named and (batches is None or row["batch"] in batches)]
        if top:
            _by_sequence(rows, asking, top)
        best = collapse(rows)[:k]
        if limit >= everything or (len(best) == k and (best[-1]["timed"] if top else best[-1]["score"] >= left_out)):
            return best
        limit *= 4


def _by_sequence(rows: list[dict[str, Any]], asking: list[Asking], top: int) -> None:
    """Gives each query moment's best `top` rows their sequence scores; `timed` says which have one."""
    for number, moment in enumerate(asking):
        own = sorted((row for row in rows if row["query"] == number), key=lambda row: (-row["score"], row["id"]))
        for row in own[top:]:
            row["timed"] = False
        if own and moment.frames_TE is not None:
            scores = sequence_scores(moment.frames_TE, np.stack([row["frames"] for row in own[:top]]))
            for row, score in zip(own[:top], scores, strict=True):
                row.update(timed=True, score=float(score))


def _best_left_out(rows: list[dict[str, Any]], limit: int) -> float:
    """No moment outside the candidates scores higher than this: the last candidate of the most generous query moment."""
    last: dict[int, tuple[int, float]] = {}
    for row in rows:
        count, score = last.get(row["query"], (0, 1.0))
        last[row["query"]] = (count + 1, min(score, row["score"]))
    return max((score for count, score in last.values() if count == limit), default=-1.0)


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


def _hit(rank: int, row: dict[str, Any], target: str, asking: list[Asking]) -> Hit:
    path = row["audio_path"] if target == "audio" and row["audio_path"] is not None else row["path"]
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


def on_disk(path: str) -> str | bytes | None:
    """Where a path of an index lies, or None if nothing does: bytes that are not text stand in an index in hexadecimal."""
    if os.path.exists(path):
        return path
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(path))
    return raw if os.path.exists(raw) else None


# ------------------------------------------------------------------------------------------------------ on the terminal


def render(result: SearchResult) -> Table:
    """The hits as a table, best first; times as minutes:seconds."""
    what = _FOUND[result.target]
    if result.by != FOUND_BY[result.target]:
        what += {"audio": " the sound of", "video": " the pictures of", "film": " picture and sound of"}[result.by]
    query = "standard input" if result.query == STANDARD_INPUT else result.query
    table = Table(title=Text(f"{what} {query}"), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, justify in (
        ("#", "right"),
        ("score", "right"),
        ("moment", "right"),
        ("file", "left"),
        ("query at", "right"),
    ):
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "file")  # type: ignore[arg-type]
    for hit in result.hits:
        # Text, not markup: a file may be called [red].mp4.
        file = Text(_short_path(hit.path))
        if hit.missing:
            file.append(" (missing)", style="red")
        moment = f"{show_seconds(hit.start_seconds)} – {show_seconds(hit.end_seconds)}"
        table.add_row(str(hit.rank), f"{hit.score:.3f}", moment, file, show_seconds(hit.query_start_seconds))
    if not result.hits:
        table.caption = Text(f"nothing found among {result.moments} moments")
    return table


def show_seconds(seconds: float) -> str:
    """Minutes, seconds and tenths, 75.25 -> 1:15.2."""
    tenths = int(seconds * 10 + 1e-6)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def _short_path(path: str) -> str:
    """Seen from the current folder where the file is inside it."""
    here = os.path.join(os.getcwd(), "")
    return path.removeprefix(here)
