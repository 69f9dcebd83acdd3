"""Many queries against every moment, in one pass over the vectors: what recall is measured against.

Letters: Q queries, N rows of a batch, E values of a vector, K rows kept for each query.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BATCH_ROWS = 16_384


def exact_nearest(
    table: Any, sense: str, vectors_QE: NDArray[np.float32], limit: int
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """The rows whose vectors have the largest inner product with each query; rows without this sense are passed over.

    Reads the vectors once, whatever the number of queries, and keeps no more than a batch of them in memory.

    Args:
        table: of LanceDB, with a column `sense` of vectors.
        sense: which column.
        vectors_QE: the queries.
        limit: rows wanted for each query.

    Returns:
        Row ids and inner products [Q, K], best first, equal ones by row id; K is `limit`, or all rows where there are fewer.
    """
    best_QK = np.empty((len(vectors_QE), 0), np.float32)
    ids_QK = np.empty((len(vectors_QE), 0), np.uint64)
    for batch in table.search().select([sense]).with_row_id(True).to_batches(batch_size=_BATCH_ROWS):
        there = batch.filter(batch[sense].is_valid())
        if not len(there):
            continue
        rows_NE = there[sense].flatten().to_numpy().reshape(len(there), -1)
        ids_N = there["_rowid"].to_numpy()
        best_QK, ids_QK = _merge(best_QK, ids_QK, vectors_QE @ rows_NE.T, ids_N, limit)
    order_QK = np.lexsort((ids_QK, -best_QK), axis=1)
    return np.take_along_axis(ids_QK, order_QK, 1), np.take_along_axis(best_QK, order_QK, 1)


def _merge(
    best_QK: NDArray[np.float32],
    ids_QK: NDArray[np.uint64],
    scores_QN: NDArray[np.float32],
    ids_N: NDArray[np.uint64],
    limit: int,
) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    if scores_QN.shape[1] > limit:
        kept_QK = np.argpartition(scores_QN, -limit, axis=1)[:, -limit:]
        scores_QN, new_QK = np.take_along_axis(scores_QN, kept_QK, 1), ids_N[kept_QK]
    else:
        new_QK = np.broadcast_to(ids_N, scores_QN.shape)
    scores_QM = np.concatenate([best_QK, scores_QN], axis=1)
    ids_QM = np.concatenate([ids_QK, new_QK], axis=1)
    if scores_QM.shape[1] > limit:
        kept_QK = np.argpartition(scores_QM, -limit, axis=1)[:, -limit:]
        return np.take_along_axis(scores_QM, kept_QK, 1), np.take_along_axis(ids_QM, kept_QK, 1)
    return scores_QM, ids_QM
