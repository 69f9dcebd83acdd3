"""Approximate nearest neighbour (ANN) indexes: built with LanceDB, and tuned until their measured recall is high enough.

For each modality a new ANN index is built while the old one still answers. Then the old one is dropped, the new one is
tuned, and the metadata names it. Between the drop and the new metadata, searches are exact: correct, only slower.

The queries it is tuned with matter. A real query is not a row of the library, and a query of the other modality is far from
all rows. So if moments have both modalities, audio is searched with the video vectors of its moments and video with the
audio vectors. Otherwise vectors of moments are perturbed to a cosine near 0.7, about that between the frames of a video and
its sound, towards random sums of other vectors: these have the directions that the library has.

If no ANN index reaches the recall, or none is faster than exact search, the modality is searched exactly.

Letters: Q queries, N rows, M candidates, K rows found, O other vectors in a sum, E values of a vector.
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
from cmmixer.retrieval.schema import EXACT, RECALL_K, VECTOR_COLUMNS, ANNSettings
from cmmixer.retrieval.tables import index_errors, nearest_rows

# 256 queries are 2,560 neighbours: the standard error of a recall of 0.98 is 0.003.
_QUERIES = 256
_EXACT_TIMINGS = 9
_OTHERS_SUMMED = 16
_QUERIED_BY = {"video": "audio", "audio": "video"}

_HNSW_ROWS = 2**17
_CANDIDATES = (20, 50, 100, 200, 400)

_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class _TuningQueries:
    """Queries to tune with, the ids of the rows that are truly nearest to each, and where the queries come from."""

    vectors_QE: NDArray[np.float32]
    nearest: list[set[int]]
    description: str

    @property
    def neighbours(self) -> int:
        """Number of true neighbours of all queries together."""
        return sum(len(ids) for ids in self.nearest)


def optimize(library: MomentIndex, settings: OptimizeSettings, progress: Progress) -> dict[str, ANNSettings]:
    """Builds and tunes an ANN index for each modality that needs one, and writes the results to the metadata.

    Returns:
        How each modality is searched from now on.

    Raises:
        SearchIndexError: a damaged index, or a full disk; the index stays as valid as it was.
    """
    progress.start(len(VECTOR_COLUMNS), "optimizing search")
    for modality in VECTOR_COLUMNS:
        optimize_modality(library, modality, settings, progress)
        progress.advance()
    return library.metadata.ann_settings


def optimize_modality(
    library: MomentIndex, modality: str, settings: OptimizeSettings, progress: Progress
) -> ANNSettings:
    """Optimizes the search of one modality; see `optimize`."""
    with index_errors(library.folder):
        ann = _choose(library, modality, settings, progress)
    library.write_ann_settings(modality, ann)
    return ann


def _choose(library: MomentIndex, modality: str, settings: OptimizeSettings, progress: Progress) -> ANNSettings:
    """Tries the kinds of ANN index in turn; the first that reaches the recall and is faster than exact search wins."""
    rows = library.moments.count_rows(f"{modality} IS NOT NULL")
    if rows < settings.exact_below:
        library.drop_ann_indexes(modality)
        return ANNSettings(kind=EXACT, why=f"{rows} moments are fewer than {settings.exact_below}", rows=rows)
    progress.message(f"{modality}: drawing queries")
    queries = _draw_queries(library, modality, rows)
    exact_ms = _exact_ms(library, modality, queries.vectors_QE)
    rejected = []
    for kind in _kinds(settings.index_kind, library.metadata.embed_dim):
        progress.message(f"{modality}: building {kind}")
        built = _build(library, modality, kind, rows)
        progress.message(f"{modality}: tuning {kind}")
        built = replace(built, exact_p50_ms=exact_ms, target=settings.recall_target, why=queries.description)
        tuned = _tune(library, modality, built, queries)
        if _reaches_target(tuned, queries) and tuned.p50_ms < exact_ms:
            return tuned
        rejected.append(f"{kind} has a recall of {tuned.recall:.3f} in {tuned.p50_ms:.1f} ms")
    library.drop_ann_indexes(modality)
    why = f"{'; '.join(rejected)}; exact search takes {exact_ms:.1f} ms"
    return ANNSettings(kind=EXACT, why=why, rows=rows, target=settings.recall_target, exact_p50_ms=exact_ms)


def _kinds(wanted: str, dim: int) -> list[str]:
    """Returns the kinds to try, in this order; one bit a value needs a whole number of bytes."""
    if wanted != "auto":
        return [wanted]
    return [kind for kind in ("ivf_rq", "ivf_sq", "ivf_flat") if kind != "ivf_rq" or dim % 8 == 0]


def _build(library: MomentIndex, modality: str, kind: str, rows: int) -> ANNSettings:
    """Builds an ANN index next to those that exist, then drops the others."""
    dim = library.metadata.embed_dim
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
    name = f"{modality}-{time.time_ns():016x}-{kind}"
    start = time.perf_counter()
    library.table.create_index(modality, config=config, name=name)
    seconds = time.perf_counter() - start
    library.drop_ann_indexes(modality, keep=name)
    size = next(entry.size_bytes or 0 for entry in library.table.list_indices() if entry.name == name)
    return ANNSettings(
        kind=kind, why="", rows=rows, name=name, partitions=cells, build_seconds=seconds, bytes_per_row=size / rows
    )


def _tune(library: MomentIndex, modality: str, built: ANNSettings, queries: _TuningQueries) -> ANNSettings:
    """Returns the fastest settings that reach the recall; if none do, those with the highest recall.

    Fewer cells are enough if there are many candidates. So the fewest cells are found first, by bisection; then, for these
    and a few more, the fewest candidates.
    """
    candidates = (0,) if built.kind == "ivf_flat" else _CANDIDATES
    moments = library.moments  # opened once, so that what it has read of the ANN index stays in memory

    def measure(probes: int, candidates: int) -> ANNSettings:
        ef = 2 * candidates if built.kind == "ivf_hnsw_sq" else 0
        return _measure(moments, modality, replace(built, probes=probes, candidates=candidates, ef=ef), queries)

    ladder = _ladder(built.partitions)
    widest = measure(ladder[-1], candidates[-1])
    if not _reaches_target(widest, queries):
        return widest
    fewest = bisect_left(ladder, True, key=lambda probes: _reaches_target(measure(probes, candidates[-1]), queries))
    good = [widest]
    for probes in ladder[fewest : fewest + 3]:
        tried = (measure(probes, count) for count in candidates)
        cheapest = next((ann for ann in tried if _reaches_target(ann, queries)), None)
        good += [] if cheapest is None else [cheapest]
    return min(good, key=lambda ann: ann.p50_ms)


def _reaches_target(ann: ANNSettings, queries: _TuningQueries) -> bool:
    """Whether the recall minus its standard error reaches the target, so that it most likely holds for other queries."""
    error = math.sqrt(ann.recall * (1 - ann.recall) / queries.neighbours)
    return ann.recall - error >= ann.target


def _ladder(partitions: int) -> list[int]:
    """Returns 1, 2, 3, 4, 6, 8, 11, 16, ... up to `partitions`: powers of the square root of 2."""
    steps = [min(partitions, round(2 ** (half / 2))) for half in range(2 * partitions.bit_length() + 1)]
    return sorted(set(steps))


def _measure(moments: Any, modality: str, ann: ANNSettings, queries: _TuningQueries) -> ANNSettings:
    """Returns the settings with their recall and median time."""
    found, seconds = 0, []
    for vector_E, nearest in zip(queries.vectors_QE, queries.nearest, strict=True):
        start = time.perf_counter()
        rows = nearest_rows(moments, vector_E[None], modality, RECALL_K, ["id"], ann, row_ids=True)
        seconds.append(time.perf_counter() - start)
        found += len(nearest & set(rows["_rowid"].to_pylist()))
    return replace(ann, recall=found / queries.neighbours, p50_ms=1000 * float(np.median(seconds)))


def _exact_ms(library: MomentIndex, modality: str, vectors_QE: NDArray[np.float32]) -> float:
    """Returns the median time of an exact search."""
    moments, seconds = library.moments, []
    for vector_E in vectors_QE[:_EXACT_TIMINGS]:
        start = time.perf_counter()
        nearest_rows(moments, vector_E[None], modality, RECALL_K, ["id"], None)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds))


def _draw_queries(library: MomentIndex, modality: str, rows: int) -> _TuningQueries:
    """Draws queries, the same for the same library, and finds what is truly nearest to them."""
    other = _QUERIED_BY.get(modality)
    both = 0 if other is None else library.moments.count_rows(f"{modality} IS NOT NULL AND {other} IS NOT NULL")
    if other is not None and both >= rows / 2:
        vectors_QE = _sample(library, other, modality, both / library.count(), _QUERIES)
        description = f"the {other} vectors of {len(vectors_QE)} moments"
    else:
        drawn_NE = _sample(library, modality, None, rows / library.count(), (1 + _OTHERS_SUMMED) * _QUERIES)
        vectors_QE = _perturb(drawn_NE)
        description = f"vectors of {len(vectors_QE)} moments, perturbed to a cosine near 0.7"
    ids_QK, _ = exact_nearest(library.moments, modality, vectors_QE, RECALL_K)
    return _TuningQueries(vectors_QE, [set(ids) for ids in ids_QK.tolist()], description)


def _perturb(vectors_NE: NDArray[np.float32]) -> NDArray[np.float32]:
    """Adds to each of the first vectors a unit vector: a sum of others with random signs."""
    generator = np.random.default_rng(0)
    queries = min(_QUERIES, len(vectors_NE))
    others_QO = generator.integers(0, len(vectors_NE), (queries, _OTHERS_SUMMED))
    signs_QO1 = generator.choice(np.array([-1.0, 1.0], np.float32), (*others_QO.shape, 1))
    sums_QE = (vectors_NE[others_QO] * signs_QO1).sum(axis=1)
    return _normalize(vectors_NE[:queries] + _normalize(sums_QE))


def _normalize(vectors_NE: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths_N1 = np.maximum(np.linalg.norm(vectors_NE, axis=1, keepdims=True), 1e-12)
    return np.asarray(vectors_NE / lengths_N1, dtype=np.float32)


def _sample(library: MomentIndex, modality: str, also: str | None, fraction: float, count: int) -> NDArray[np.float32]:
    """Returns vectors of random moments in random order, [N, E].

    Args:
        library: the index.
        modality: whose vectors.
        also: a modality that the moments must have too.
        fraction: the part of all moments that have both.
        count: most vectors to return.
    """
    generator = np.random.default_rng(0)
    rows = library.count()
    offsets = generator.choice(rows, min(rows, math.ceil(1.5 * count / fraction)), replace=False)
    columns = [modality] if also is None else [modality, also]
    table = library.moments.take(np.sort(offsets).tolist(), columns=columns).combine_chunks()
    for column in columns:
        table = table.filter(table[column].is_valid())
    vectors_NE = table[modality].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    return np.asarray(vectors_NE[generator.permutation(len(vectors_NE))[:count]], dtype=np.float32)


def exact_nearest(
    dataset: Any, modality: str, vectors_QE: NDArray[np.float32], limit: int
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Finds the rows with the largest inner products for many queries, in one pass over the vectors.

    Memory is bounded by a batch of rows. Rows without this modality are passed over.

    Args:
        dataset: a Lance dataset.
        modality: its column of vectors.
        vectors_QE: the queries.
        limit: rows for each query.

    Returns:
        Row ids and inner products [Q, K], best first, ties by row id; K is `limit`, or the number of rows if smaller.
    """
    best_QK = np.empty((len(vectors_QE), 0), np.float32)
    ids_QK = np.empty((len(vectors_QE), 0), np.uint64)
    for batch in dataset.to_batches(columns=[modality], with_row_id=True, batch_size=_BATCH_ROWS):
        present = batch.filter(batch[modality].is_valid())
        if not len(present):
            continue
        rows_NE = present[modality].flatten().to_numpy().reshape(len(present), -1)
        ids_N = present["_rowid"].to_numpy()
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
    """Returns the best of the rows so far and those of a batch, in no order."""
    if scores_QN.shape[1] > limit:
        top_QK = np.argpartition(scores_QN, -limit, axis=1)[:, -limit:]
        scores_QN, new_ids_QK = np.take_along_axis(scores_QN, top_QK, 1), ids_N[top_QK]
    else:
        new_ids_QK = np.broadcast_to(ids_N, scores_QN.shape)
    scores_QM = np.concatenate([best_QK, scores_QN], axis=1)
    ids_QM = np.concatenate([ids_QK, new_ids_QK], axis=1)
    if scores_QM.shape[1] > limit:
        top_QK = np.argpartition(scores_QM, -limit, axis=1)[:, -limit:]
        return np.take_along_axis(scores_QM, top_QK, 1), np.take_along_axis(ids_QM, top_QK, 1)
    return scores_QM, ids_QM
