"""Approximate indexes: built with LanceDB, tuned until the recall that was asked for is measured, or not used at all.

For each sense a new index is built beside the old one, which answers meanwhile. Then the old one is dropped, the new one is
tuned, and the card names it. Between the drop and the card no plan holds and searches look at all moments: right, only slower.

What it is tuned with matters: a query is no row of the library, and between the senses it is far from all rows. So where
moments have both senses, sounds are looked for with the pictures of their moments and pictures with sounds. Otherwise a
moment's vector is pushed as far as pictures lie from their sounds (a cosine near 0.7), along a sum of other moments' vectors,
which has the directions that the library has.

Letters: Q queries, K rows found, E values of a vector.

Many queries against every moment, in one pass over the vectors: what recall is measured against.

Letters: Q queries, N rows of a batch, E values of a vector, K rows kept for each query.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from lancedb.index import HnswSq, IvfFlat, IvfPq, IvfRq, IvfSq
from numpy.typing import NDArray

from cmmixer.config.retrieval import OptimizeSettings
from cmmixer.errors import SearchIndexError
from cmmixer.progress import Progress
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import EXACT, SearchPlan
from cmmixer.retrieval.schema import K as K_OF_PLAN
from cmmixer.retrieval.tables import ask, told_clearly

_BATCH_ROWS = 16_384


def exact_nearest(
    dataset: Any, sense: str, vectors_QE: NDArray[np.float32], limit: int
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """The rows whose vectors have the largest inner product with each query; rows without this sense are passed over.

    Reads the vectors once, whatever the number of queries, and keeps no more than a batch of them in memory.

    Args:
        dataset: of Lance, with a column `sense` of vectors.
        sense: which column.
        vectors_QE: the queries.
        limit: rows wanted for each query.

    Returns:
        Row ids and inner products [Q, K], best first, equal ones by row id; K is `limit`, or all rows where there are fewer.
    """
    best_QK = np.empty((len(vectors_QE), 0), np.float32)
    ids_QK = np.empty((len(vectors_QE), 0), np.uint64)
    for batch in dataset.to_batches(columns=[sense], with_row_id=True, batch_size=_BATCH_ROWS):
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


SENSES = ("video", "audio", "film")

# 2,560 neighbours: a recall of 0.98 is known to 0.003.
_QUERIES = 256

_ASKED_OF = {"video": "audio", "audio": "video"}

_OTHERS_SUMMED = 16

_TIMED_EXACTLY = 9

_HNSW_ROWS = 2**17

_CANDIDATES = (20, 50, 100, 200, 400)


@dataclass(frozen=True)
class _Asked:
    """Queries to tune with, and what is really nearest to them."""

    vectors_QE: NDArray[np.float32]
    nearest: list[set[int]]
    told: str


def optimize(library: MomentIndex, settings: OptimizeSettings, progress: Progress) -> dict[str, SearchPlan]:
    """Builds and tunes what each sense needs; the library's card holds the plans afterwards.

    Raises:
        SearchIndexError: a damaged index, a full disk; what was there before stays valid.
    """
    progress.start(len(SENSES), "optimising search")
    for sense in SENSES:
        optimize_sense(library, sense, settings, progress)
        progress.advance()
    return library.card.plans


def optimize_sense(library: MomentIndex, sense: str, settings: OptimizeSettings, progress: Progress) -> SearchPlan:
    """The same for one sense; see `optimize`."""
    with told_clearly(library.folder):
        plan = _plan(library, sense, settings, progress)
    library.write_plan(sense, plan)
    return plan


def _plan(library: MomentIndex, sense: str, settings: OptimizeSettings, progress: Progress) -> SearchPlan:
    rows = library.moments.count_rows(f"{sense} IS NOT NULL")
    if rows < settings.exact_below:
        library.drop_indexes(sense)
        return SearchPlan(kind=EXACT, why=f"{rows} moments are fewer than {settings.exact_below}", rows=rows)
    progress.message(f"{sense}: queries to tune with")
    asked = _asked(library, sense, rows)
    exact_ms = _exact_ms(library, sense, asked.vectors_QE)
    refused = []
    for kind in _kinds(settings.index_kind, library.card.embed_dim):
        progress.message(f"{sense}: building {kind}")
        plan = _built(library, sense, kind, rows)
        progress.message(f"{sense}: tuning {kind}")
        plan = replace(plan, exact_p50_ms=exact_ms, target=settings.recall_target, why=asked.told)
        tuned = _tuned(library, sense, plan, asked)
        if _is_enough(tuned, asked) and tuned.p50_ms < exact_ms:
            return tuned
        refused.append(f"{kind} found {tuned.recall:.3f} of them in {tuned.p50_ms:.1f} ms")
    library.drop_indexes(sense)
    why = f"{'; '.join(refused)}; looking at all takes {exact_ms:.1f} ms"
    return SearchPlan(kind=EXACT, why=why, rows=rows, target=settings.recall_target, exact_p50_ms=exact_ms)


def _kinds(wanted: str, dim: int) -> list[str]:
    """What to try, in this order; one bit a value needs whole bytes of them."""
    if wanted != "auto":
        return [wanted]
    return [kind for kind in ("ivf_rq", "ivf_sq", "ivf_flat") if kind != "ivf_rq" or dim % 8 == 0]


# ------------------------------------------------------------------------------------------------------------- building


def _built(library: MomentIndex, sense: str, kind: str, rows: int) -> SearchPlan:
    """A new index beside those that are there; then they go."""
    dim = library.card.embed_dim
    if kind == "ivf_rq" and dim % 8:
        raise SearchIndexError(
            f"{library.folder}: ivf_rq needs vectors of a multiple of 8 values, got {dim}; use --index_kind ivf_sq or auto"
        )
    cells = math.ceil(rows / _HNSW_ROWS) if kind == "ivf_hnsw_sq" else max(1, round(math.sqrt(rows)))
    shared: dict[str, Any] = {"distance_type": "cosine", "num_partitions": cells}
    config = {
        "ivf_flat": lambda: IvfFlat(**shared),
        "ivf_sq": lambda: IvfSq(**shared),
        "ivf_pq": lambda: IvfPq(
            **shared, num_sub_vectors=max(part for part in range(1, max(dim // 4, 1) + 1) if dim % part == 0)
        ),
        "ivf_rq": lambda: IvfRq(**shared),
        "ivf_hnsw_sq": lambda: HnswSq(**shared, m=16, ef_construction=150),
    }[kind]()
    name = f"{sense}-{time.time_ns():016x}-{kind}"
    begun = time.perf_counter()
    library.table.create_index(sense, config=config, name=name)
    seconds = time.perf_counter() - begun
    library.drop_indexes(sense, keep=name)
    size = next(entry.size_bytes or 0 for entry in library.table.list_indices() if entry.name == name)
    return SearchPlan(
        kind=kind, why="", rows=rows, name=name, partitions=cells, build_seconds=seconds, bytes_per_row=size / rows
    )


# --------------------------------------------------------------------------------------------------------------- tuning


def _tuned(library: MomentIndex, sense: str, plan: SearchPlan, asked: _Asked) -> SearchPlan:
    """The fastest setting that reaches the target; if none does, all cells with the most candidates.

    Fewer cells are enough where candidates are many, so first comes the fewest cells, by halving; then, at these and a few
    more, the fewest candidates.
    """
    candidates = (0,) if plan.kind == "ivf_flat" else _CANDIDATES

    moments = library.moments  # opened once: what it has read of the index stays in memory

    def measured(probes: int, candidates: int) -> SearchPlan:
        ef = 2 * candidates if plan.kind == "ivf_hnsw_sq" else 0
        return _measured(moments, sense, replace(plan, probes=probes, candidates=candidates, ef=ef), asked)

    ladder = _ladder(plan.partitions)
    widest = measured(ladder[-1], candidates[-1])
    if not _is_enough(widest, asked):
        return widest
    fewest = bisect_left(ladder, True, key=lambda probes: _is_enough(measured(probes, candidates[-1]), asked))
    enough = [widest]
    for probes in ladder[fewest : fewest + 3]:
        tried = (measured(probes, count) for count in candidates)
        enough += [setting for setting in [next((one for one in tried if _is_enough(one, asked)), None)] if setting]
    return min(enough, key=lambda setting: setting.p50_ms)


def _is_enough(plan: SearchPlan, asked: _Asked) -> bool:
    """Whether the recall less one standard error reaches the target, so that other queries most likely reach it too."""
    error = math.sqrt(plan.recall * (1 - plan.recall) / sum(len(nearest) for nearest in asked.nearest))
    return plan.recall - error >= plan.target


def _ladder(partitions: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 11, 16, ... partitions."""
    steps = [min(partitions, round(2 ** (half / 2))) for half in range(2 * partitions.bit_length() + 1)]
    return sorted(set(steps))


def _measured(moments: Any, sense: str, plan: SearchPlan, asked: _Asked) -> SearchPlan:
    found, seconds = 0, []
    for vector_E, nearest in zip(asked.vectors_QE, asked.nearest, strict=True):
        begun = time.perf_counter()
        rows = ask(moments, vector_E[None], sense, K_OF_PLAN, ["id"], plan, row_ids=True)
        seconds.append(time.perf_counter() - begun)
        found += len(nearest & set(rows["_rowid"].to_pylist()))
    possible = sum(len(nearest) for nearest in asked.nearest)
    return replace(plan, recall=found / possible, p50_ms=1000 * float(np.median(seconds)))


def _exact_ms(library: MomentIndex, sense: str, vectors_QE: NDArray[np.float32]) -> float:
    moments, seconds = library.moments, []
    for vector_E in vectors_QE[:_TIMED_EXACTLY]:
        begun = time.perf_counter()
        ask(moments, vector_E[None], sense, K_OF_PLAN, ["id"], None)
        seconds.append(time.perf_counter() - begun)
    return 1000 * float(np.median(seconds))


# -------------------------------------------------------------------------------------------------------------- queries


def _asked(library: MomentIndex, sense: str, rows: int) -> _Asked:
    """Draws queries (the same for the same library) and looks up what is nearest to them."""
    other = _ASKED_OF.get(sense)
    both = 0 if other is None else library.moments.count_rows(f"{sense} IS NOT NULL AND {other} IS NOT NULL")
    if other is not None and both >= rows / 2:
        vectors_QE = _sample(library, other, sense, both / library.count(), _QUERIES)
        told = f"the {'pictures' if other == 'video' else 'sounds'} of {len(vectors_QE)} moments"
    else:
        vectors_QE = _pushed(_sample(library, sense, None, rows / library.count(), (1 + _OTHERS_SUMMED) * _QUERIES))
        told = f"{len(vectors_QE)} moments' vectors pushed to a cosine near 0.7"
    ids_QK, _ = exact_nearest(library.moments, sense, vectors_QE, K_OF_PLAN)
    return _Asked(vectors_QE, [set(ids) for ids in ids_QK.tolist()], told)


def _pushed(drawn_NE: NDArray[np.float32]) -> NDArray[np.float32]:
    """Some of the vectors, each plus as long a sum of others with random signs."""
    chance = np.random.default_rng(0)
    queries = min(_QUERIES, len(drawn_NE))
    others_QO = chance.integers(0, len(drawn_NE), (queries, _OTHERS_SUMMED))
    signs_QO1 = chance.choice(np.array([-1.0, 1.0], np.float32), (*others_QO.shape, 1))
    away_QE = (drawn_NE[others_QO] * signs_QO1).sum(axis=1)
    near_QE = drawn_NE[:queries] + _unit(away_QE)
    return _unit(near_QE)


def _unit(vectors_NE: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths_N1 = np.maximum(np.linalg.norm(vectors_NE, axis=1, keepdims=True), 1e-12)
    return np.asarray(vectors_NE / lengths_N1, dtype=np.float32)


def _sample(library: MomentIndex, sense: str, also: str | None, share: float, count: int) -> NDArray[np.float32]:
    """Vectors of moments drawn at random, in random order.

    Args:
        library: the index.
        sense: whose vectors.
        also: a sense that these moments have too.
        share: of all moments that have what is needed.
        count: how many vectors, if there are so many.
    """
    chance = np.random.default_rng(0)
    rows = library.count()
    offsets = chance.choice(rows, min(rows, math.ceil(1.5 * count / share)), replace=False)
    columns = [sense] if also is None else [sense, also]
    taken = library.moments.take(np.sort(offsets).tolist(), columns=columns).combine_chunks()
    for column in columns:
        taken = taken.filter(taken[column].is_valid())
    vectors_NE = taken[sense].combine_chunks().flatten().to_numpy().reshape(len(taken), -1)
    return np.asarray(vectors_NE[chance.permutation(len(vectors_NE))[:count]], dtype=np.float32)
