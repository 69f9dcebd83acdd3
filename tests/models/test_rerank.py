"""Matching in time: the second stage tells films apart that differ in their timing only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cmmixer.evaluation.metrics import Reranks, ranks_of, retrieval_metrics
from cmmixer.models.losses import sequence_vectors
from cmmixer.models.rerank import SequenceRerank, sequence_scores, timing_scores
from tests.reference.rerank_slow import sequence_score, timing


def unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True))


def frames(count: int, *, places: int = 4, length: int = 6, seed: int = 0) -> NDArray[np.float64]:
    return unit(np.random.default_rng(seed).normal(size=(count, places, length)))


def test_the_score_is_that_of_its_slow_twin() -> None:
    query, candidates = frames(1)[0], frames(5, seed=1)
    cosines = np.random.default_rng(2).uniform(-1, 1, 5)
    by_hand = [timing(query.tolist(), candidate.tolist()) for candidate in candidates]
    np.testing.assert_allclose(timing_scores(query, candidates), by_hand, atol=1e-12)
    expected = [
        sequence_score(cosine, query.tolist(), candidate.tolist())
        for cosine, candidate in zip(cosines.tolist(), candidates, strict=True)
    ]
    np.testing.assert_allclose(sequence_scores(cosines, query, candidates), expected, atol=1e-12)
    halves = candidates.astype(np.float16)  # as an index keeps them
    np.testing.assert_allclose(timing_scores(query, halves), by_hand, atol=2e-3)
    with pytest.raises(ValueError, match="frames must be"):
        timing_scores(query, candidates[:, :3])


def test_the_mean_cosine_of_aligned_frames_is_content_and_timing() -> None:
    query, candidates = frames(1)[0], frames(5, seed=1)
    aligned = np.einsum("te,nte->n", query, candidates) / 4
    content = candidates.mean(1) @ query.mean(0)
    np.testing.assert_allclose(aligned, content + timing_scores(query, candidates), atol=1e-12)
    vectors = sequence_vectors(torch.from_numpy(np.concatenate([query[None], candidates])))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6, dtype=torch.float64))
    np.testing.assert_allclose((vectors[1:] @ vectors[0]).numpy(), aligned, atol=1e-12)


def test_frames_that_do_not_change_say_nothing_about_timing() -> None:
    still = np.repeat(frames(5, places=1, seed=1), 4, axis=1)
    np.testing.assert_allclose(timing_scores(frames(1)[0], still), np.zeros(5), atol=1e-12)
    clips = np.array([0.1, 0.9, 0.3, -0.2, 0.5])
    np.testing.assert_allclose(sequence_scores(clips, still[0], frames(5)), clips, atol=1e-12)


def test_twins_with_equal_clip_vectors_are_told_apart_by_their_order() -> None:
    first = frames(20)
    both = np.concatenate([first, first[:, ::-1]])
    clips = unit(both.mean(1))
    assert np.all(ranks_of(clips, clips) == 2)
    rerank = SequenceRerank(both, both, top=10)
    assert np.all(ranks_of(clips, clips, rerank=rerank) == 1)


def by_definition(
    clips: NDArray[np.float64],
    others: NDArray[np.float64],
    video: NDArray[np.float64],
    audio: NDArray[np.float64],
    top: int,
) -> list[int]:
    """Ranks of a two-stage search, one query at a time."""
    found = []
    for query in range(len(clips)):
        first = sorted(range(len(others)), key=lambda one: -float(clips[query] @ others[one]))
        chosen, rest = first[:top], first[top:]
        chosen.sort(key=lambda one: -sequence_score(float(clips[query] @ others[one]), video[query], audio[one]))
        found.append([*chosen, *rest].index(query) + 1)
    return found


@pytest.mark.parametrize("top", [1, 3, 1000])
@pytest.mark.parametrize("chunk", [1, 7, None])
def test_ranks_are_those_of_a_search_in_two_stages(top: int, chunk: int | None) -> None:
    video, audio = frames(30), unit(frames(30) + 0.7 * frames(30, seed=2))
    clips, others = unit(video.mean(1)), unit(audio.mean(1))
    rerank = SequenceRerank(video, audio, top)
    assert ranks_of(clips, others, chunk=chunk, rerank=rerank).tolist() == by_definition(
        clips, others, video, audio, top
    )


def test_a_collapsed_encoder_ranks_last_after_the_second_stage_too() -> None:
    same = np.ones((50, 4, 3)) / np.sqrt(3)
    clips = unit(same.mean(1))
    assert set(ranks_of(clips, clips, rerank=SequenceRerank(same, same, 10)).tolist()) == {50}


def test_metrics_take_the_second_stage_both_ways_and_the_shuffled_control_too() -> None:
    first = frames(10)
    both = np.concatenate([first, first[:, ::-1]])
    clips = unit(both.mean(1))
    plain = retrieval_metrics(clips, clips, gallery="")
    timed = retrieval_metrics(clips, clips, gallery="", rerank=Reranks.of(both, both, top=5))
    for way in ("video_to_audio", "audio_to_video"):
        assert (plain[way]["R@1"], timed[way]["R@1"]) == (0.0, 1.0)
        assert timed["shuffled_pairs"][way]["R@1"] < 0.2


def test_impossible_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="top at least 1"):
        SequenceRerank(frames(2), frames(2), 0)
    with pytest.raises(ValueError, match="frames must be"):
        SequenceRerank(frames(2), frames(2, length=5), 1)
