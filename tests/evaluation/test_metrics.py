from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from cmmixer.evaluation.metrics import (
    bootstrap_intervals,
    chance_metrics,
    rank_metrics,
    retrieval_metrics,
    shuffled_pairs,
)


def embeddings(pairs: int = 100, noise: float = 1.0, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    chance = np.random.default_rng(seed)
    video = chance.normal(size=(pairs, 16))
    audio = video + noise * chance.normal(size=video.shape)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (video, audio)]
    return unit[0].astype(np.float32), unit[1].astype(np.float32)


def test_figures_of_known_ranks() -> None:
    figures = rank_metrics([1, 2, 4, 10, 20])
    assert figures == {
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


def test_the_whole_as_json() -> None:
    video, audio = embeddings()
    metrics = retrieval_metrics(video, audio, gallery="ab" * 32, resamplings=50)
    assert json.loads(json.dumps(metrics)) == metrics
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


def test_the_directions_are_what_they_say() -> None:
    """Every sound finds its picture, while all pictures lie nearest to sound 0."""
    audio = np.eye(3) + np.array([[1.0], [0.0], [0.0]])
    video = np.eye(3) * 0.1 + np.eye(3)[:1]
    metrics = retrieval_metrics(video, audio, gallery="", resamplings=5)
    scores = video @ audio.T
    assert metrics["video_to_audio"]["R@1"] == np.mean(scores.argmax(1) == np.arange(3))
    assert metrics["audio_to_video"]["R@1"] == np.mean(scores.argmax(0) == np.arange(3))
    assert metrics["video_to_audio"]["R@1"] != metrics["audio_to_video"]["R@1"]


def test_pictures_and_sounds_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="as many pictures as sounds"):
        retrieval_metrics(np.zeros((2, 3)), np.zeros((3, 3)), gallery="")
