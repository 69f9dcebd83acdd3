"""What docs/twins.md says is what the stored results say; the choice between twins is counted right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.twins import DOCUMENT, RESULT, document, milliseconds, twin_choice
from cmmixer.evaluation.sequence import SequenceRerank


def test_the_document_is_made_from_the_stored_results() -> None:
    assert DOCUMENT.read_text() == document(json.loads(RESULT.read_text()))


def test_twins_are_told_apart_far_above_guessing_by_both_scores() -> None:
    for row in json.loads(RESULT.read_text()):
        for score in ("clip", "sequence"):
            assert min(row["twins"][score].values()) > 0.8


def test_a_tie_between_twins_is_lost() -> None:
    audio = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    video = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    choice = twin_choice(video, audio)
    # Picture 0 prefers its sound, 1 its twin's, 2 and 3 cannot tell. Sounds cannot tell between equal pictures.
    assert choice == {"video_to_audio": 0.25, "audio_to_video": 0.0}


def test_the_time_of_the_second_stage_is_that_of_one_query() -> None:
    frames = np.random.default_rng(0).normal(size=(20, 2, 3))
    assert 0.0 < milliseconds(SequenceRerank(frames, frames, 5), (frames[:, 0], frames[:, 0])) < 1000.0
    with pytest.raises(ValueError, match="top at least 1"):
        SequenceRerank(frames, frames, 0)
