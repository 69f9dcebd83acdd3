"""Asking a table of moments for the nearest to some vectors, with a plan or by looking at all.

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
    table: Any,
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
        table: of moments, in LanceDB.
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
    if plan is None:
        # A query at a time: LanceDB reads the whole column for each in any case.
        tables = []
        for vector_E in vectors_QE:
            search = _search(table, vector_E, sense, limit, columns, None, row_ids)
            tables.append((search if only is None else search.where(only, prefilter=True)).to_arrow())
        numbers = np.repeat(np.arange(len(tables), dtype=np.int32), [len(one) for one in tables])
        return pa.concat_tables(tables).append_column("query_index", pa.array(numbers))
    if len(vectors_QE) == 1:
        found = _search(table, vectors_QE[0], sense, limit, columns, plan, row_ids).to_arrow()
        return found.append_column("query_index", pa.array(np.zeros(len(found), np.int32)))
    found = _search(table, list(vectors_QE), sense, limit, columns, plan, row_ids).to_arrow()
    return found.sort_by([("query_index", "ascending"), ("_distance", "ascending")])


def _search(
    table: Any, vectors: Any, sense: str, limit: int, columns: Sequence[str], plan: SearchPlan | None, row_ids: bool
) -> Any:
    search = table.search(vectors, vector_column_name=sense).select([*columns, "_distance"]).limit(limit)
    if row_ids:
        search = search.with_row_id(True)
    if plan is None:
        return search.distance_type("dot").bypass_vector_index()
    search = search.distance_type("cosine").nprobes(plan.probes)
    refine_factor = plan.refine_factor(limit)
    if refine_factor is not None:
        search = search.refine_factor(refine_factor)
    return search.ef(max(plan.ef, limit * (refine_factor or 1))) if plan.ef else search
