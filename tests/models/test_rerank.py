"""Reranking by timing: scores against a slow twin, ranks against a two-stage search, and videos that differ only in order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cmmixer.evaluation.metrics import Reranks, ranks_of, retrieval_metrics
from cmmixer.models.losses import sequence_vectors
from cmmixer.models.rerank import TIE, SequenceRerank, reported_score, sequence_scores, timing_scores
from tests.reference.rerank_slow import sequence_score, timing


def unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True))


def frames(count: int, *, steps: int = 4, length: int = 6, seed: int = 0) -> NDArray[np.float64]:
    return unit(np.random.default_rng(seed).normal(size=(count, steps, length)))


def test_scores_equal_the_slow_twin() -> None:
    query, candidates = frames(1)[0], frames(5, seed=1)
    cosines = np.random.default_rng(2).uniform(-1, 1, 5)
    slow = [timing(query.tolist(), candidate.tolist()) for candidate in candidates]
    np.testing.assert_allclose(timing_scores(query, candidates), slow, atol=1e-12)
    expected = [
        sequence_score(cosine, query.tolist(), candidate.tolist())
        for cosine, candidate in zip(cosines.tolist(), candidates, strict=True)
    ]
    np.testing.assert_allclose(sequence_scores(cosines, query, candidates), expected, atol=1e-12)
    halves = candidates.astype(np.float16)  # as an index stores them
    np.testing.assert_allclose(timing_scores(query, halves), slow, atol=2e-3)


def test_mean_cosine_of_aligned_frames_is_content_plus_timing() -> None:
    query, candidates = frames(1)[0], frames(5, seed=1)
    aligned = np.einsum("te,nte->n", query, candidates) / 4
    content = candidates.mean(1) @ query.mean(0)
    np.testing.assert_allclose(aligned, content + timing_scores(query, candidates), atol=1e-12)
    vectors = sequence_vectors(torch.from_numpy(np.concatenate([query[None], candidates])))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6, dtype=torch.float64))
    np.testing.assert_allclose((vectors[1:] @ vectors[0]).numpy(), aligned, atol=1e-12)


def test_constant_frames_have_timing_zero() -> None:
    still = np.repeat(frames(5, steps=1, seed=1), 4, axis=1)
    np.testing.assert_allclose(timing_scores(frames(1)[0], still), np.zeros(5), atol=1e-12)
    clips = np.array([0.1, 0.9, 0.3, -0.2, 0.5])
    np.testing.assert_allclose(sequence_scores(clips, still[0], frames(5)), clips, atol=1e-12)


def test_order_distinguishes_clips_with_equal_vectors() -> None:
    first = frames(20)
    both = np.concatenate([first, first[:, ::-1]])
    clips = unit(both.mean(1))
    assert np.all(ranks_of(clips, clips) == 2)
    rerank = SequenceRerank(both, both, top=10)
    assert np.all(ranks_of(clips, clips, rerank=rerank) == 1)


def two_stage_ranks(
    clips: NDArray[np.float64],
    others: NDArray[np.float64],
    video: NDArray[np.float64],
    audio: NDArray[np.float64],
    top: int,
) -> list[int]:
    """Ranks of a two-stage search, one query at a time."""
    ranks = []
    for query in range(len(clips)):
        first = sorted(range(len(others)), key=lambda row: -float(clips[query] @ others[row]))
        chosen, rest = first[:top], first[top:]
        chosen.sort(key=lambda row: -sequence_score(float(clips[query] @ others[row]), video[query], audio[row]))
        ranks.append([*chosen, *rest].index(query) + 1)
    return ranks


@pytest.mark.parametrize("top", [1, 3, 1000])
@pytest.mark.parametrize("chunk", [1, 7, None])
def test_ranks_equal_a_two_stage_search(top: int, chunk: int | None) -> None:
    video, audio = frames(30), unit(frames(30) + 0.7 * frames(30, seed=2))
    clips, others = unit(video.mean(1)), unit(audio.mean(1))
    rerank = SequenceRerank(video, audio, top)
    assert ranks_of(clips, others, chunk=chunk, rerank=rerank).tolist() == two_stage_ranks(
        clips, others, video, audio, top
    )


def test_a_collapsed_encoder_still_ranks_last() -> None:
    same = np.ones((50, 4, 3)) / np.sqrt(3)
    clips = unit(same.mean(1))
    assert set(ranks_of(clips, clips, rerank=SequenceRerank(same, same, 10)).tolist()) == {50}


def test_metrics_rerank_both_directions_and_the_shuffled_control() -> None:
    first = frames(10)
    both = np.concatenate([first, first[:, ::-1]])
    clips = unit(both.mean(1))
    plain = retrieval_metrics(clips, clips, gallery="")
    timed = retrieval_metrics(clips, clips, gallery="", rerank=Reranks.of(both, both, top=5))
    for direction in ("video_to_audio", "audio_to_video"):
        assert (plain[direction]["R@1"], timed[direction]["R@1"]) == (0.0, 1.0)
        assert timed["shuffled_pairs"][direction]["R@1"] < 0.2


def test_timing_lies_between_minus_one_and_one() -> None:
    """Frames that alternate between v and -v change fully together with themselves, and fully against their reverse."""
    axis = np.array([1.0, 0.0])
    alternating = np.stack([axis, -axis, axis, -axis])
    np.testing.assert_allclose(timing_scores(alternating, np.stack([alternating, alternating[::-1]])), [1.0, -1.0])


def test_reranked_candidates_are_lifted_above_all_others() -> None:
    queries, candidates = frames(2), frames(6, seed=1)
    cosines = np.random.default_rng(2).uniform(-1, 1, (2, 6))
    scores = cosines.copy()
    SequenceRerank(queries, candidates, top=2)(0, scores, np.array([0, 1]))
    for row in range(2):
        best = np.argsort(-cosines[row])[:2]
        rest = np.setdiff1d(np.arange(6), best)
        assert scores[row, best].min() > 1.0 + TIE
        assert np.array_equal(scores[row, rest], cosines[row, rest])
        expected = sequence_scores(cosines[row, best], queries[row], candidates[best])
        reported = [reported_score(score) for score in scores[row].tolist()]
        np.testing.assert_allclose(np.array(reported)[best], expected, atol=1e-12)
        assert np.array_equal(np.array(reported)[rest], cosines[row, rest])


def test_rows_of_a_chunk_belong_to_queries_from_first_on() -> None:
    queries, candidates = frames(5), frames(6, seed=1)
    cosines = np.random.default_rng(2).uniform(-1, 1, (5, 6))
    rerank, truth = SequenceRerank(queries, candidates, top=3), np.arange(5)
    whole, chunk = cosines.copy(), cosines[3:].copy()
    rerank(0, whole, truth)
    rerank(3, chunk, truth[3:])
    assert np.array_equal(chunk, whole[3:])


def test_the_true_candidate_is_chosen_last_among_ties() -> None:
    same = np.repeat(frames(1), 3, axis=0)
    scores = np.full((1, 3), 0.5)
    SequenceRerank(same[:1], same, top=2)(0, scores, np.array([0]))
    assert scores[0, 0] == 0.5
    assert (scores[0, 1:] > 1.0).all()


def test_timing_scores_refuse_frames_of_another_shape() -> None:
    query, candidates = frames(1)[0], frames(5, seed=1)
    expected = r"^query and candidates must be \[T, E\] and \[N, T, E\]; got \(4, 6\) and \(5, 3, 6\)$"
    with pytest.raises(ValueError, match=expected):
        timing_scores(query, candidates[:, :3])
    with pytest.raises(ValueError, match=r"got \(4, 6\) and \(4, 6\)$"):
        timing_scores(query, candidates[0])


def test_sequence_rerank_refuses_bad_arguments() -> None:
    expected = (
        r"^queries and candidates must be \[Q, T, E\] and \[N, T, E\], top at least 1; "
        r"got \(2, 4, 6\), \(2, 4, 6\), top 0$"
    )
    with pytest.raises(ValueError, match=expected):
        SequenceRerank(frames(2), frames(2), 0)
    with pytest.raises(ValueError, match=r"got \(2, 4, 6\), \(2, 4, 5\), top 1$"):
        SequenceRerank(frames(2), frames(2, length=5), 1)
