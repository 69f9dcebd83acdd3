"""`cmmixer bench search`: the index of moments at a size that few have films for, beside faiss on the same vectors.

The library holds sounds; their vectors are searched through `MomentIndex.nearest`, as every search of this package does. A
question is for the 10 nearest moments. Recall is counted against the 10 with the largest inner products. All take turns, a few
queries at a time, so that whatever else the machine does is shared out among them.

Letters: N rows, Q queries, K = 10 answers, E values of a vector.
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
    Moments,
    Vectors,
    draw,
    multiplied_flops,
    read_bytes_per_second,
    shape_of,
)
from benchmarks.speed.settings import BenchSettings
from cmmixer.config import ClipSettings
from cmmixer.config.retrieval import FEWEST_ROWS, OptimizeSettings
from cmmixer.errors import SettingsError
from cmmixer.progress import Progress
from cmmixer.retrieval.ann import optimize_sense
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import NAME, IndexCard
from cmmixer.storage.files import temporary_folder

K = 10
_SENSE = "audio"
# Of no consequence: nothing is decoded.
_CLIP = ClipSettings(frames=1, height=16, width=16, clip_seconds=1.0, window_seconds=1.0, sample_rate_hz=8000)
_WRITTEN_ROWS, _MULTIPLIED_ROWS = 20_000, 50_000
# Whoever looks at all is asked fewer questions.
_TURNS, _EXACT_OF_TURN, _BATCH = 10, 3, 100


def bench_search(settings: BenchSettings, progress: Progress) -> BenchReport:
    """Fills, optimises and asks an index of `rows` moments, and faiss beside it.

    Raises:
        SettingsError: faiss is not installed.
        SearchIndexError: the disk is full.
    """
    progress.start(None, "drawing vectors")
    drawn = draw(settings.rows, settings.dim, settings.queries, settings.seed)
    floors = {"bytes_per_second": read_bytes_per_second(), "flops": multiplied_flops()}
    progress.start(None, "looking at all for what is really nearest")
    truth_QK = _nearest(drawn.rows_NE, drawn.queries_QE)
    with _folder(settings.folder) as folder:
        progress.start(None, "writing the library")
        written_seconds = 0.0 if (folder / NAME).exists() else _write(folder, drawn.rows_NE, settings.seed)
        progress.start(1, "optimising search")
        begun = time.perf_counter()
        with MomentIndex.writing(folder) as library:
            _check(library, settings)
            plan = library.plan(_SENSE) or optimize_sense(library, _SENSE, _wanted(settings), progress)
        optimised_seconds = time.perf_counter() - begun
        progress.start(None, "building faiss's graph")
        engines: list[Engine] = [
            Moments(MomentIndex.open(folder), _SENSE, exact=False),
            Moments(MomentIndex.open(folder), _SENSE, exact=True),
            *FaissFlat.of(drawn.rows_NE, 1, _cores()),
        ]
        graph = FaissGraph(drawn.rows_NE, _cores(), 60 * settings.graph_minutes)
        if graph.is_whole:
            graph.tune(drawn.queries_QE[::5], truth_QK[::5], settings.recall_target)
            engines.append(graph)
        progress.start(_TURNS, "asking")
        figures = _asked(engines, drawn.queries_QE, truth_QK, progress)
    for engine, row in zip(engines, figures, strict=True):
        read, multiplied = engine.bytes_read(), engine.flops()
        row["floor_ms"] = 1000 * read / floors["bytes_per_second"]
        # A batch shares one reading of all rows; of cells and of a graph every query reads its own.
        shared = floors["flops"] / multiplied
        row["floor_queries_per_second"] = shared if engine.looks_at_all else floors["bytes_per_second"] / read
    report = {
        "what": "search",
        "rows": settings.rows,
        "dim": settings.dim,
        "queries": settings.queries,
        "recall_target": settings.recall_target,
        "vectors": {
            **shape_of(drawn.rows_NE, settings.seed),
            **_query_shape(drawn.rows_NE, drawn.queries_QE, drawn.origins_Q),
        },
        "floors": floors,
        "written_seconds": written_seconds,
        "optimised_seconds": optimised_seconds,
        "plan": asdict(plan),
        "engines": figures,
        "graph_built": {"name": graph.name, "rows": int(graph.index.ntotal), "minutes": graph.build_seconds / 60},
        "load_average": os.getloadavg()[0],
    }
    return BenchReport(
        report, f"search among {settings.rows} vectors of {settings.dim} values", HEADER, table_rows(report)
    )


def _wanted(settings: BenchSettings) -> OptimizeSettings:
    return OptimizeSettings(
        optimize=True,
        index_kind=settings.index_kind,
        recall_target=settings.recall_target,
        exact_below=FEWEST_ROWS,
    )


def _check(library: MomentIndex, settings: BenchSettings) -> None:
    """Refuses a folder that was kept from a library of another size."""
    got = (library.count(), library.card.embed_dim, library.card.model)
    wanted = (settings.rows, settings.dim, f"made with seed {settings.seed}")
    if got != wanted:
        raise SettingsError(
            f"--folder {settings.folder}: got {got[0]} vectors of {got[1]} values {got[2]}, expected {wanted[0]} of {wanted[1]} "
            f"{wanted[2]}; give another folder"
        )


HEADER = ["", "recall@10", "p50 ms", "p99 ms", "floor ms", "queries/s", "at best", "build min", "bytes/row"]


def table_rows(report: dict[str, Any]) -> list[list[str]]:
    """The figures as text, an engine a row; a floor stands behind what it is the floor of."""
    return [
        [
            row["name"],
            f"{row['recall']:.3f}",
            f"{row['p50_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
            f"{row['floor_ms']:.2f}",
            f"{row['queries_per_second']:.0f}",
            f"{row['floor_queries_per_second']:.0f}",
            f"{row['build_minutes']:.1f}",
            f"{row['bytes_per_row']:.0f}",
        ]
        for row in report["engines"]
    ]


# --------------------------------------------------------------------------------------------------------------- asking


def _asked(
    engines: list[Engine], queries_QE: Vectors, truth_QK: NDArray[np.int64], progress: Progress
) -> list[dict[str, Any]]:
    """Every engine in turn, some queries each; then batches in the same way."""
    seconds: list[list[float]] = [[] for _ in engines]
    batches: list[list[float]] = [[] for _ in engines]
    found: list[list[float]] = [[] for _ in engines]
    for engine in engines:  # what is read only once is read before
        engine.ask(queries_QE[:1])
    for turn in np.array_split(np.arange(len(queries_QE)), _TURNS):
        for number, engine in enumerate(engines):
            for query in turn[:_EXACT_OF_TURN] if engine.looks_at_all else turn:
                begun = time.perf_counter()
                answer_1K = engine.ask(queries_QE[query : query + 1])
                seconds[number].append(time.perf_counter() - begun)
                found[number].append(_share(answer_1K, truth_QK[query : query + 1]))
            batch = np.resize(turn, 1 if engine.slow_in_batches else _BATCH)
            begun = time.perf_counter()
            engine.ask(queries_QE[batch])
            batches[number].append((time.perf_counter() - begun) / len(batch))
        progress.advance()
    return [
        {
            "name": engine.name,
            "recall": float(np.mean(found[number])),
            "asked": len(seconds[number]),
            "p50_ms": 1000 * float(np.median(seconds[number])),
            "p99_ms": 1000 * float(np.percentile(seconds[number], 99)),
            "queries_per_second": 1 / float(np.median(batches[number])),
            "build_minutes": engine.build_seconds / 60,
            "bytes_per_row": engine.bytes_per_row,
        }
        for number, engine in enumerate(engines)
    ]


def _share(answers_QK: NDArray[np.int64], truth_QK: NDArray[np.int64]) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(answers_QK, truth_QK, strict=True)]))


def _nearest(rows_NE: Vectors, queries_QE: Vectors) -> NDArray[np.int64]:
    """The K rows with the largest inner products, by plain matrix products over a part of the rows at a time."""
    scores_QK = np.empty((len(queries_QE), 0), np.float32)
    places_QK = np.empty((len(queries_QE), 0), np.int64)
    for start in range(0, len(rows_NE), _MULTIPLIED_ROWS):
        new_QN = queries_QE @ rows_NE[start : start + _MULTIPLIED_ROWS].T
        kept_QK = np.argpartition(new_QN, -K, axis=1)[:, -K:]
        scores_QM = np.concatenate([scores_QK, np.take_along_axis(new_QN, kept_QK, 1)], axis=1)
        places_QM = np.concatenate([places_QK, kept_QK + start], axis=1)
        best_QK = np.argpartition(scores_QM, -K, axis=1)[:, -K:]
        scores_QK, places_QK = (np.take_along_axis(all_QM, best_QK, 1) for all_QM in (scores_QM, places_QM))
    return places_QK


def _query_shape(rows_NE: Vectors, queries_QE: Vectors, origins_Q: NDArray[np.int64]) -> dict[str, float]:
    own_Q = (queries_QE * rows_NE[origins_Q]).sum(axis=1)
    return {"query_to_its_row": float(np.median(own_Q)), "query_to_its_row_95": float(np.percentile(own_Q, 95))}


# ---------------------------------------------------------------------------------------------------------- the library


@contextmanager
def _folder(wanted: str | None) -> Iterator[Path]:
    if wanted is not None:
        yield Path(wanted)
        return
    with temporary_folder("cmmixer-bench-") as folder:
        yield folder / "library"


def _write(folder: Path, rows_NE: Vectors, seed: int) -> float:
    """An index whose moment i has the vector i; its files are not listed, since nothing is asked about them."""
    begun = time.perf_counter()
    card = IndexCard(
        model_id="made", model=f"made with seed {seed}", embed_dim=rows_NE.shape[1], clip=_CLIP, stride_seconds=1.0
    )
    folder.mkdir(parents=True)
    (folder / NAME).write_text(card.text())
    library = MomentIndex(folder, card, create=True)
    schema = card.moments_schema()

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(rows_NE), _WRITTEN_ROWS):
            part_NE = rows_NE[start : start + _WRITTEN_ROWS]
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(part_NE.reshape(-1)), rows_NE.shape[1])
            name = pa.array([str(place) for place in range(start, start + len(part_NE))])
            seconds = pa.array(np.zeros(len(part_NE)))
            columns = {field.name: pa.nulls(len(part_NE), field.type) for field in schema}
            columns.update(dict.fromkeys(("id", "batch", "path", "source"), name))
            columns.update(start_seconds=seconds, end_seconds=seconds, audio=vectors, film=vectors)
            yield pa.record_batch(columns, schema=schema)

    library.table.add(pa.RecordBatchReader.from_batches(schema, batches()))
    return time.perf_counter() - begun


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
