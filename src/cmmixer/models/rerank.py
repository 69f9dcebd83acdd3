"""Matching in time: candidates that the clip vectors find are ordered anew by what happens when.

    sequence score of a picture v and a sound a:  s(v, a) = <v, a> + w/T sum over t of <v_t - mean(v), a_t - mean(a)>,  w = 2

v and a are the unit vectors of the clips, v_t and a_t those of frame t and of the sound window centred on it, mean(v) the mean of
v's frames. The sum is what the frames' order adds: the mean cosine of aligned frames,

    1/T sum of <v_t, a_t> = <mean(v), mean(a)> + 1/T sum of <v_t - mean(v), a_t - mean(a)>,

is content, which does not depend on the order, plus timing. The clip vectors were trained for the content and say it better than the
means of frames; the timing counts w times, because it is small beside the content and all there is between films of equal
content. w was chosen on one gallery and holds on others (docs/twins.md). Whoever has no vectors of single frames repeats the clip's,
and its timing is 0.

That sequences should be compared before they are averaged: SCAV (arXiv 2407.05782), which compares by Euclidean distance;
the weighted sum of content and timing is ours.

Letters: Q queries, N candidates, T frames, E length of an embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Embeddings come from float32 networks, whose cosines differ in the seventh digit from batch to batch. Candidates closer
# than this are a tie, so that batch size, order and device cannot decide a rank.
TIE = 1e-6
TIMING_WEIGHT = 2.0
# A cosine is in [-1, 1] and so is a timing, so a candidate of the second stage stands above all others.
_LIFT = 2.0 + TIMING_WEIGHT + 1.0


def timing_scores(query_TE: NDArray[Any], candidates_NTE: NDArray[Any]) -> NDArray[np.float64]:
    """How far a query's frames and each candidate's change together, [N]: 1/T sum of <v_t - mean(v), a_t - mean(a)>.

    Raises:
        ValueError: unequal numbers of frames or lengths of vectors.
    """
    if candidates_NTE.ndim != 3 or candidates_NTE.shape[1:] != query_TE.shape:
        raise ValueError(f"frames must be [T, E] and [N, T, E] alike; got {query_TE.shape} and {candidates_NTE.shape}")
    # The query's deviations sum to 0, so the candidates' means drop out of the sum.
    query = query_TE.astype(np.float64)
    query -= query.mean(axis=0)
    flat = candidates_NTE.reshape(len(candidates_NTE), -1).astype(np.float64)
    scores: NDArray[np.float64] = flat @ query.reshape(-1) / len(query)
    return scores


def sequence_scores(
    clip_scores_N: NDArray[Any], query_TE: NDArray[Any], candidates_NTE: NDArray[Any]
) -> NDArray[np.float64]:
    """The candidates' cosines plus their weighted timing, [N].

    Args:
        clip_scores_N: cosines of the query's clip vector and the candidates'.
        query_TE, candidates_NTE: unit vectors of frames.

    Raises:
        ValueError: as `timing_scores`.
    """
    return clip_scores_N + TIMING_WEIGHT * timing_scores(query_TE, candidates_NTE)


def told_score(score: float) -> float:
    """A score that `SequenceRerank` may have lifted, as people are told it: the sequence score, or the cosine of those behind."""
    return score - _LIFT if score > 1.0 + TIE else score


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
            frames_TE, found_NTE = self.queries_QTE[first + row], self.candidates_NTE[best]
            scores_N[best] = _LIFT + sequence_scores(scores_N[best], frames_TE, found_NTE)
