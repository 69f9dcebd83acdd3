"""Reranking by timing: the second stage of a search compares the frames of the best candidates in their order.

    sequence score of a video v and an audio track a:
    s(v, a) = <v, a> + w/T sum over t of <v_t - mean(v), a_t - mean(a)>,  w = 2

v and a are the unit vectors of the clips, v_t and a_t those of frame t and of the audio window centred on it, mean(v) the
mean of v's frames. The sum is what the order of the frames adds. The mean cosine of aligned frames,

    1/T sum of <v_t, a_t> = <mean(v), mean(a)> + 1/T sum of <v_t - mean(v), a_t - mean(a)>,

is content, which does not depend on the order, plus timing. For the content we take the clip vectors, which were trained for
it, instead of the means of the frames. The timing is weighted by w because it is small beside the content, yet it is all that
distinguishes videos with the same content. w was chosen on one gallery and carries over to others (docs/twins.md). An encoder
without frame vectors repeats the clip vector, and its timing is 0.

Comparing sequences before averaging: SCAV (arXiv 2407.05782), which uses Euclidean distance. The weighted sum of content and
timing is ours.

Letters: Q queries, N candidates, T frames, E length of an embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The embeddings come from float32 networks: from batch to batch their cosines differ in the seventh digit. Candidates closer
# than this count as a tie, so that batch size, order and device cannot decide a rank.
TIE = 1e-6
TIMING_WEIGHT = 2.0
# Cosine and timing both lie in [-1, 1], so this lifts every candidate of the second stage above all the others.
_LIFT = 2.0 + TIMING_WEIGHT + 1.0


def timing_scores(query_TE: NDArray[Any], candidates_NTE: NDArray[Any]) -> NDArray[np.float64]:
    """Measures how far the query's frames and each candidate's change together.

    1/T sum over t of <v_t - mean(v), a_t - mean(a)>.

    Returns:
        [N], each in [-1, 1] for unit vectors.

    Raises:
        ValueError: different numbers of frames or lengths of vectors.
    """
    if candidates_NTE.ndim != 3 or candidates_NTE.shape[1:] != query_TE.shape:
        raise ValueError(
            f"query and candidates must be [T, E] and [N, T, E]; got {query_TE.shape} and {candidates_NTE.shape}"
        )
    # The query's deviations sum to 0, so the candidates' means drop out of the sum.
    query = query_TE.astype(np.float64)
    query -= query.mean(axis=0)
    flat = candidates_NTE.reshape(len(candidates_NTE), -1).astype(np.float64)
    scores: NDArray[np.float64] = flat @ query.reshape(-1) / len(query)
    return scores


def sequence_scores(
    clip_scores_N: NDArray[Any], query_TE: NDArray[Any], candidates_NTE: NDArray[Any]
) -> NDArray[np.float64]:
    """Adds the weighted timing to the candidates' cosines, [N].

    Args:
        clip_scores_N: cosines of the query's clip vector with the candidates'.
        query_TE, candidates_NTE: unit vectors of frames.

    Raises:
        ValueError: as `timing_scores`.
    """
    return clip_scores_N + TIMING_WEIGHT * timing_scores(query_TE, candidates_NTE)


def reported_score(score: float) -> float:
    """Undoes the lift of `SequenceRerank`: returns the sequence score of a reranked candidate, the cosine of any other."""
    return score - _LIFT if score > 1.0 + TIE else score


class SequenceRerank:
    """The second stage: rescores each query's best candidates by their frames.

    Args:
        queries_QTE, candidates_NTE: unit vectors of frames.
        top: number of candidates to rescore for each query; the others keep their order behind them.

    Raises:
        ValueError: frames of different shapes, or `top` below 1.
    """

    def __init__(self, queries_QTE: NDArray[Any], candidates_NTE: NDArray[Any], top: int) -> None:
        if queries_QTE.shape[1:] != candidates_NTE.shape[1:] or top < 1:
            raise ValueError(
                "queries and candidates must be [Q, T, E] and [N, T, E], top at least 1; "
                f"got {queries_QTE.shape}, {candidates_NTE.shape}, top {top}"
            )
        self.queries_QTE, self.candidates_NTE, self.top = queries_QTE, candidates_NTE, top

    def __call__(self, first: int, scores_QN: NDArray[np.float64], truth_Q: NDArray[np.int64]) -> None:
        """Replaces the best candidates' scores by their sequence scores, lifted above all others.

        Args:
            first: index of the query in the first row.
            scores_QN: clip scores of some queries; changed in place.
            truth_Q: column of each row's true candidate, which is chosen last among its ties.
        """
        top = min(self.top, scores_QN.shape[1])
        for row, scores_N in enumerate(scores_QN):
            ranked = scores_N.copy()
            ranked[truth_Q[row]] -= TIE
            best = np.argsort(-ranked, kind="stable")[:top]
            query_TE, best_NTE = self.queries_QTE[first + row], self.candidates_NTE[best]
            scores_N[best] = _LIFT + sequence_scores(scores_N[best], query_TE, best_NTE)
