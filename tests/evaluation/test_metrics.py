"""Retrieval metrics: known values, chance, intervals, ties and NaN, and the slow twin."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cmmixer.evaluation import metrics as metrics_module
from cmmixer.evaluation.metrics import (
    Reranks,
    bootstrap_intervals,
    chance_metrics,
    rank_metrics,
    rankings,
    ranks,
    ranks_of,
    retrieval_metrics,
    shuffled_pairs,
)
from tests.reference import metrics_slow


def embeddings(pairs: int = 100, noise: float = 1.0, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    video = generator.normal(size=(pairs, 16))
    audio = video + noise * generator.normal(size=video.shape)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (video, audio)]
    return unit[0].astype(np.float32), unit[1].astype(np.float32)


def test_metrics_of_known_ranks() -> None:
    assert rank_metrics([1, 2, 4, 10, 20]) == {
        "R@1": 0.2,
        "R@5": 0.6,
        "R@10": 0.8,
        "MedR": 4.0,
        "MRR": pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 10 + 1 / 20) / 5),
    }


def test_metrics_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no queries"):
        rank_metrics([])


@pytest.mark.parametrize("candidates", [1, 4, 200])
def test_chance_is_the_mean_over_every_rank(candidates: int) -> None:
    every = rank_metrics(np.arange(1, candidates + 1))
    assert chance_metrics(candidates) == {name: pytest.approx(value) for name, value in every.items()}


def test_bootstrap_intervals_agree_with_the_binomial_ones() -> None:
    ranks = np.where(np.arange(400) < 120, 1, 50)
    low, high = bootstrap_intervals(ranks, resamplings=2000)["R@1"]
    width = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert low == pytest.approx(0.3 - width, abs=0.006)
    assert high == pytest.approx(0.3 + width, abs=0.006)


def test_bootstrap_is_deterministic_by_seed() -> None:
    ranks = np.random.default_rng(0).integers(1, 50, 80)
    assert bootstrap_intervals(ranks, resamplings=50, seed=3) == bootstrap_intervals(ranks, resamplings=50, seed=3)
    assert bootstrap_intervals(ranks, resamplings=50, seed=3) != bootstrap_intervals(ranks, resamplings=50, seed=4)


def test_a_model_that_knows_every_pair_is_at_chance_on_shuffled_ones() -> None:
    video, _ = embeddings(200)
    assert rank_metrics(np.ones(200))["R@1"] == 1.0
    shuffled, chance = shuffled_pairs(video, video, shuffles=30), chance_metrics(200)
    for name, tolerance in {"R@1": 0.003, "R@5": 0.006, "R@10": 0.008, "MedR": 6.0, "MRR": 0.004}.items():
        assert shuffled[name] == pytest.approx(chance[name], abs=tolerance)


def test_all_metrics_are_json_under_their_documented_keys() -> None:
    video, audio = embeddings()
    metrics = retrieval_metrics(video, audio, gallery="ab" * 32, resamplings=50)
    assert json.loads(json.dumps(metrics)) == metrics
    assert list(metrics) == [
        "video_to_audio",
        "audio_to_video",
        "candidates",
        "chance",
        "gallery",
        "intervals",
        "shuffled_pairs",
    ]
    names = ["R@1", "R@5", "R@10", "MedR", "MRR"]
    for direction in ("video_to_audio", "audio_to_video"):
        assert list(metrics[direction]) == names
        assert list(metrics["intervals"][direction]) == names
        assert list(metrics["shuffled_pairs"][direction]) == names
        for name in names:
            low, high = metrics["intervals"][direction][name]
            assert low <= metrics[direction][name] <= high
    assert metrics["candidates"] == 100
    assert metrics["gallery"] == "ab" * 32
    assert metrics["chance"]["R@5"] == 0.05
    assert metrics["video_to_audio"]["R@1"] > 0.5


def test_directions_are_not_swapped() -> None:
    """Every sound finds its video, while all videos are nearest to sound 0."""
    audio = np.eye(3) + np.array([[1.0], [0.0], [0.0]])
    video = np.eye(3) * 0.1 + np.eye(3)[:1]
    metrics = retrieval_metrics(video, audio, gallery="", resamplings=5)
    scores = video @ audio.T
    assert metrics["video_to_audio"]["R@1"] == np.mean(scores.argmax(1) == np.arange(3))
    assert metrics["audio_to_video"]["R@1"] == np.mean(scores.argmax(0) == np.arange(3))
    assert metrics["video_to_audio"]["R@1"] != metrics["audio_to_video"]["R@1"]


def test_unequal_numbers_of_vectors_are_refused() -> None:
    expected = "expected as many video as audio vectors, at least one; got "
    with pytest.raises(ValueError, match=re.escape(f"{expected}(2, 3) and (3, 3)")):
        retrieval_metrics(np.zeros((2, 3)), np.zeros((3, 3)), gallery="")
    with pytest.raises(ValueError, match=re.escape(f"{expected}(0, 3) and (0, 3)")):
        retrieval_metrics(np.zeros((0, 3)), np.zeros((0, 3)), gallery="")


# Few different values, so that ties are the rule.
score = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 1.0, np.nan])

matrices = hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=score)


@settings(max_examples=200, deadline=None)
@given(matrices, st.data())
def test_ranks_and_rankings_equal_the_slow_twin(scores: np.ndarray, data: st.DataObject) -> None:
    queries, candidates = scores.shape
    truth = data.draw(st.lists(st.integers(0, candidates - 1), min_size=queries, max_size=queries))
    slow = [metrics_slow.rank(row, true) for row, true in zip(scores.tolist(), truth, strict=True)]
    assert ranks(scores, truth).tolist() == slow
    order = rankings(scores, truth)
    assert all(sorted(row) == list(range(candidates)) for row in order.tolist())
    assert [row.index(true) + 1 for row, true in zip(order.tolist(), truth, strict=True)] == slow


def test_ties_count_against_the_model() -> None:
    assert ranks([[1.0, 1.0, 1.0]], [0]).tolist() == [3]
    assert ranks([[1.0, 0.5, 0.2]], [0]).tolist() == [1]


def test_a_collapsed_encoder_ranks_last() -> None:
    same = np.tile(np.random.default_rng(0).normal(size=16).astype(np.float32), (300, 1))
    same /= np.linalg.norm(same, axis=1, keepdims=True)
    assert (ranks_of(same, same) == 300).all()
    nearly = same + np.random.default_rng(1).normal(size=same.shape).astype(np.float32) * 1e-8
    assert (ranks_of(nearly, nearly) == 300).all()


def test_nan_ranks_last() -> None:
    assert ranks([[np.nan, 0.1, 0.2]], [0]).tolist() == [3]
    assert ranks([[np.nan, 0.1, 0.2]], [2]).tolist() == [1]
    broken = np.full((4, 3), np.nan)
    assert ranks_of(broken, broken).tolist() == [4, 4, 4, 4]
    infinite = np.full((2, 3), np.inf)
    infinite[:, 0] *= -1
    assert ranks_of(infinite, -infinite).tolist() == [2, 2]


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000, None])
def test_ranks_are_over_the_whole_gallery_not_one_batch(chunk: int | None) -> None:
    """Every query meets the whole gallery, however many are scored at a time."""
    generator = np.random.default_rng(0)
    video = generator.normal(size=(150, 8)).astype(np.float32)
    audio = (video + generator.normal(size=video.shape)).astype(np.float32)
    scores = video.astype(np.float64) @ audio.astype(np.float64).T
    slow = [metrics_slow.rank(row, true) for true, row in enumerate(scores.tolist())]
    assert ranks_of(video, audio, chunk=chunk).tolist() == slow
    assert max(slow) > 64


def test_order_of_the_gallery_changes_no_rank() -> None:
    generator = np.random.default_rng(0)
    video, audio = generator.normal(size=(2, 40, 6))
    order = generator.permutation(40)
    assert (ranks_of(video[order], audio[order]) == ranks_of(video, audio)[order]).all()


def test_queries_and_candidates_may_differ_in_number() -> None:
    candidates = np.eye(4)
    assert ranks_of(candidates[[2, 0]], candidates, [2, 3]).tolist() == [1, 4]
    with pytest.raises(ValueError, match="2 queries and 4 candidates: say which candidate is true"):
        ranks_of(candidates[:2], candidates)


def test_near_ties_count_in_ranks_and_rankings() -> None:
    scores = [[0.5, 0.5 - 1e-9, 0.9]]
    assert ranks(scores, [0], tie=1e-6).tolist() == [3]
    assert rankings(scores, [0], tie=1e-6).tolist() == [[2, 1, 0]]
    assert rankings(scores, [0]).tolist() == [[2, 0, 1]]


@pytest.mark.parametrize("truth", [[0, 5], [-1, 0], [0]])
def test_a_true_candidate_outside_the_gallery_is_refused(truth: list[int]) -> None:
    with pytest.raises(ValueError, match=r"truth must be 2 columns in \[0, 3\)"):
        ranks(np.zeros((2, 3)), truth)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="scores must be"):
        ranks(np.zeros(3))
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
        ranks_of(np.zeros((2, 3)), np.zeros((2, 4)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_rank_metrics_equal_the_slow_twin(ranks_Q: list[int]) -> None:
    slow = metrics_slow.metrics(ranks_Q)
    assert rank_metrics(ranks_Q) == {name: pytest.approx(value, rel=1e-12) for name, value in slow.items()}


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_gallery_metrics_equal_the_slow_twin(noise: float) -> None:
    video, audio = embeddings(30, noise)
    metrics = retrieval_metrics(video, audio, gallery="", resamplings=2)
    slow = metrics_slow.gallery_metrics(video.tolist(), audio.tolist())
    for direction, expected in slow.items():
        assert metrics[direction] == {name: pytest.approx(value, rel=1e-12) for name, value in expected.items()}


def test_a_large_gallery_is_scored_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "MAX_SCORES", 250)  # two queries of 100 candidates at a time
    video, audio = embeddings()
    chunks: list[int] = []

    class Spy:
        """A second stage that changes nothing."""

        def __call__(self, first: int, scores_QN: NDArray[np.float64], truth_Q: NDArray[np.int64]) -> None:
            chunks.append(len(scores_QN))
            assert truth_Q.tolist() == [first, first + 1]

    assert ranks_of(video, audio, rerank=Spy()).tolist() == ranks_of(video, audio, chunk=100).tolist()  # type: ignore[arg-type]
    assert chunks == [2] * 50


def test_a_second_stage_changes_both_directions() -> None:
    generator = np.random.default_rng(0)
    frames_NTE = generator.normal(size=(12, 4, 8)).astype(np.float32)
    clip_NE = np.repeat(np.eye(8, dtype=np.float32)[:1], 12, axis=0)  # all clips alike: only the frames tell
    without = retrieval_metrics(clip_NE, clip_NE, gallery="", resamplings=2)
    reranks = Reranks.of(frames_NTE, frames_NTE, 12)
    with_frames = retrieval_metrics(clip_NE, clip_NE, gallery="", resamplings=2, rerank=reranks)
    for direction in ("video_to_audio", "audio_to_video"):
        assert without[direction]["R@10"] == 0.0
        assert with_frames[direction]["R@1"] > 0.9
    assert with_frames["shuffled_pairs"]["video_to_audio"]["R@1"] < 0.5


def test_shuffled_pairs_are_the_mean_over_their_pairings() -> None:
    video, audio = embeddings(20)
    generator = np.random.default_rng(5)
    each = [rank_metrics(ranks_of(video, audio, generator.permutation(20))) for _ in range(3)]
    expected = {name: pytest.approx(np.mean([metrics[name] for metrics in each])) for name in each[0]}
    assert shuffled_pairs(video, audio, shuffles=3, seed=5) == expected


def test_intervals_of_certain_ranks_have_no_width() -> None:
    assert bootstrap_intervals([3] * 10, resamplings=20) == {
        "R@1": [0.0, 0.0],
        "R@5": [1.0, 1.0],
        "R@10": [1.0, 1.0],
        "MedR": [3.0, 3.0],
        "MRR": [pytest.approx(1 / 3), pytest.approx(1 / 3)],
    }


def test_rankings_put_nan_behind_every_number() -> None:
    scores = [[0.1, np.nan, 0.3, -np.inf], [np.nan, 0.2, 0.2, 0.2]]
    assert rankings(scores, [3, 0]).tolist() == [[2, 0, 3, 1], [1, 2, 3, 0]]
