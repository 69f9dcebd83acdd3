"""Retrieval metrics of a gallery in both directions, with chance levels, intervals and a leak check.

The rank of a query's true candidate is 1 + the number of other candidates whose score is at least its own, over the whole
gallery. Ties so count against the model: a collapsed encoder, which scores everything alike, ranks last and not first. A true
candidate with a score of NaN ranks last; another candidate with NaN ranks behind every number.

Letters: Q queries, N candidates, E length of an embedding, T frames.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cmmixer.models.rerank import TIE, SequenceRerank

RECALL_AT = (1, 5, 10)
PERCENTILES = (2.5, 97.5)
# Scores in memory at a time: 256 MiB of float64.
MAX_SCORES = 2**25


class Reranks(NamedTuple):
    """The second stage of each direction."""

    video_to_audio: SequenceRerank
    audio_to_video: SequenceRerank

    @classmethod
    def of(cls, video_NTE: NDArray[Any], audio_NTE: NDArray[Any], top: int) -> Self:
        """Builds both from the frame vectors of a gallery."""
        return cls(SequenceRerank(video_NTE, audio_NTE, top), SequenceRerank(audio_NTE, video_NTE, top))


def retrieval_metrics(
    video_NE: NDArray[Any],
    audio_NE: NDArray[Any],
    *,
    gallery: str,
    resamplings: int = 1000,
    seed: int = 0,
    rerank: Reranks | None = None,
) -> dict[str, Any]:
    """Computes all metrics of a gallery in which the video `video_NE[i]` belongs to the audio `audio_NE[i]`.

    Args:
        video_NE, audio_NE: unit vectors.
        gallery: sha256 of the frozen gallery.
        resamplings: number of bootstrap resamples.
        seed: seed of the bootstrap and the shuffled pairs.
        rerank: the second stage of each direction.

    Returns:
        JSON values: `video_to_audio` and `audio_to_video` (R@1, R@5, R@10, MedR, MRR), `candidates`, `chance`, `gallery`, and
        `intervals` and `shuffled_pairs` by direction. Rates are in [0, 1].

    Raises:
        ValueError: the numbers of video and audio vectors differ, or there are none.
    """
    if video_NE.shape != audio_NE.shape or len(video_NE) == 0:
        raise ValueError(
            f"expected as many video as audio vectors, at least one; got {video_NE.shape} and {audio_NE.shape}"
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


def rank_metrics(ranks_Q: ArrayLike) -> dict[str, float]:
    """Computes R@K, the fraction of queries with rank <= K; MedR, the median rank; and MRR, the mean of 1 / rank.

    Raises:
        ValueError: there are no queries.
    """
    ranks = np.asarray(ranks_Q)
    if ranks.size == 0:
        raise ValueError("no queries: metrics of nothing are not defined")
    metrics = {f"R@{k}": float(np.mean(ranks <= k)) for k in RECALL_AT}
    return metrics | {"MedR": float(np.median(ranks)), "MRR": float(np.mean(1.0 / ranks))}


def chance_metrics(candidates: int) -> dict[str, float]:
    """Computes the expected metrics of uniform ranks 1 .. N: min(K, N) / N, (N + 1) / 2, (1 + 1/2 + .. + 1/N) / N."""
    metrics = {f"R@{k}": min(k, candidates) / candidates for k in RECALL_AT}
    harmonic = float(np.sum(1.0 / np.arange(1, candidates + 1)))
    return metrics | {"MedR": (candidates + 1) / 2, "MRR": harmonic / candidates}


def bootstrap_intervals(ranks_Q: ArrayLike, *, resamplings: int = 1000, seed: int = 0) -> dict[str, list[float]]:
    """Computes 95 % intervals of `rank_metrics` by the percentile bootstrap over queries (Efron and Tibshirani 1993, ch. 13).

    Returns:
        Metric -> [low, high]: the 2.5th and 97.5th percentile over the resamples.
    """
    ranks, generator = np.asarray(ranks_Q), np.random.default_rng(seed)
    resamples = [rank_metrics(ranks[generator.integers(0, ranks.size, ranks.size)]) for _ in range(resamplings)]
    return {
        name: [float(edge) for edge in np.percentile([metrics[name] for metrics in resamples], PERCENTILES)]
        for name in resamples[0]
    }


def shuffled_pairs(
    queries_NE: NDArray[Any],
    candidates_NE: NDArray[Any],
    *,
    shuffles: int = 10,
    seed: int = 0,
    rerank: SequenceRerank | None = None,
) -> dict[str, float]:
    """Computes the metrics with a random true candidate for each query, averaged over `shuffles` pairings.

    They are at the chance level, unless something leaks.
    """
    generator = np.random.default_rng(seed)
    pairings = [generator.permutation(len(candidates_NE)) for _ in range(shuffles)]
    results = [rank_metrics(ranks_of(queries_NE, candidates_NE, truth, rerank=rerank)) for truth in pairings]
    return {name: float(np.mean([metrics[name] for metrics in results])) for name in results[0]}


def ranks_of(
    queries_QE: ArrayLike,
    candidates_NE: ArrayLike,
    truth_Q: ArrayLike | None = None,
    *,
    chunk: int | None = None,
    tie: float = TIE,
    rerank: SequenceRerank | None = None,
) -> NDArray[np.int64]:
    """Computes `ranks` of dot products in float64, without holding the Q x N matrix in memory.

    Args:
        queries_QE, candidates_NE: embeddings.
        truth_Q: as in `ranks`.
        chunk: queries scored at a time, which changes no rank; default: as many as make `MAX_SCORES` scores.
        tie: as in `ranks`.
        rerank: reorders the best candidates of each query by their frames.

    Raises:
        ValueError: as in `ranks`.
    """
    queries, candidates = np.asarray(queries_QE, dtype=np.float64), np.asarray(candidates_NE, dtype=np.float64)
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1]:
        raise ValueError(f"embeddings must be [Q, E] and [N, E]; got {queries.shape} and {candidates.shape}")
    truth = _truth(truth_Q, len(queries), len(candidates))
    chunk = max(1, MAX_SCORES // max(1, len(candidates))) if chunk is None else chunk
    result = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity get a rank too
            scores = queries[rows] @ candidates.T
        if rerank is not None:
            rerank(start, scores, truth[rows])
        result[rows] = _rank_rows(scores, scores[np.arange(len(scores)), truth[rows]], tie)
    return result


def ranks(scores_QN: ArrayLike, truth_Q: ArrayLike | None = None, *, tie: float = 0.0) -> NDArray[np.int64]:
    """Computes the rank of each query's true candidate, 1 .. N.

    Args:
        scores_QN: score of each candidate for each query; higher is better.
        truth_Q: column of each query's true candidate; default: candidate i for query i.
        tie: scores at most this far below the true candidate's still count as ties with it.

    Raises:
        ValueError: shapes that do not match, or a true candidate outside the gallery.
    """
    scores = np.asarray(scores_QN)
    if scores.ndim != 2:
        raise ValueError(f"scores must be [Q, N]; got shape {scores.shape}")
    truth = _truth(truth_Q, *scores.shape)
    true_score = scores[np.arange(len(truth)), truth]
    return _rank_rows(scores, true_score, tie)


def rankings(scores_QN: ArrayLike, truth_Q: ArrayLike | None = None, *, tie: float = 0.0) -> NDArray[np.int64]:
    """Sorts the candidates of each query, best first, [Q, N]; the true one is exactly at its rank, behind its ties.

    Raises:
        ValueError: as in `ranks`.
    """
    scores = np.array(scores_QN, dtype=np.float64)
    truth = _truth(truth_Q, *scores.shape)
    rows = np.arange(len(truth))
    scores[rows, truth] -= tie
    is_true = np.zeros(scores.shape, dtype=bool)
    is_true[rows, truth] = True
    unknown = np.isnan(scores)
    # The last key counts first: numbers before NaN, then high before low, then others before the true one.
    order: NDArray[np.int64] = np.lexsort((is_true, -np.where(unknown, 0.0, scores), unknown), axis=-1)
    return order


def _truth(truth_Q: ArrayLike | None, queries: int, candidates: int) -> NDArray[np.int64]:
    if truth_Q is None:
        if queries != candidates:
            raise ValueError(
                f"{queries} queries and {candidates} candidates: say which candidate is true for each query"
            )
        return np.arange(queries)
    truth = np.asarray(truth_Q, dtype=np.int64)
    if truth.shape != (queries,) or (queries and (truth.min() < 0 or truth.max() >= candidates)):
        raise ValueError(f"truth must be {queries} columns in [0, {candidates}); got shape {truth.shape}")
    return truth


def _rank_rows(scores_QN: NDArray[np.floating], true_Q: NDArray[np.floating], tie: float) -> NDArray[np.int64]:
    # This counts the true candidate too, since its score is at least its own: hence no "1 +".
    ranks: NDArray[np.int64] = np.count_nonzero(scores_QN >= (true_Q - tie)[:, None], axis=1)
    ranks[np.isnan(true_Q)] = scores_QN.shape[1]
    return ranks
