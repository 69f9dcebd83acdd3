"""Ranks of true candidates over a whole gallery; ties count against the model.

rank = 1 + number of other candidates whose score is at least the true candidate's. A collapsed encoder, which scores
everything alike, so ranks last and not first. A true score that is not a number ranks last; another candidate's that is
not a number stands behind every number.

Letters: Q queries, N candidates, E length of an embedding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cmmixer.evaluation.sequence import TIE, SequenceRerank

# Scores held at a time.
MOST_SCORES = 2**25


def ranks(scores_QN: ArrayLike, truth_Q: ArrayLike | None = None, *, tie: float = 0.0) -> NDArray[np.int64]:
    """Rank of each query's true candidate, 1 .. N.

    Args:
        scores_QN: score of each candidate for each query; higher is better.
        truth_Q: column of each query's true candidate; left out, query i belongs to candidate i.
        tie: scores at most this far below the true one still count as ties with it.

    Raises:
        ValueError: shapes that do not fit, or a true candidate outside the gallery.
    """
    scores = np.asarray(scores_QN)
    if scores.ndim != 2:
        raise ValueError(f"scores must be [Q, N]; got shape {scores.shape}")
    truth = _truth(truth_Q, *scores.shape)
    true_score = scores[np.arange(len(truth)), truth]
    return _rank_rows(scores, true_score, tie)


def ranks_of(
    queries_QE: ArrayLike,
    candidates_NE: ArrayLike,
    truth_Q: ArrayLike | None = None,
    *,
    chunk: int | None = None,
    tie: float = TIE,
    rerank: SequenceRerank | None = None,
) -> NDArray[np.int64]:
    """As `ranks`, scored by dot product in float64, `chunk` queries at a time; the Q x N matrix is never held whole.

    Left out, `chunk` is as many as make 2^25 scores (256 MiB). It changes no rank. With `rerank`, each query's best
    candidates are ordered anew by their frames.

    Raises:
        ValueError: as `ranks`.
    """
    queries, candidates = np.asarray(queries_QE, dtype=np.float64), np.asarray(candidates_NE, dtype=np.float64)
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1]:
        raise ValueError(f"embeddings must be [Q, E] and [N, E]; got {queries.shape} and {candidates.shape}")
    truth = _truth(truth_Q, len(queries), len(candidates))
    chunk = max(1, MOST_SCORES // max(1, len(candidates))) if chunk is None else chunk
    result = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is ranked, last
            scores = queries[rows] @ candidates.T
        if rerank is not None:
            rerank(start, scores, truth[rows])
        result[rows] = _rank_rows(scores, scores[np.arange(len(scores)), truth[rows]], tie)
    return result


def rankings(scores_QN: ArrayLike, truth_Q: ArrayLike | None = None, *, tie: float = 0.0) -> NDArray[np.int64]:
    """Candidates of each query, best first, [Q, N]; the true one stands exactly at its rank, behind its ties.

    Raises:
        ValueError: as `ranks`.
    """
    scores = np.array(scores_QN, dtype=np.float64)
    truth = _truth(truth_Q, *scores.shape)
    rows = np.arange(len(truth))
    scores[rows, truth] -= tie
    is_true = np.zeros(scores.shape, dtype=bool)
    is_true[rows, truth] = True
    unknown = np.isnan(scores)
    # The last key counts first: numbers before what is none, then high before low, then others before the true one.
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
    # The true candidate is among those counted, as its own score is at least its own; hence no "1 +".
    above: NDArray[np.int64] = np.count_nonzero(scores_QN >= (true_Q - tie)[:, None], axis=1)
    above[np.isnan(true_Q)] = scores_QN.shape[1]
    return above
