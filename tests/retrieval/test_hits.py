"""Hits and timelines over a library that is a plain list of rows, compared with plain loops."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmmixer.retrieval import hits as hits_module
from cmmixer.retrieval.hits import Match, best_moments, collapse, on_disk, target_file, timeline, to_hit
from cmmixer.retrieval.query import QueryMoment
from cmmixer.types import Span
from tests.reference.rerank_slow import sequence_score


def _unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = generator.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


class ListLibrary:
    """Rows with vectors in memory; finds the nearest with a loop, as `MomentIndex.nearest` does it."""

    def __init__(self, rows: list[dict[str, Any]], unnamed: Collection[str] = (), *, approximate: bool = False) -> None:
        self.rows, self.unnamed, self.approximate = rows, unnamed, approximate
        self.limits: list[int] = []

    def count(self) -> int:
        return len(self.rows)

    def ann_settings(self, modality: str) -> object | None:
        return object() if self.approximate else None

    def named(self, batches: Iterable[str]) -> set[str]:
        return set(batches) - set(self.unnamed)

    def nearest(
        self, vectors_QE: np.ndarray, modality: str, limit: int, *, frames: bool = False,
        batches: Collection[str] | None = None, exact: bool = False,
    ) -> list[dict[str, Any]]:  # fmt: skip
        self.limits.append(limit)
        found = []
        for query, vector_E in enumerate(vectors_QE):
            own = [
                row for row in self.rows if row[modality] is not None and (batches is None or row["batch"] in batches)
            ]
            scored = sorted(((float(row[modality] @ vector_E), row) for row in own), key=lambda pair: -pair[0])
            for score, row in scored[:limit]:
                found.append({**row, "query": query, "score": score} | ({"frames": row["frames"]} if frames else {}))
        return found


def _library(files: int = 12, moments: int = 8, seed: int = 0, **options: Any) -> ListLibrary:
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(files):
        for place in range(moments):
            start = 0.5 * place
            has_audio = place % 3 != 2
            rows.append(
                {
                    "id": f"{number:02d}#{start}", "batch": f"b{number}", "path": f"/v/{number:02d}.mp4",
                    "audio_path": None, "source": "s", "label": None, "start_seconds": start, "end_seconds": start + 1.0,
                    "audio": _unit(generator, 4) if has_audio else None, "frames": _unit(generator, 2, 4),
                }
            )  # fmt: skip
    return ListLibrary(rows, **options)


def _query(count: int, seed: int = 9) -> list[QueryMoment]:
    generator = np.random.default_rng(seed)
    return [QueryMoment(Span(n, n + 1.0), _unit(generator, 4), _unit(generator, 2, 4)) for n in range(count)]


def _slow_best(
    library: ListLibrary, query: list[QueryMoment], k: int, allowed: Collection[str]
) -> list[tuple[str, float]]:
    scored = [
        (max(float(row["audio"] @ moment.vector_E) for moment in query), row)
        for row in library.rows
        if row["audio"] is not None and row["batch"] in allowed
    ]
    best: list[tuple[str, float]] = []
    for _, row in sorted(scored, key=lambda pair: -pair[0]):
        near = any(path == row["path"] and abs(start - row["start_seconds"]) <= 1.05 for path, start in best)
        if not near and len(best) < k:
            best.append((row["path"], row["start_seconds"]))
    return best


ALL = [f"b{number}" for number in range(12)]


def _best(library: ListLibrary, query: list[QueryMoment], k: int, **options: Any) -> list[tuple[str, float]]:
    rows = best_moments(library, query, "audio", k, **options)  # type: ignore[arg-type]
    return [(row["path"], row["start_seconds"]) for row in rows]


@pytest.mark.parametrize("k", [1, 3, 10, 100])
@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("first", [1, 64])
def test_best_moments_equal_plain_loops(k: int, queries: int, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hits_module, "_FIRST_CANDIDATES", first)
    library, query = _library(), _query(queries)
    assert _best(library, query, k) == _slow_best(library, query, k, ALL)


def test_unnamed_moments_are_replaced_by_the_next_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hits_module, "_FIRST_CANDIDATES", 1)
    query = _query(2)
    unnamed = [path[3:5] for path, _ in _best(_library(), query, 3)]
    unnamed_keys = [f"b{int(number)}" for number in unnamed]
    library = _library(unnamed=unnamed_keys)
    assert _best(library, query, 3) == _slow_best(library, query, 3, set(ALL) - set(unnamed_keys))


@pytest.mark.parametrize("most", [0, 1000], ids=["filtered afterwards", "filtered by the database"])
def test_search_can_be_limited_to_some_files(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hits_module, "MAX_FILTER_KEYS", most)
    library, query = _library(), _query(3)
    assert _best(library, query, 4, batches={"b3", "b5"}) == _slow_best(library, query, 4, {"b3", "b5"})
    assert _best(library, query, 4, batches=set()) == []


def test_no_more_is_fetched_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hits_module, "_FIRST_CANDIDATES", 8)
    library = _library()
    _best(library, _query(1), 1)
    assert library.limits == [8]
    library = _library()
    _best(library, _query(1), 96)
    assert library.limits == [768]  # more than all rows, so all were fetched


def test_an_ann_index_that_returns_few_is_asked_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stingy(ListLibrary):
        def nearest(self, vectors_QE: np.ndarray, modality: str, limit: int, **options: Any) -> list[dict[str, Any]]:
            return super().nearest(vectors_QE, modality, limit if limit > 40 else 2, **options)

    monkeypatch.setattr(hits_module, "_FIRST_CANDIDATES", 8)
    query = _query(1)
    library = Stingy(_library().rows, approximate=True)
    assert _best(library, query, 5) == _slow_best(library, query, 5, ALL)
    assert len(library.limits) > 1


def test_reranked_moments_come_first_with_their_sequence_scores() -> None:
    library, query = _library(), _query(2)
    rows = best_moments(library, query, "audio", 30, 5)  # type: ignore[arg-type]
    reranked = [row for row in rows if row["reranked"]]
    assert rows[: len(reranked)] == reranked
    assert 0 < len(reranked) <= 10 < len(rows)
    for row in rows:
        moment = query[row["query"]]
        cosine = float(row["audio"] @ moment.vector_E)
        assert moment.frames_TE is not None
        expected = (
            sequence_score(cosine, moment.frames_TE.tolist(), row["frames"].tolist()) if row["reranked"] else cosine
        )
        assert row["score"] == pytest.approx(expected, abs=1e-6)
    for part in (reranked, rows[len(reranked) :]):
        scores = [row["score"] for row in part]
        assert scores == sorted(scores, reverse=True)


def test_without_frames_reranking_keeps_the_cosine() -> None:
    library, query = _library(), [QueryMoment(moment.span, moment.vector_E) for moment in _query(2)]
    rows = best_moments(library, query, "audio", 5, 5)  # type: ignore[arg-type]
    assert [row["score"] for row in rows] == pytest.approx(
        [float(row["audio"] @ query[row["query"]].vector_E) for row in rows], abs=1e-6
    )


def _row(start: float, score: float, path: str = "a", query: int = 0, **more: Any) -> dict[str, Any]:
    row = {"id": f"{path}#{start}", "path": path, "audio_path": None, "start_seconds": start, "end_seconds": start + 4}
    return {**row, "score": score, "query": query, "source": "s", "label": "bell", "batch": path, **more}


def test_collapse_keeps_the_best_of_a_neighbourhood() -> None:
    rows = [
        _row(0, 0.5),
        _row(2, 0.9),
        _row(4, 0.8),
        _row(6, 0.7),
        _row(8, 0.6),
        _row(2, 0.3, "b"),
        _row(2, 0.2, query=1),
    ]
    best = [(row["path"], row["start_seconds"], row["score"]) for row in collapse(rows)]
    # 6.0 touches 2.0 .. 6.0 and is dropped; 8.0 does not.
    assert best == [("a", 2, 0.9), ("a", 8, 0.6), ("b", 2, 0.3)]


def test_collapse_tells_audio_files_of_one_video_apart() -> None:
    rows = [_row(0, 0.9, audio_path="x.wav"), _row(0, 0.8, audio_path="y.wav"), _row(0, 0.7)]
    assert [row["audio_path"] for row in collapse(rows)] == ["x.wav", "y.wav", None]


def test_collapse_ignores_gaps_that_are_rounding() -> None:
    assert len(collapse([_row(0, 0.9), _row(4.04, 0.8)])) == 1
    assert len(collapse([_row(0, 0.9), _row(4.06, 0.8)])) == 2


def test_ties_go_by_id() -> None:
    assert [row["path"] for row in collapse([_row(0, 0.5, "b"), _row(0, 0.5, "a"), _row(0, 0.5, "c")])] == [
        "a",
        "b",
        "c",
    ]


def test_reranked_rows_precede_better_cosines() -> None:
    rows = [_row(0, 0.9, "a", reranked=False), _row(0, 0.1, "b", reranked=True)]
    assert [row["path"] for row in collapse(rows)] == ["b", "a"]


def test_hit_names_the_target_s_file_and_the_query_s_moment(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_text("")
    row = _row(2.0, 0.75, str(tmp_path / "x.mp4"), query=1, audio_path=str(tmp_path / "gone.wav"))
    query = [QueryMoment(Span(0.0, 1.0), np.zeros(4, np.float32)), QueryMoment(Span(7.0, 8.5), np.zeros(4, np.float32))]
    hit = to_hit(3, row, "video", query)
    assert (hit.rank, hit.path, hit.missing) == (3, str(tmp_path / "x.mp4"), False)
    assert (hit.start_seconds, hit.end_seconds, hit.score) == (2.0, 6.0, 0.75)
    assert (hit.query_start_seconds, hit.query_end_seconds, hit.label) == (7.0, 8.5, "bell")
    heard = to_hit(1, row, "audio", query)
    assert (heard.path, heard.missing) == (str(tmp_path / "gone.wav"), True)
    assert repr(heard).endswith("gone.wav', 2..6 s, score=0.750, missing)")


@pytest.mark.parametrize(
    ("target", "audio_path", "expected"),
    [("audio", "a.wav", "a.wav"), ("audio", None, "v.mp4"), ("video", "a.wav", "v.mp4"), ("any", "a.wav", "v.mp4")],
)
def test_target_file(target: str, audio_path: str | None, expected: str) -> None:
    assert target_file({"path": "v.mp4", "audio_path": audio_path}, target) == expected


def test_names_in_hexadecimal_are_found_on_disk(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    Path(os.fsdecode(raw)).write_text("")
    assert on_disk(f"{tmp_path}/caf\\xe9.mp4") == raw
    assert on_disk(f"{tmp_path}/caf\\xea.mp4") is None
    assert on_disk(str(tmp_path)) == str(tmp_path)


class _Scripted:
    """Returns given rows for each moment of the query."""

    def __init__(self, rows: list[list[dict[str, Any]]], unnamed: Collection[str] = ()) -> None:
        self.rows, self.unnamed = rows, unnamed

    def nearest(self, vectors_QE: np.ndarray, target: str, limit: int, **options: Any) -> list[dict[str, Any]]:
        return [{**row, "query": place} for place, rows in enumerate(self.rows) for row in rows]

    def named(self, batches: Iterable[str]) -> set[str]:
        return set(batches) - set(self.unnamed)


def _timeline(rows: list[list[dict[str, Any]]], **options: Any) -> list[Match]:
    query = [QueryMoment(Span(n, n + 2.0), np.zeros(4, np.float32)) for n in range(len(rows))]
    unnamed = options.pop("unnamed", ())
    return timeline(_Scripted(rows, unnamed), query, "video", **options)  # type: ignore[arg-type]


def test_timeline_joins_moments_that_continue_in_the_same_file() -> None:
    rows = [[_row(10, 0.9)], [_row(11, 0.7)], [_row(30, 0.8)], [_row(31, 0.6)]]
    assert _timeline(rows) == [
        Match(0.0, 2.0, "a", 10, 15, pytest.approx(0.8)),
        Match(2.0, 5.0, "a", 30, 35, pytest.approx(0.7)),
    ]
    assert _timeline([]) == []


def test_timeline_prefers_a_row_that_continues_to_one_hardly_better() -> None:
    rows = [[_row(10, 0.9)], [_row(50, 0.75, "b"), _row(11, 0.735)]]
    assert [match.path for match in _timeline(rows)] == ["a"]
    rows = [[_row(10, 0.9)], [_row(50, 0.76, "b"), _row(11, 0.735)]]
    assert [match.path for match in _timeline(rows)] == ["a", "b"]


def test_timeline_leaves_out_moments_without_a_row() -> None:
    rows = [[_row(10, 0.9)], [], [_row(50, 0.8, "b")]]
    assert [(match.path, match.query_start_seconds) for match in _timeline(rows)] == [("a", 0.0), ("b", 2.0)]
    assert _timeline([[], []]) == []
    assert _timeline([[_row(10, 0.9)]], unnamed=["a"]) == []
    assert _timeline([[_row(10, 0.9)]], batches={"c"}) == []


def test_timeline_sections_follow_each_other() -> None:
    generator = np.random.default_rng(5)
    rows = [[_row(float(generator.integers(0, 40)), 0.5, "ab"[generator.integers(0, 2)])] for _ in range(30)]
    matches = _timeline(rows)
    assert matches[0].query_start_seconds == 0.0
    assert matches[-1].query_end_seconds == 31.0
    for before, after in itertools.pairwise(matches):
        assert before.query_end_seconds == after.query_start_seconds
    assert math.isclose(sum(match.query_end_seconds - match.query_start_seconds for match in matches), 31.0)
