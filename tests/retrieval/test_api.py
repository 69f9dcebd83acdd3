"""The Python index: adding, searching, remembering its model, and the command's errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import cmmixer
from cmmixer.data import chunks as chunks_module
from cmmixer.embedding.api import Model
from cmmixer.errors import MediaError, SearchIndexError, SettingsError
from cmmixer.retrieval import search as search_module
from cmmixer.retrieval.api import Index
from cmmixer.retrieval.hits import Hit, Match
from cmmixer.retrieval.search import search
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, sound, video
from tests.support.killed_indexing import decode_here
from tests.support.small_runs import PICO, untrained_run


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks_module, "map_sandboxed", decode_here)


@pytest.fixture
def model() -> Model:
    return Model(ColourEncoder())


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    video(folder / "red.mp4", [RED, RED])
    video(folder / "green.mp4", [GREEN], sound=None)
    sound(folder / "blue.wav", [BLUE])
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """An index of the videos; read-only."""
    folder = tmp_path_factory.mktemp("index") / "library"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks_module, "map_sandboxed", decode_here)
        Index(folder).add(Model(ColourEncoder()), videos, workers=1)
    return folder


def _forbid_loading(patch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Any:
        raise AssertionError("a model was loaded")

    patch.setattr(search_module, "load_encoder", load)


def test_add_returns_the_report_of_the_command(model: Model, videos: Path, tmp_path: Path) -> None:
    index = Index(tmp_path / "library")
    report = index.add(model, videos, workers=1)
    assert (report.added, report.unchanged, report.moments, report.index) == (3, 0, 5, str(tmp_path / "library"))
    again = index.add(model, str(videos), workers=1)
    assert (again.added, again.unchanged) == (0, 3)
    assert len(index) == 5


def test_add_takes_the_options_of_the_command(model: Model, videos: Path, tmp_path: Path) -> None:
    index = Index(tmp_path / "library")
    assert index.add(model, videos, workers=1, stride_seconds=1.0).moments == 4
    assert index.metadata.segmentation.stride_seconds == 1.0
    (tmp_path / "few").mkdir()
    os.symlink(videos / "red.mp4", tmp_path / "few" / "red.mp4")
    index.add(model, tmp_path / "few", workers=1)
    (tmp_path / "few" / "red.mp4").unlink()
    sound(tmp_path / "few" / "other.wav", [RED])
    assert index.add(model, tmp_path / "few", workers=1, sync=True).removed == 1


def test_hits_are_those_of_the_command(model: Model, library: Path, tmp_path: Path) -> None:
    query = video(tmp_path / "query.mp4", [RED], sound=None)
    hits = Index(library, model).search(query, target="audio", k=2)
    expected = search(query=query, index=library, target="audio", k=2, encoder=model.encoder)
    assert hits == expected.hits == hits.result.hits
    assert [os.path.basename(hit.path) for hit in hits] == ["red.mp4", "blue.wav"]
    assert (hits[0].rank, hits[0].end_seconds - hits[0].start_seconds) == (1, 1.0)
    assert hits[0].score > 0.97
    assert hits.timeline is None
    assert isinstance(hits, list)


def test_options_of_a_search(model: Model, library: Path, tmp_path: Path) -> None:
    index = Index(library, model)
    query = video(tmp_path / "query.mp4", [RED, RED], sound=[BLUE, BLUE])
    assert [os.path.basename(hit.path) for hit in index.search(query, "audio", by="audio", k=1)] == ["blue.wav"]
    assert [os.path.basename(hit.path) for hit in index.search(query, "video", "video", 1)] == ["red.mp4"]
    assert index.search(query, rerank="none").result.rerank == "none"
    assert index.search(query).result.rerank == "sequence"
    timeline = index.search(query, target="video", by="video", timeline=True, file_seconds=9.0).timeline
    assert timeline is not None
    (match,) = timeline
    assert (os.path.basename(match.path), match.query_start_seconds, match.query_end_seconds) == ("red.mp4", 0.0, 2.0)
    assert match.score > 0.97


def test_model_that_made_the_index_is_loaded_once(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "library"
    built = Index(folder)
    built.add(untrained_run(tmp_path / "run", PICO), videos, workers=1)
    loaded: list[str] = []
    load = search_module.load_encoder

    def counted(path: str, device: str) -> Any:
        loaded.append(path)
        return load(path, device)

    monkeypatch.setattr(search_module, "load_encoder", counted)
    query = sound(tmp_path / "query.wav", [RED])
    assert len(built.search(query)) > 0
    assert loaded == []  # the model of `add` is kept
    index = Index(folder)
    first, second = index.search(query), index.search(query)
    assert first == second
    assert loaded == [index.metadata.model]
    assert index.model.id == index.metadata.model_id == built.model.id
    assert index.model is index.model


def test_given_model_is_used_instead(
    model: Model, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _forbid_loading(monkeypatch)
    assert len(Index(library, model).search(sound(tmp_path / "query.wav", [RED]))) > 0


def test_given_model_must_be_the_one_that_made_the_index(library: Path, videos: Path, tmp_path: Path) -> None:
    mine, other = ColourEncoder().id, ColourEncoder("other", "runs/other")
    index = Index(library, Model(other))
    message = rf"its vectors are of model {mine[:16]} \(runs/colours\), got model {other.id[:16]} \(runs/other\)"
    with pytest.raises(SearchIndexError, match=message):
        index.search(sound(tmp_path / "query.wav", [RED]))
    with pytest.raises(SearchIndexError, match=message):
        index.add(Model(other), videos)


def test_model_that_has_moved_is_asked_for(library: Path, tmp_path: Path) -> None:
    with pytest.raises(SearchIndexError) as refused:
        Index(library).search(sound(tmp_path / "query.wav", [RED]))
    assert f"its model {ColourEncoder().id[:16]} cannot be loaded from where it was" in str(refused.value)
    assert str(refused.value).endswith("; say where it is with --model")


def test_missing_index_says_how_to_make_one(tmp_path: Path) -> None:
    index = Index(tmp_path / "none")
    assert repr(index) == f"Index('{tmp_path / 'none'}', not built yet)"
    assert index
    for use in (lambda: len(index), lambda: index.metadata, lambda: index.search("query.wav")):
        with pytest.raises(
            SearchIndexError, match=r"none: no index there \(index.json is missing\); make one with `cmmixer"
        ):
            use()
    assert not (tmp_path / "none").exists()


def test_index_describes_itself(library: Path) -> None:
    index = Index(str(library))
    assert repr(index) == f"Index('{library}', 5 moments, model={ColourEncoder().id[:16]})"
    assert len(index) == 5
    assert index.metadata.embed_dim == 4


def test_unknown_options_name_the_nearest(model: Model, library: Path, videos: Path) -> None:
    index = Index(library, model)
    with pytest.raises(SettingsError) as refused:
        index.search("query.wav", rerank_tap=3)
    assert str(refused.value) == "search: unknown keys: rerank_tap (did you mean rerank_top?)"
    with pytest.raises(SettingsError) as refused:
        index.add(model, videos, sinc=True)
    assert str(refused.value) == "add: unknown keys: sinc (did you mean sync?)"
    with pytest.raises(SettingsError, match="--for: got 'sound', expected one of audio, video, any"):
        index.search("query.wav", target="sound")


def test_query_that_cannot_be_used_is_a_media_error(model: Model, library: Path, tmp_path: Path) -> None:
    index = Index(library, model)
    with pytest.raises(MediaError, match=r"gone\.wav: no such file"):
        index.search(tmp_path / "gone.wav")
    with pytest.raises(MediaError, match="and --for audio searches by frames"):
        index.search(sound(tmp_path / "query.wav", [RED]), target="audio")


def test_a_hit_is_a_readable_value() -> None:
    hit = Hit(1, "/videos/rain.mp4", 12.0, 16.5, 0.91234, 0.0, 4.5, "rain.mp4", None, missing=False)
    assert repr(hit) == "Hit(1: '/videos/rain.mp4', 12..16.5 s, score=0.912)"
    match = Match(0.0, 2.5, "/videos/rain.mp4", 12.0, 14.5, 0.5)
    assert repr(match) == "Match(0..2.5 s: '/videos/rain.mp4', 12..14.5 s, score=0.500)"
    with pytest.raises(AttributeError):
        hit.score = 1.0  # type: ignore[misc]


def test_the_class_and_the_function_are_both_public() -> None:
    assert cmmixer.Index is Index
    assert cmmixer.Hit is Hit
    assert callable(cmmixer.index)
    assert cmmixer.index is not cmmixer.Index
