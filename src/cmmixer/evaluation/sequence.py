"""Matching in time: candidates that the clip vectors find are ordered anew by what happens when.

    sequence score of a picture v and a sound a:  s(v, a) = 1/T sum over t of <v_t, a_t>

v_t and a_t are the unit vectors of frame t and of the sound window centred on it. A clip's own vector is a mean over time; where
an encoder looks at frames one by one, it cannot say which of two films with the same content has the rhythm that fits, and
the aligned frames can. Our towers look at all frames at once, at their places, and their clip vectors lose little
(docs/twins.md). That sequences should be compared before they are averaged: SCAV (arXiv 2407.05782), which compares by
Euclidean distance; the mean cosine is ours.

Letters: Q queries, N candidates, T frames, E length of an embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Embeddings come from float32 networks, whose cosines differ in the seventh digit from batch to batch. Candidates closer
# than this are a tie, so that batch size, order and device cannot decide a rank.
TIE = 1e-6
# Cosines are at most 1, so a candidate of the second stage stands above all others.
_LIFT = 2.0


def sequence_scores(query_TE: NDArray[Any], candidates_NTE: NDArray[Any]) -> NDArray[np.float64]:
    """The mean over frames of the cosines of a query's and each candidate's frames, [N].

    Raises:
        ValueError: unequal numbers of frames or lengths of vectors.
    """
    if candidates_NTE.ndim != 3 or candidates_NTE.shape[1:] != query_TE.shape:
        raise ValueError(f"frames must be [T, E] and [N, T, E] alike; got {query_TE.shape} and {candidates_NTE.shape}")
    flat = candidates_NTE.reshape(len(candidates_NTE), -1).astype(np.float64)
    scores: NDArray[np.float64] = flat @ query_TE.reshape(-1).astype(np.float64) / len(query_TE)
    return scores


class SequenceRerank:
    """The second stage: each query's best candidates by clip vector, scored by their frames.

    Args:
        queries_QTE, candidates_NTE: unit vectors of frames.
        top: how many candidates of each query; the others keep their order behind them.

    Raises:
        ValueError: frames that do not fit, or no candidate to score.
    """

    def __init__(self, queries_QTE: NDArray[Any], candidates_NTE: NDArray[Any], top: int) -> None:
        if queries_QTE.shape[1:] != candidates_NTE.shape[1:] or top < 1:
            raise ValueError(
                f"frames must be [Q, T, E] and [N, T, E], top at least 1; got {queries_QTE.shape}, {candidates_NTE.shape}, {top}"
            )
        self.queries_QTE, self.candidates_NTE, self.top = queries_QTE, candidates_NTE, top

    def __call__(self, first: int, scores_QN: NDArray[np.float64], truth_Q: NDArray[np.int64]) -> None:
        """Replaces the best candidates' scores by their sequence scores, lifted above all others.

        Args:
            first: number of the first query of these rows.
            scores_QN: clip scores of some queries; changed in place.
            truth_Q: column of each row's true candidate, which is chosen last among its ties.
        """
        top = min(self.top, scores_QN.shape[1])
        for row, scores_N in enumerate(scores_QN):
            tried = scores_N.copy()
            tried[truth_Q[row]] -= TIE
            best = np.argsort(-tried, kind="stable")[:top]
            scores_N[best] = _LIFT + sequence_scores(self.queries_QTE[first + row], self.candidates_NTE[best])
