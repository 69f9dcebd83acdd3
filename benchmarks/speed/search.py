"""How fast is search in a large index, next to faiss on the same vectors?

The library holds audio vectors, searched through `MomentIndex.nearest`, as in all searches. A query asks for the 10 nearest moments.
Recall is measured against the 10 largest inner products. All engines take turns, a few queries at a time, so that other work on the
machine affects all of them.

Letters: N rows, Q queries, K = 10 hits, E values of a vector.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.speed.bench import BenchReport
from benchmarks.speed.search_engines import (
    Engine,
    FaissFlat,
    FaissGraph,
    IndexEngine,
    Vectors,
    draw_library,
    matmul_flops,
    memory_bytes_per_second,
    vector_statistics,
)
from benchmarks.speed.settings import BenchSettings
from cmmixer.config import ClipSettings, SegmentSettings
from cmmixer.config.retrieval import FEWEST_ROWS, OptimizeSettings
from cmmixer.errors import SettingsError
from cmmixer.progress import Progress
from cmmixer.retrieval.ann import optimize_modality
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import METADATA, IndexMetadata
from cmmixer.storage.files import temporary_folder

K = 10
_MODALITY = "audio"
# Irrelevant, because nothing is decoded.
_CLIP = ClipSettings(frames=1, height=16, width=16, clip_seconds=1.0, window_seconds=1.0, sample_rate_hz=8000)
_WRITTEN_ROWS, _BLOCK_ROWS = 20_000, 50_000
# Exact engines get fewer queries per turn.
_TURNS, _EXACT_QUERIES, _BATCH = 10, 3, 100


def bench_search(settings: BenchSettings, progress: Progress) -> BenchReport:
    """Builds, optimizes and searches an index of `rows` moments, and faiss with the same vectors.

    Raises:
        SettingsError: faiss is not installed.
        SearchIndexError: the disk is full.
    """
    progress.start(None, "drawing vectors")
    vectors = draw_library(settings.rows, settings.dim, settings.queries, settings.seed)
    rates = {"bytes_per_second": memory_bytes_per_second(), "flops": matmul_flops()}
    progress.start(None, "exact search for the true neighbours")
    truth_QK = exact_neighbours(vectors.rows_NE, vectors.queries_QE)
    with _folder(settings.folder) as folder:
        progress.start(None, "writing the library")
        written_seconds = 0.0 if (folder / METADATA).exists() else _write(folder, vectors.rows_NE, settings.seed)
        progress.start(1, "optimizing search")
        started = time.perf_counter()
        with MomentIndex.writing(folder) as library:
            _check(library, settings)
            ann = library.ann_settings(_MODALITY) or optimize_modality(
                library, _MODALITY, _optimize_settings(settings), progress
            )
        optimized_seconds = time.perf_counter() - started
        progress.start(None, "building the graph of faiss")
        engines: list[Engine] = [
            IndexEngine(MomentIndex.open(folder), _MODALITY, exact=False),
            IndexEngine(MomentIndex.open(folder), _MODALITY, exact=True),
            *FaissFlat.of(vectors.rows_NE, 1, _cores()),
        ]
        graph = FaissGraph(vectors.rows_NE, _cores(), 60 * settings.graph_minutes)
        if graph.is_complete:
            graph.tune(vectors.queries_QE[::5], truth_QK[::5], settings.recall_target)
            engines.append(graph)
        progress.start(_TURNS, "searching")
        figures = _measure(engines, vectors.queries_QE, truth_QK, progress)
    for engine, row in zip(engines, figures, strict=True):
        read, flops = engine.bytes_read(), engine.flops()
        row["bound_ms"] = 1000 * read / rates["bytes_per_second"]
        # In exact search a batch reads all rows once; otherwise every query reads its own rows.
        shared = rates["flops"] / flops
        row["bound_queries_per_second"] = shared if engine.is_exact else rates["bytes_per_second"] / read
    report = {
        "what": "search",
        "rows": settings.rows,
        "dim": settings.dim,
        "queries": settings.queries,
        "recall_target": settings.recall_target,
        "vectors": {
            **vector_statistics(vectors.rows_NE, settings.seed),
            **_query_statistics(vectors.rows_NE, vectors.queries_QE, vectors.origins_Q),
        },
        "machine_rates": rates,
        "written_seconds": written_seconds,
        "optimized_seconds": optimized_seconds,
        "ann_settings": asdict(ann),
        "engines": figures,
        "graph_built": {"name": graph.name, "rows": int(graph.index.ntotal), "minutes": graph.build_seconds / 60},
        "load_average": os.getloadavg()[0],
    }
    return BenchReport(
        report, f"search among {settings.rows} vectors of {settings.dim} values", HEADER, table_rows(report)
    )


def _optimize_settings(settings: BenchSettings) -> OptimizeSettings:
    return OptimizeSettings(
        optimize=True,
        index_kind=settings.index_kind,
        recall_target=settings.recall_target,
        exact_below=FEWEST_ROWS,
    )


def _check(library: MomentIndex, settings: BenchSettings) -> None:
    """Checks that a library kept from an earlier run has the same size."""
    got = (library.count(), library.metadata.embed_dim, library.metadata.model)
    wanted = (settings.rows, settings.dim, f"synthetic, seed {settings.seed}")
    if got != wanted:
        raise SettingsError(
            f"--folder {settings.folder}: got {got[0]} vectors of {got[1]} values ({got[2]}), expected {wanted[0]} of {wanted[1]} values "
            f"({wanted[2]}); give another folder"
        )


HEADER = ["", "recall@10", "p50 ms", "p99 ms", "bound ms", "queries/s", "bound", "build min", "bytes/row"]


def table_rows(report: dict[str, Any]) -> list[list[str]]:
    """Returns a row per engine; each measured value is followed by its bound."""
    return [
        [
            row["name"],
            f"{row['recall']:.3f}",
            f"{row['p50_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
            f"{row['bound_ms']:.2f}",
            f"{row['queries_per_second']:.0f}",
            f"{row['bound_queries_per_second']:.0f}",
            f"{row['build_minutes']:.1f}",
            f"{row['bytes_per_row']:.0f}",
        ]
        for row in report["engines"]
    ]


def _measure(
    engines: list[Engine], queries_QE: Vectors, truth_QK: NDArray[np.int64], progress: Progress
) -> list[dict[str, Any]]:
    """Measures all engines in turns, a few queries and then a batch each."""
    seconds: list[list[float]] = [[] for _ in engines]
    batches: list[list[float]] = [[] for _ in engines]
    recalls: list[list[float]] = [[] for _ in engines]
    for engine in engines:  # loads what is loaded once
        engine.search(queries_QE[:1])
    for turn in np.array_split(np.arange(len(queries_QE)), _TURNS):
        for number, engine in enumerate(engines):
            for query in turn[:_EXACT_QUERIES] if engine.is_exact else turn:
                started = time.perf_counter()
                hits_1K = engine.search(queries_QE[query : query + 1])
                seconds[number].append(time.perf_counter() - started)
                recalls[number].append(_recall(hits_1K, truth_QK[query : query + 1]))
            batch = np.resize(turn, 1 if engine.slow_in_batches else _BATCH)
            started = time.perf_counter()
            engine.search(queries_QE[batch])
            batches[number].append((time.perf_counter() - started) / len(batch))
        progress.advance()
    return [
        {
            "name": engine.name,
            "recall": float(np.mean(recalls[number])),
            "queries": len(seconds[number]),
            "p50_ms": 1000 * float(np.median(seconds[number])),
            "p99_ms": 1000 * float(np.percentile(seconds[number], 99)),
            "queries_per_second": 1 / float(np.median(batches[number])),
            "build_minutes": engine.build_seconds / 60,
            "bytes_per_row": engine.bytes_per_row,
        }
        for number, engine in enumerate(engines)
    ]


def _recall(hits_QK: NDArray[np.int64], truth_QK: NDArray[np.int64]) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(hits_QK, truth_QK, strict=True)]))


def exact_neighbours(rows_NE: Vectors, queries_QE: Vectors) -> NDArray[np.int64]:
    """Finds the K rows with the largest inner products, with matrix products over blocks of rows."""
    scores_QK = np.empty((len(queries_QE), 0), np.float32)
    places_QK = np.empty((len(queries_QE), 0), np.int64)
    for start in range(0, len(rows_NE), _BLOCK_ROWS):
        new_QN = queries_QE @ rows_NE[start : start + _BLOCK_ROWS].T
        block_best_QK = np.argpartition(new_QN, -K, axis=1)[:, -K:]
        scores_QM = np.concatenate([scores_QK, np.take_along_axis(new_QN, block_best_QK, 1)], axis=1)
        places_QM = np.concatenate([places_QK, block_best_QK + start], axis=1)
        best_QK = np.argpartition(scores_QM, -K, axis=1)[:, -K:]
        scores_QK, places_QK = (np.take_along_axis(all_QM, best_QK, 1) for all_QM in (scores_QM, places_QM))
    return places_QK


def _query_statistics(rows_NE: Vectors, queries_QE: Vectors, origins_Q: NDArray[np.int64]) -> dict[str, float]:
    own_Q = (queries_QE * rows_NE[origins_Q]).sum(axis=1)
    return {"query_cosine": float(np.median(own_Q)), "query_cosine_95": float(np.percentile(own_Q, 95))}


@contextmanager
def _folder(wanted: str | None) -> Iterator[Path]:
    if wanted is not None:
        yield Path(wanted)
        return
    with temporary_folder("cmmixer-bench-") as folder:
        yield folder / "library"


def _write(folder: Path, rows_NE: Vectors, seed: int) -> float:
    """Writes an index whose moment i has vector i; files are not listed, because no search needs them."""
    started = time.perf_counter()
    metadata = IndexMetadata(
        model_id="synthetic",
        model=f"synthetic, seed {seed}",
        embed_dim=rows_NE.shape[1],
        clip=_CLIP,
        segmentation=SegmentSettings(stride_seconds=1.0).complete(_CLIP),
    )
    folder.mkdir(parents=True)
    (folder / METADATA).write_text(metadata.to_text())
    library = MomentIndex(folder, metadata, create=True)
    schema = metadata.moments_schema()

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(rows_NE), _WRITTEN_ROWS):
            part_NE = rows_NE[start : start + _WRITTEN_ROWS]
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(part_NE.reshape(-1)), rows_NE.shape[1])
            name = pa.array([str(place) for place in range(start, start + len(part_NE))])
            seconds = pa.array(np.zeros(len(part_NE)))
            columns = {field.name: pa.nulls(len(part_NE), field.type) for field in schema}
            columns.update(dict.fromkeys(("id", "batch", "path", "source"), name))
            columns.update(start_seconds=seconds, end_seconds=seconds, audio=vectors, video=vectors, any=vectors)
            yield pa.record_batch(columns, schema=schema)

    library.table.add(pa.RecordBatchReader.from_batches(schema, batches()))
    return time.perf_counter() - started


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
