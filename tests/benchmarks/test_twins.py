"""What docs/twins.md says is what the stored results say; the choice between twins is counted right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.twins import DOCUMENT, RESULT, SEARCH, WAYS, both_ways, document, milliseconds, scores, twin_choice
from cmmixer.models.rerank import SequenceRerank, sequence_scores, timing_scores

ROWS = json.loads(RESULT.read_text())


def test_the_document_is_made_from_the_stored_results() -> None:
    assert DOCUMENT.read_text() == document(ROWS, json.loads(SEARCH.read_text()))


def test_only_the_order_of_frames_is_left_where_a_clip_s_vector_cannot_tell() -> None:
    """Twins a second apart: the clip's vector near guessing, the sequence score clearly above; and better among all too."""
    found = [each for row in ROWS if row["model"] == "apart" for each in row["twins"] if each["difference"] == "1"]
    assert len({each["gallery"] for each in found}) == 3
    for way in WAYS:
        assert max(abs(each["choice"]["clip"][way] - 0.5) for each in found) < 0.08
        assert min(each["choice"]["sequence"][way] for each in found) > 0.65
        for row in ROWS:
            if row["model"] == "apart":
                assert row["reranked"][way]["R@1"] > row["all"]["clip"][way] + 0.05


def test_a_tie_between_twins_is_lost() -> None:
    audio = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    video = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    choice = twin_choice(video @ audio.T)
    # Picture 0 prefers its sound, 1 its twin's, 2 and 3 cannot tell. Sounds cannot tell between equal pictures.
    assert choice == {"video_to_audio": 0.25, "audio_to_video": 0.0}
    assert both_ways(video @ audio.T) == {"video_to_audio": 0.0, "audio_to_video": 0.0}


def test_the_benchmark_s_scores_are_those_of_the_second_stage() -> None:
    chance = np.random.default_rng(0)
    video, audio = chance.normal(size=(2, 6, 3, 4))
    found = scores(video.mean(1), audio.mean(1), video, audio)
    for query in range(6):
        np.testing.assert_allclose(found.timing[query], timing_scores(video[query], audio), atol=1e-12)
        np.testing.assert_allclose(
            found.weighted(2.0)[query], sequence_scores(found.clip[query], video[query], audio), atol=1e-12
        )


def test_the_time_of_the_second_stage_is_that_of_one_query() -> None:
    frames = np.random.default_rng(0).normal(size=(20, 2, 3))
    assert 0.0 < milliseconds(SequenceRerank(frames, frames, 5), frames[:, 0], frames[:, 0]) < 1000.0
    with pytest.raises(ValueError, match="top at least 1"):
        SequenceRerank(frames, frames, 0)
