"""docs/twins.md matches the stored results, and the scores and choices between twins are computed correctly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.twins import (
    DIRECTIONS,
    DOCUMENT,
    RESULT,
    SEARCH,
    document,
    milliseconds,
    r1_both_directions,
    scores,
    twin_choice,
)
from cmmixer.models.rerank import SequenceRerank, sequence_scores, timing_scores

ROWS = json.loads(RESULT.read_text())


def test_twins_document_matches_stored_results() -> None:
    assert DOCUMENT.read_text() == document(ROWS, json.loads(SEARCH.read_text()))


def test_sequence_score_separates_twins_that_clip_vectors_cannot() -> None:
    """Twins a second apart: clip vectors are near chance, the sequence score is clearly above; and it is better among all videos."""
    found = [
        each for row in ROWS if row["model"] == "frame-level" for each in row["twins"] if each["difference"] == "1"
    ]
    assert len({each["gallery"] for each in found}) == 3
    for way in DIRECTIONS:
        assert max(abs(each["choice"]["clip"][way] - 0.5) for each in found) < 0.08
        assert min(each["choice"]["sequence"][way] for each in found) > 0.65
        for row in ROWS:
            if row["model"] == "frame-level":
                assert row["reranked"][way]["R@1"] > row["all"]["clip"][way] + 0.05


def test_tie_between_twins_counts_as_an_error() -> None:
    audio = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    video = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    choice = twin_choice(video @ audio.T)
    # Video 0 prefers its sound, 1 that of its twin, 2 and 3 are ties. Sounds see equal videos.
    assert choice == {"video_to_audio": 0.25, "audio_to_video": 0.0}
    assert r1_both_directions(video @ audio.T) == {"video_to_audio": 0.0, "audio_to_video": 0.0}


def test_scores_equal_those_of_reranking() -> None:
    generator = np.random.default_rng(0)
    video, audio = generator.normal(size=(2, 6, 3, 4))
    twin_scores = scores(video.mean(1), audio.mean(1), video, audio)
    for query in range(6):
        np.testing.assert_allclose(twin_scores.timing[query], timing_scores(video[query], audio), atol=1e-12)
        np.testing.assert_allclose(
            twin_scores.weighted(2.0)[query], sequence_scores(twin_scores.clip[query], video[query], audio), atol=1e-12
        )


def test_reranking_time_is_measured_per_query() -> None:
    frames = np.random.default_rng(0).normal(size=(20, 2, 3))
    assert 0.0 < milliseconds(SequenceRerank(frames, frames, 5), frames[:, 0], frames[:, 0]) < 1000.0
    with pytest.raises(ValueError, match="top at least 1"):
        SequenceRerank(frames, frames, 0)
