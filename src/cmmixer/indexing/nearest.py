"""Asking a data set of moments for the nearest to some vectors, with a plan or by looking at all.

Letters: Q query vectors, E values of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cmmixer.indexing.plan import SearchPlan

# Whoever asks for more than this is told exactly: an index is tuned for the best few.
MOST_APPROXIMATE = 1000


def ask(
    dataset: Any,
    vectors_QE: NDArray[np.float32],
    sense: str,
    limit: int,
    columns: Sequence[str],
    plan: SearchPlan | None,
    *,
    row_ids: bool = False,
    only: str | None = None,
) -> pa.Table:
    """The nearest rows to each query vector.

    Rows that were added after the index was built are all looked at; rows that were deleted are passed over.

    Args:
        dataset: the moments, in Lance.
        vectors_QE: unit vectors.
        sense: the column of vectors to compare with.
        limit: how many rows for each query vector.
        columns: of the rows, that are wanted.
        plan: the index to use; None looks at all.
        row_ids: whether the column `_rowid` is wanted too.
        only: a condition on the rows, in SQL; without a plan.

    Returns:
        The columns, `_distance` (one minus the cosine) and `query_index`, by query and distance.
    """
    numbers, tables = [], []
    # Without an index a query at a time: Lance's pass for many at once takes no less, and more memory.
    batches = [vectors_QE] if plan is not None and len(vectors_QE) > 1 else vectors_QE
    for number, vectors in enumerate(batches):
        found = _search(dataset, vectors, sense, limit, columns, plan, row_ids, only)
        tables.append(found)
        numbers.append(np.full(len(found), number, np.int32))
    if len(tables) == 1 and "query_index" in tables[0].column_names:
        return tables[0].sort_by([("query_index", "ascending"), ("_distance", "ascending")])
    return pa.concat_tables(tables).append_column("query_index", pa.array(np.concatenate(numbers)))


def _search(
    dataset: Any,
    vectors: Any,
    sense: str,
    limit: int,
    columns: Sequence[str],
    plan: SearchPlan | None,
    row_ids: bool,
    only: str | None,
) -> pa.Table:
    nearest: dict[str, Any] = {"column": sense, "q": vectors, "k": limit}
    if plan is None:
        nearest.update(metric="dot", use_index=False)
    else:
        factor = plan.refine_factor(limit)
        nearest.update(metric="cosine", nprobes=plan.probes, refine_factor=factor)
        nearest["ef"] = max(plan.ef, limit * (factor or 1)) if plan.ef else None
    where = {} if only is None else {"filter": only, "prefilter": True}
    return dataset.to_table(columns=[*columns, "_distance"], nearest=nearest, with_row_id=row_ids, **where)
