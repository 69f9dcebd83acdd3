"""Retrieval figures of a gallery, both ways, each beside what chance gives.

Letters: Q queries, N candidates, E length of an embedding.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cmmixer.evaluation.ranks import ranks_of
from cmmixer.evaluation.sequence import SequenceRerank

RECALL_AT = (1, 5, 10)
PERCENTILES = (2.5, 97.5)


class Reranks(NamedTuple):
    """A second stage for each direction."""

    video_to_audio: SequenceRerank
    audio_to_video: SequenceRerank

    @classmethod
    def of(cls, video_NTE: NDArray[Any], audio_NTE: NDArray[Any], top: int) -> Self:
        """Of the frames of a gallery's pictures and sounds."""
        return cls(SequenceRerank(video_NTE, audio_NTE, top), SequenceRerank(audio_NTE, video_NTE, top))


def rank_metrics(ranks_Q: ArrayLike) -> dict[str, float]:
    """R@K, the part of queries with rank <= K; MedR, the median rank; MRR, the mean of 1 / rank.

    Raises:
        ValueError: there are no queries.
    """
    ranks = np.asarray(ranks_Q)
    if ranks.size == 0:
        raise ValueError("no queries: metrics of nothing are not defined")
    figures = {f"R@{k}": float(np.mean(ranks <= k)) for k in RECALL_AT}
    return figures | {"MedR": float(np.median(ranks)), "MRR": float(np.mean(1.0 / ranks))}


def chance_metrics(candidates: int) -> dict[str, float]:
    """What ranks drawn evenly from 1 .. N give on average: min(K, N) / N, (N + 1) / 2, (1 + 1/2 + .. + 1/N) / N."""
    figures = {f"R@{k}": min(k, candidates) / candidates for k in RECALL_AT}
    harmonic = float(np.sum(1.0 / np.arange(1, candidates + 1)))
    return figures | {"MedR": (candidates + 1) / 2, "MRR": harmonic / candidates}


def bootstrap_intervals(ranks_Q: ArrayLike, *, resamplings: int = 1000, seed: int = 0) -> dict[str, list[float]]:
    """95 % intervals of `rank_metrics` by the percentile bootstrap over queries (Efron and Tibshirani 1993, ch. 13).

    Returns:
        Metric -> [low, high]: the 2.5th and 97.5th percentile over the resamplings.
    """
    ranks, generator = np.asarray(ranks_Q), np.random.default_rng(seed)
    drawn = [rank_metrics(ranks[generator.integers(0, ranks.size, ranks.size)]) for _ in range(resamplings)]
    return {
        name: [float(edge) for edge in np.percentile([figures[name] for figures in drawn], PERCENTILES)]
        for name in drawn[0]
    }


def shuffled_pairs(
    queries_NE: NDArray[Any],
    candidates_NE: NDArray[Any],
    *,
    shuffles: int = 10,
    seed: int = 0,
    rerank: SequenceRerank | None = None,
) -> dict[str, float]:
    """The same figures when each query's true candidate is drawn at random: sits at chance, or something leaks.

    The mean over `shuffles` random pairings.
    """
    generator = np.random.default_rng(seed)
    pairings = [generator.permutation(len(candidates_NE)) for _ in range(shuffles)]
    figures = [rank_metrics(ranks_of(queries_NE, candidates_NE, truth, rerank=rerank)) for truth in pairings]
    return {name: float(np.mean([figure[name] for figure in figures])) for name in figures[0]}


def retrieval_metrics(
    video_NE: NDArray[Any],
    audio_NE: NDArray[Any],
    *,
    gallery: str,
    resamplings: int = 1000,
    seed: int = 0,
    rerank: Reranks | None = None,
) -> dict[str, Any]:
    """All figures of a gallery whose clip i has the picture `video_NE[i]` and the sound `audio_NE[i]`.

    Args:
        video_NE, audio_NE: unit vectors.
        gallery: sha256 of the frozen gallery.
        resamplings: of the bootstrap.
        seed: of the bootstrap and the shuffled pairs.
        rerank: a second stage for each direction.

    Returns:
        JSON values: `video_to_audio` and `audio_to_video` (R@1, R@5, R@10, MedR, MRR), `candidates`, `chance`, `gallery`;
        `intervals` and `shuffled_pairs` by direction. Rates lie in [0, 1].

    Raises:
        ValueError: unequal numbers of pictures and sounds, or none.
    """
    if video_NE.shape != audio_NE.shape or len(video_NE) == 0:
        raise ValueError(
            f"expected as many pictures as sounds, at least one; got {video_NE.shape} and {audio_NE.shape}"
        )
    directions = {"video_to_audio": (video_NE, audio_NE), "audio_to_video": (audio_NE, video_NE)}
    second = rerank._asdict() if rerank is not None else dict.fromkeys(directions)
    ranks = {name: ranks_of(*directions[name], rerank=second[name]) for name in directions}
    return {
        **{name: rank_metrics(ranks[name]) for name in directions},
        "candidates": len(video_NE),
        "chance": chance_metrics(len(video_NE)),
        "gallery": gallery,
        "intervals": {
            name: bootstrap_intervals(ranks[name], resamplings=resamplings, seed=seed) for name in directions
        },
        "shuffled_pairs": {
            name: shuffled_pairs(*directions[name], seed=seed, rerank=second[name]) for name in directions
        },
    }
