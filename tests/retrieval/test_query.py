"""The query: read from a file or standard input, embedded, and which modality it is searched by."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmmixer.config import SearchSettings, SegmentSettings
from cmmixer.data import chunks as chunks_module
from cmmixer.embedding.pipeline import Moment
from cmmixer.errors import MediaError
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.query import (
    SEARCHED_BY,
    QueryMoment,
    choose_modalities,
    embed_query,
    query_file,
    query_moments_by,
    uses_reranking,
)
from cmmixer.types import Span
from tests.support.coloured_videos import BLUE, RED, ColourEncoder, sound, unit, video
from tests.support.killed_indexing import decode_here


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks_module, "map_sandboxed", decode_here)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> MomentIndex:
    """An empty index with a moment every quarter of a second."""
    folder = tmp_path_factory.mktemp("library")
    with MomentIndex.writing(folder, ColourEncoder(), SegmentSettings(stride_seconds=0.25)):
        pass
    return MomentIndex.open(folder)


def _embed(path: Path, library: MomentIndex, **options: Any) -> tuple[str, str, list[QueryMoment]]:
    settings = SearchSettings(query=str(path), index=str(library.folder), **options)
    return embed_query(str(path), settings, library, ColourEncoder())


def _moment(*, video: bool, audio: bool) -> Moment:
    one = np.ones(4, np.float32) / 2
    return Moment(Span(0.0, 1.0), one if video else None, -one if audio else None)


def test_a_file_is_used_where_it_is() -> None:
    with query_file("folder/query.mp4", None) as path:
        assert path == "folder/query.mp4"


def test_standard_input_becomes_a_temporary_file() -> None:
    with query_file("-", io.BytesIO(b"content")) as path:
        assert Path(path).read_bytes() == b"content"
    assert not Path(path).exists()


def test_errors_name_standard_input_not_the_temporary_file() -> None:
    with pytest.raises(MediaError) as refused, query_file("-", io.BytesIO(b"")) as path:
        raise MediaError(path, "empty", "has zero bytes")
    assert str(refused.value) == "standard input: has zero bytes"
    assert refused.value.reason == "empty"


def test_query_is_cut_like_the_index(library: MomentIndex, tmp_path: Path) -> None:
    target, by, moments = _embed(video(tmp_path / "q.mp4", [RED, RED], sound=None), library)
    assert (target, by) == ("audio", "video")
    assert [moment.span.start_seconds for moment in moments] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert all(moment.vector_E @ unit(RED) > 0.985 for moment in moments)
    assert all(moment.frames_TE is not None and moment.frames_TE.shape == (2, 4) for moment in moments)


@pytest.mark.parametrize(
    ("options", "expected", "colour"),
    [
        ({}, ("audio", "video"), RED),
        ({"target": "audio"}, ("audio", "video"), RED),
        ({"target": "video"}, ("video", "audio"), BLUE),
        ({"target": "video", "by": "video"}, ("video", "video"), RED),
        ({"target": "audio", "by": "audio"}, ("audio", "audio"), BLUE),
        ({"target": "any", "by": "audio"}, ("any", "audio"), BLUE),
        ({"target": "any"}, ("any", "any"), (0.5, 0.0, 0.5)),
    ],
)
def test_query_with_both_modalities(
    library: MomentIndex, tmp_path: Path, options: dict[str, str], expected: tuple[str, str], colour: Any
) -> None:
    *modalities, moments = _embed(video(tmp_path / "q.mp4", [RED], sound=[BLUE]), library, **options)
    assert tuple(modalities) == expected
    assert all(moment.vector_E @ unit(colour) > 0.95 for moment in moments)
    assert all((moment.frames_TE is None) == (expected[1] == "any") for moment in moments)


def test_sound_searches_for_videos(library: MomentIndex, tmp_path: Path) -> None:
    target, by, moments = _embed(sound(tmp_path / "q.wav", [BLUE]), library)
    assert (target, by, len(moments)) == ("video", "audio", 1)
    target, by, moments = _embed(sound(tmp_path / "q.wav", [BLUE]), library, target="any")
    assert (target, by) == ("any", "any")
    assert moments[0].vector_E @ unit(BLUE) > 0.985


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "audio"}, "has no video stream, only audio, and --for audio searches by frames"),
        ({"target": "any", "by": "video"}, "has no video stream, only audio, and --by video searches by frames"),
    ],
)
def test_a_missing_modality_names_the_option(
    library: MomentIndex, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    path = sound(tmp_path / "q.wav", [BLUE])
    with pytest.raises(MediaError) as refused:
        _embed(path, library, **options)
    assert str(refused.value) == f"{path}: {message}"
    assert refused.value.reason == "no-video"


def test_silence_cannot_be_searched_by(library: MomentIndex, tmp_path: Path) -> None:
    path = sound(tmp_path / "q.wav", [(0.0, 0.0, 0.0)])
    with pytest.raises(MediaError, match="silent from beginning to end, and --for video searches by sound"):
        _embed(path, library, target="video")
    with pytest.raises(MediaError, match=r"it is silent from beginning to end$"):
        _embed(path, library)


def test_other_errors_are_not_changed(library: MomentIndex, tmp_path: Path) -> None:
    with pytest.raises(MediaError) as refused:
        _embed(tmp_path / "gone.mp4", library, target="audio")
    assert "--for" not in str(refused.value)
    assert refused.value.reason == "missing"


@pytest.mark.parametrize(
    ("moments", "target", "by", "expected"),
    [
        ([(True, True)], None, None, ("audio", "video")),
        ([(True, False)], None, None, ("audio", "video")),
        ([(False, True)], None, None, ("video", "audio")),
        ([(False, True), (True, False)], None, None, ("audio", "video")),
        ([(False, True)], "any", None, ("any", "any")),
        ([(True, True)], "video", "video", ("video", "video")),
        ([], None, None, ("video", "audio")),
    ],
)
def test_modalities_follow_from_the_query(
    moments: list[tuple[bool, bool]], target: str | None, by: str | None, expected: tuple[str, str]
) -> None:
    given = [_moment(video=has_video, audio=has_audio) for has_video, has_audio in moments]
    assert choose_modalities(given, target, by) == expected


@pytest.mark.parametrize("target", ["audio", "video", "any"])
@pytest.mark.parametrize("by", ["audio", "video", "any"])
def test_reranking_is_the_default_between_the_modalities(target: str, by: str) -> None:
    assert uses_reranking(None, target, by) == (target != by and "any" not in (target, by))
    assert uses_reranking("sequence", target, by)
    assert not uses_reranking("none", target, by)


def test_moments_without_the_modality_are_left_out() -> None:
    moments = [_moment(video=True, audio=False), _moment(video=True, audio=True)]
    assert [moment.vector_E[0] for moment in query_moments_by(moments, "audio")] == [-0.5]
    assert [moment.vector_E[0] for moment in query_moments_by(moments, "video")] == [0.5, 0.5]
    assert query_moments_by(moments[:1], "audio") == []


def test_every_target_has_a_default() -> None:
    assert SEARCHED_BY == {"audio": "video", "video": "audio", "any": "any"}
