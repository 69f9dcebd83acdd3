"""Search in both directions: the right file at the right second, exact scores, one hit in a neighbourhood, clear errors."""

from __future__ import annotations

import io
import itertools
import json
import os
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from rich.console import Console

from cmmixer.config import IndexSettings, SearchSettings
from cmmixer.data import chunks as chunks_module
from cmmixer.embedding.pipeline import Moment
from cmmixer.errors import MediaError, SearchIndexError
from cmmixer.retrieval.build import index
from cmmixer.retrieval.hits import Hit
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import FileRow
from cmmixer.retrieval.search import SearchResult, search, show_seconds
from cmmixer.types import Span
from tests.reference.rerank_slow import sequence_score
from tests.support import killed_indexing
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, sound, video

YELLOW = (1.0, 0.6, 0.0)


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks_module, "map_sandboxed", killed_indexing.decode_here)


def _make_library(folder: Path) -> Path:
    """Videos whose sound is that of other colours, so that searching by sound and by frames differ."""
    data = folder / "data"
    video(data / "red.mp4", [RED] * 3, sound=[GREEN] * 3)
    video(data / "mixed.mp4", [GREEN] * 3 + [BLUE] * 2 + [GREEN] * 3, sound=[RED] * 5 + [BLUE, BLUE, RED])
    video(data / "mute.mp4", [YELLOW], sound=None)
    sound(data / "yellow.wav", [YELLOW])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks_module, "map_sandboxed", killed_indexing.decode_here)
        index(
            IndexSettings(model="-", data=str(data), index=str(folder / "library"), workers=1), encoder=ColourEncoder()
        )
    return folder / "library"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that tests only read."""
    return _make_library(tmp_path_factory.mktemp("shared"))


def _search(library: Path, query: Path | str, **options: Any) -> SearchResult:
    stdin = options.pop("stdin", None)
    settings = SearchSettings(query=str(query), index=str(library), **options)
    return search(settings, encoder=ColourEncoder(), stdin=stdin)


def _named(result: SearchResult) -> list[tuple[str, float, float]]:
    return [(os.path.basename(hit.path), hit.start_seconds, hit.end_seconds) for hit in result.hits]


def test_silent_video_finds_its_sound_at_the_right_second(library: Path, tmp_path: Path) -> None:
    result = _search(library, video(tmp_path / "query.mp4", [BLUE], sound=None))
    assert result.target == "audio"
    assert _named(result)[0] in [("mixed.mp4", start, start + 1) for start in (5.0, 5.5, 6.0)]
    assert result.hits[0].score > 0.97
    assert result.hits[1].score < 0.8
    assert all(not name.startswith("mute") for name, _, _ in _named(result))


def test_sound_finds_its_video_at_the_right_second(library: Path, tmp_path: Path) -> None:
    result = _search(library, sound(tmp_path / "query.wav", [BLUE]))
    assert result.target == "video"
    assert _named(result)[0] in [("mixed.mp4", start, start + 1) for start in (3.0, 3.5, 4.0)]
    names = [name for name, _, _ in _named(result)]
    assert "yellow.wav" not in names
    assert {"red.mp4", "mute.mp4"} <= set(names)


def test_video_with_both_is_searched_by_the_other_modality(library: Path, tmp_path: Path) -> None:
    query = video(tmp_path / "query.mp4", [RED], sound=[YELLOW])
    assert _search(library, query).target == "audio"
    assert _named(_search(library, query, target="audio"))[0][0] == "mixed.mp4"  # red goes with its red sound
    assert (
        _named(_search(library, query, target="video"))[0][0] == "mute.mp4"
    )  # the yellow sound goes with yellow frames


def test_hit_names_the_moment_of_the_query(library: Path, tmp_path: Path) -> None:
    result = _search(library, video(tmp_path / "query.mp4", [RED, RED, YELLOW], sound=None))
    by_name = {os.path.basename(hit.path): hit for hit in reversed(result.hits)}
    assert (by_name["yellow.wav"].query_start_seconds, by_name["yellow.wav"].query_end_seconds) == (2.0, 3.0)
    assert by_name["mixed.mp4"].query_start_seconds <= 1.0


@pytest.mark.parametrize(
    ("target", "by", "first"),
    [
        # The query shows yellow and sounds blue. mute.mp4 shows yellow, yellow.wav sounds it, mixed.mp4 shows and sounds blue.
        ("video", "video", "mute.mp4"),
        ("audio", "video", "yellow.wav"),
        ("audio", "audio", "mixed.mp4"),
        ("video", "audio", "mixed.mp4"),
        ("any", "audio", "mixed.mp4"),
        ("any", "video", "mute.mp4"),
    ],
)
def test_any_modality_finds_any(library: Path, tmp_path: Path, target: str, by: str, first: str) -> None:
    query = video(tmp_path / "query.mp4", [YELLOW] * 2, sound=[BLUE] * 2)
    result = _search(library, query, target=target, by=by)
    assert (result.target, result.by) == (target, by)
    assert os.path.basename(result.hits[0].path) == first
    # Where mixed.mp4 sounds blue it shows green: as a video it is half of the query.
    assert result.hits[0].score > (0.7 if (target, by) == ("any", "audio") else 0.95)
    words = {"audio": "sounds for", "video": "pictures for", "any": "videos for"}[target]
    query_words = {"audio": " the sound of", "video": " the pictures of"}[by]
    assert f"{words}{query_words if by == target or target == 'any' else ''} " in " ".join(_printed(result).split())


def test_video_finds_a_video_by_both_modalities_or_by_the_one_it_has(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name, seen, heard in (("a", RED, GREEN), ("b", GREEN, RED), ("c", RED, BLUE), ("d", BLUE, GREEN)):
        video(data / f"{name}.mp4", [seen], sound=[heard])
    index(IndexSettings(model="-", data=str(data), index=str(tmp_path / "library"), workers=1), encoder=ColourEncoder())
    both = _search(tmp_path / "library", video(tmp_path / "both.mp4", [RED], sound=[BLUE]), target="any")
    assert os.path.basename(both.hits[0].path) == "c.mp4"
    seen = _search(tmp_path / "library", video(tmp_path / "seen.mp4", [RED], sound=None), target="any")
    assert [os.path.basename(hit.path) for hit in seen.hits[-1:]] == [
        "d.mp4"
    ]  # neither its frames nor its sound are red
    assert seen.hits[2].score == pytest.approx(seen.hits[0].score, abs=0.04)  # red and something else
    assert (both.by, seen.by) == ("any", "any")


def test_reranking_finds_the_video_with_the_right_order_of_events(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name, order in (("red-first", [RED, GREEN]), ("green-first", [GREEN, RED])):
        video(data / f"{name}.mp4", order, seconds_each=0.5)
        sound(data / f"{name}.wav", order, seconds_each=0.5)
    settings = IndexSettings(model="-", data=str(data), index=str(tmp_path / "library"), workers=1)
    index(settings, encoder=ColourEncoder())
    for target, ending in (("audio", "wav"), ("video", "mp4")):
        for name, order in (("red-first", [RED, GREEN]), ("green-first", [GREEN, RED])):
            query = tmp_path / f"query-{name}"
            asked = (
                video(query.with_suffix(".mp4"), order, sound=None, seconds_each=0.5)
                if target == "audio"
                else sound(query.with_suffix(".wav"), order, seconds_each=0.5)
            )
            plain = _search(tmp_path / "library", asked, target=target, rerank="none")
            timed = _search(tmp_path / "library", asked, target=target)
            assert (plain.rerank, timed.rerank) == ("none", "sequence")
            alike = _search(tmp_path / "library", asked, target=timed.by, by=timed.by)
            assert alike.rerank == "none"
            assert max(hit.score for hit in plain.hits) - min(hit.score for hit in plain.hits) < 0.02
            first, last = timed.hits[0], timed.hits[-1]
            assert os.path.basename(first.path).startswith(name)
            assert first.score > 0.95
            assert last.score < 0.1
            assert {os.path.basename(hit.path) for hit in plain.hits} >= {
                f"red-first.{ending}",
                f"green-first.{ending}",
            }


def test_reranked_candidates_precede_the_others(random_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _random_vectors(3, seed=2)
    in_order = _random_vectors(6, seed=5).reshape(3, 2, 4)
    moments = [
        Moment(Span(n / 2, n / 2 + 1), vector, None, frames, None)
        for n, (vector, frames) in enumerate(zip(asked, in_order, strict=True))
    ]
    monkeypatch.setattr("cmmixer.retrieval.query.embed_file", lambda *arguments, **options: moments)
    table = lancedb.connect(random_library).open_table("moments").to_arrow().to_pylist()
    scored = []
    for vector, frames in zip(asked, in_order, strict=True):
        heard = sorted((row for row in table if row["audio"]), key=lambda row: -float(np.dot(row["audio"], vector)))
        for place, row in enumerate(heard):
            cosine = float(np.dot(row["audio"], vector))
            audio_frames = np.array(row["audio_frames"], np.float32).reshape(2, 4)
            timed = sequence_score(cosine, frames.tolist(), audio_frames.tolist())
            scored.append((place >= 7, -(timed if place < 7 else cosine), row))
    hits: list[tuple[str, float]] = []
    for _, _, row in sorted(scored, key=lambda entry: entry[:2]):
        if all(path != row["path"] or abs(start - row["start_seconds"]) > 1.0 for path, start in hits):
            hits.append((row["path"], row["start_seconds"]))
    for k in (1, 12, 60):
        result = _search(random_library, "query.mp4", k=k, target="audio", rerank="sequence", rerank_top=7)
        assert [(hit.path, hit.start_seconds) for hit in result.hits] == hits[:k]


def _random_vectors(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 4))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def random_library(tmp_path: Path) -> Path:
    """Thirty files of ten overlapping moments with random vectors; every third moment has no audio."""
    vectors = _random_vectors(300, seed=1)
    in_order = _random_vectors(600, seed=3).reshape(300, 8).astype(np.float16)
    with MomentIndex.writing(tmp_path / "random", ColourEncoder(), None) as library:
        for number in range(30):
            name = f"/videos/{number:02d}.mp4"
            shared = {"batch": f"b{number}", "path": name, "audio_path": None, "source": name, "label": None}
            rows = []
            for place in range(10):
                start, vector = 0.5 * place, vectors[10 * number + place]
                row = {
                    **shared,
                    "id": f"{name}#{start}",
                    "start_seconds": start,
                    "end_seconds": start + 1,
                    "video": vector,
                    "any": vector,
                    "video_frames": in_order[10 * number + place],
                }
                heard = place % 3 != 2
                sounds = {"audio": vector[::-1], "audio_frames": in_order[10 * number + place][::-1]}
                rows.append({**row, **(sounds if heard else dict.fromkeys(sounds))})
            values = {"root": "/videos", "sizes": [1], "mtimes_ns": [1], "sha256": None, "status": "used"}
            file = FileRow(name=name, **{**shared, **values}, reason=None, message=None, limit_seconds=1.0, moments=10)
            library.put(file, rows, None)
    return tmp_path / "random"


def _slow_search(library: Path, asked: np.ndarray, modality: str, k: int) -> list[tuple[str, float, float]]:
    """Compares every moment with every moment of the query, in plain loops."""
    scored = []
    for row in lancedb.connect(library).open_table("moments").to_arrow().to_pylist():
        if row[modality] is not None:
            scored.append((max(float(np.dot(row[modality], vector)) for vector in asked), row))
    scored.sort(key=lambda pair: -pair[0])
    hits: list[tuple[str, float, float]] = []
    for score, row in scored:
        near = False
        for path, start, _ in hits:
            near = near or (path == row["path"] and abs(start - row["start_seconds"]) <= 1.0)
        if not near and len(hits) < k:
            hits.append((row["path"], row["start_seconds"], score))
    return hits


@pytest.mark.parametrize("target", ["audio", "video"])
@pytest.mark.parametrize("k", [1, 10, 500])
def test_search_equals_plain_loops(random_library: Path, k: int, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _random_vectors(5, seed=2)
    moments = [Moment(Span(n / 2, n / 2 + 1), vector, vector) for n, vector in enumerate(asked)]
    monkeypatch.setattr("cmmixer.retrieval.query.embed_file", lambda *arguments, **options: moments)
    monkeypatch.setattr("cmmixer.retrieval.hits._FIRST_CANDIDATES", 1)  # so that more must be fetched
    result = _search(random_library, "query.mp4", k=k, target=target)
    expected = _slow_search(random_library, asked, target, k)
    assert [hit.rank for hit in result.hits] == list(range(1, len(expected) + 1))
    assert [(hit.path, hit.start_seconds) for hit in result.hits] == [(path, start) for path, start, _ in expected]
    assert [hit.score for hit in result.hits] == pytest.approx([score for _, _, score in expected], abs=1e-5)


def test_moments_that_no_file_names_are_not_found(tmp_path: Path) -> None:
    library = _make_library(tmp_path)
    query = sound(tmp_path / "query.wav", [YELLOW])
    assert _named(_search(library, query))[0][0] == "mute.mp4"
    lancedb.connect(library).open_table("files").delete("path LIKE '%mute.mp4'")  # as after a kill
    assert "mute.mp4" not in [name for name, _, _ in _named(_search(library, query))]


def test_query_from_standard_input(library: Path, tmp_path: Path) -> None:
    content = sound(tmp_path / "query.wav", [YELLOW]).read_bytes()
    result = _search(library, "-", stdin=io.BytesIO(content))
    assert (result.query, result.target) == ("-", "video")
    assert _named(result)[0][0] == "mute.mp4"
    with pytest.raises(MediaError, match=r"^standard input: "):
        _search(library, "-", stdin=io.BytesIO(b""))


def test_hits_are_written_as_edl_and_csv(library: Path, tmp_path: Path) -> None:
    query = video(tmp_path / "query.mp4", [BLUE], sound=None)  # 8 frames per second: a third of 24
    edl, table = tmp_path / "hits.edl", tmp_path / "hits.csv"
    result = _search(library, query, k=2, edl=str(edl), csv=str(table))
    lines = edl.read_text().splitlines()
    assert lines[:2] == ["TITLE: sounds for query.mp4", "FCM: NON-DROP FRAME"]
    events = [line.split() for line in lines if line[:3].isdigit()]
    assert [(event[2], event[4]) for event in events] == [
        ("AA", f"00:00:{int(hit.start_seconds):02d}:{round(hit.start_seconds % 1 * 24):02d}") for hit in result.hits
    ]
    assert len(table.read_text().splitlines()) == 3
    _search(library, query, k=2, edl=str(edl), fps=29.97)
    assert edl.read_text().splitlines()[1] == "FCM: DROP FRAME"
    # A sound has no frames to count: then those of the video that it found.
    _search(library, sound(tmp_path / "query.wav", [GREEN]), k=1, target="video", edl=str(edl))
    assert " V     C        00:00:" in edl.read_text()


def test_missing_files_are_marked(tmp_path: Path) -> None:
    library = _make_library(tmp_path)
    query = sound(tmp_path / "query.wav", [YELLOW])
    assert not any(hit.missing for hit in _search(library, query).hits)
    (tmp_path / "data" / "mute.mp4").unlink()
    result = _search(library, query)
    assert [os.path.basename(hit.path) for hit in result.hits if hit.missing] == ["mute.mp4"]


def test_names_that_are_not_utf8_are_found_on_disk(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9.mp4")
    os.replace(video(tmp_path / "a.mp4", [RED], sound=None), odd)
    library = tmp_path / "library"
    index(IndexSettings(model="-", data=str(tmp_path), index=str(library), workers=1), encoder=ColourEncoder())
    (hit,) = _search(library, sound(tmp_path / "query.wav", [RED])).hits
    assert hit.path.endswith("caf\\xe9.mp4")
    assert not hit.missing


def test_hits_name_separate_audio_files(tmp_path: Path) -> None:
    video(tmp_path / "pairs" / "video" / "x.mp4", [RED], sound=None)
    sound(tmp_path / "pairs" / "audio" / "x.wav", [RED])
    data, library = str(tmp_path / "pairs"), tmp_path / "library"
    index(IndexSettings(model="-", data=data, index=str(library), workers=1), encoder=ColourEncoder())
    silent, noise = video(tmp_path / "q.mp4", [RED], sound=None), sound(tmp_path / "q.wav", [RED])
    assert _named(_search(library, silent))[0][0] == "x.wav"
    assert _named(_search(library, noise))[0][0] == "x.mp4"


@pytest.mark.parametrize(
    ("make", "target", "message"),
    [
        (
            lambda path: sound(path / "q.wav", [RED]),
            "audio",
            "has no video stream, only audio, and --for audio searches by frames",
        ),
        (
            lambda path: video(path / "q.mp4", [RED], sound=None),
            "video",
            "only video, and --for video searches by sound",
        ),
        (lambda path: sound(path / "q.wav", [(0, 0, 0)]), "video", "silent from beginning to end, and --for video"),
        (lambda path: sound(path / "q.wav", [(0, 0, 0)]), None, "silent from beginning to end"),
        (lambda path: path / "gone.mp4", None, "gone.mp4: "),
    ],
)
def test_unusable_queries_are_one_line(
    library: Path, tmp_path: Path, make: Any, target: str | None, message: str
) -> None:
    with pytest.raises(MediaError, match=message):
        _search(library, make(tmp_path), target=target)


def test_another_model_is_refused_and_a_moved_one_asked_for(library: Path, tmp_path: Path) -> None:
    query = sound(tmp_path / "query.wav", [YELLOW])
    settings = SearchSettings(query=str(query), index=str(library))
    mine, other = ColourEncoder(), ColourEncoder("x")
    with pytest.raises(SearchIndexError, match=rf"of model {mine.id[:16]} .* got model {other.id[:16]}"):
        search(settings, encoder=other)
    with pytest.raises(SearchIndexError, match=r"cannot be loaded from where it was .*; say where it is with --model"):
        search(settings)


def test_search_without_hits(tmp_path: Path) -> None:
    sound(tmp_path / "data" / "a.wav", [RED])
    library = tmp_path / "library"
    index(IndexSettings(model="-", data=str(tmp_path / "data"), index=str(library), workers=1), encoder=ColourEncoder())
    result = _search(library, sound(tmp_path / "query.wav", [RED]))
    assert result.hits == []
    assert "nothing found among 1 moments" in _printed(result)
    assert MomentIndex.open(library).count() == 1


def _printed(result: SearchResult) -> str:
    stream = io.StringIO()
    Console(width=100, file=stream, force_terminal=False).print(result.render())
    return stream.getvalue()


def test_table_and_json() -> None:
    hit = Hit(1, "/videos/[red]clip.mp4", 2.0, 6.0, 0.91234, 75.25, 79.25, "clip", "bell", missing=True)
    result = SearchResult("query.mp4", "audio", "video", [hit], 7)
    printed = " ".join(_printed(result).split())
    assert "sounds for query.mp4" in printed
    assert "1 0.912 0:02.0 – 0:06.0 /videos/[red]clip.mp4 (missing) 1:15.2" in printed
    values = json.loads(json.dumps(result.as_json()))
    assert values["hits"][0]["start_seconds"] == 2.0
    assert (values["query"], values["target"], values["moments_searched"]) == ("query.mp4", "audio", 7)
    inside = Hit(1, os.path.join(os.getcwd(), "a.mp4"), 0, 1, 0.5, 0, 1, "a", None, False)
    assert " a.mp4 " in _printed(SearchResult("q", "video", "audio", [inside], 1))


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, "0:00.0"), (75.25, "1:15.2"), (59.99, "0:59.9"), (3600.3, "60:00.3")]
)
def test_show_seconds(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown


def test_timeline_of_a_whole_video(tmp_path: Path) -> None:
    """Six seconds of red come from a red video, three of blue from within another; what continues in one file is one section."""
    data = tmp_path / "data"
    video(data / "long.mp4", [RED, RED, GREEN, GREEN, BLUE, BLUE, BLUE])
    video(data / "other.mp4", [YELLOW] * 3)
    index(IndexSettings(model="-", data=str(data), index=str(tmp_path / "library"), workers=1), encoder=ColourEncoder())
    query = video(tmp_path / "query.mp4", [YELLOW] * 2 + [GREEN, GREEN, BLUE, BLUE, BLUE], sound=None)
    result = _search(tmp_path / "library", query, target="audio", timeline=True)
    assert result.timeline is not None
    first, *middle, last = result.timeline
    assert (os.path.basename(first.path), first.query_start_seconds) == ("other.mp4", 0.0)
    assert (os.path.basename(last.path), last.query_end_seconds, last.end_seconds) == ("long.mp4", 7.0, 7.0)
    for before, after in itertools.pairwise(result.timeline):
        assert before.query_end_seconds == after.query_start_seconds
    by_second = {
        second: next(
            os.path.basename(match.path)
            for match in result.timeline
            if match.query_start_seconds <= second < match.query_end_seconds
        )
        for second in (0.25, 1.25, 2.75, 4.75, 6.75)
    }
    assert by_second == {0.25: "other.mp4", 1.25: "other.mp4", 2.75: "long.mp4", 4.75: "long.mp4", 6.75: "long.mp4"}
    assert all(match.score > 0.9 for match in (first, last))
    assert "best match for each part of the query" in _printed(result)
    assert json.loads(json.dumps(result.as_json()))["timeline"][0]["query_start_seconds"] == 0.0
    assert len(middle) <= 3
    assert "timeline" not in _search(tmp_path / "library", query, target="audio").as_json()
