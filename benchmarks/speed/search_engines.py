"""The search engines that are compared, the machine's rates that bound them, and synthetic vectors to search in.

Engines: an index of moments, and faiss with exact search and with a graph.

Rates: no search can be faster than reading its bytes from memory, nor than multiplying its matrices.

Vectors: a library has kinds of content (few large and many small ones), a kind has videos, and a video has similar moments. So the
vectors are a mixture of mixtures on the sphere:

    kind   = unit(g)                        rows / 500 of them, with log-normal weights
    video  = unit(kind + 0.7 * g / |g|)     20 moments each
    moment = unit(video + 0.5 * g / |g|)
    query  = unit(moment + 1.0 * g / |g|)   of a random moment; about as far from it as a sound is from its video

Every g is drawn independently from a normal distribution whose variance in direction i is proportional to 1 / i, because embeddings
fill few of their directions. `vector_statistics` measures the result; docs/scale.md compares it with a real index. Vectors that are
uniform on the sphere would be useless: all are equally far from each other, and no index can do better than to read them all.

Letters: N rows, Q queries, K = 10 hits, E values of a vector, S sampled rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from cmmixer.retrieval.index import MomentIndex

K = 10

Vectors = NDArray[np.float32]
Places = NDArray[np.int64]

# efConstruction is the default of faiss. Its default of 32 links would take twice the time to build.
_LINKS, _EF_CONSTRUCTION = 16, 40
_EF_SEARCH = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)
_ADDED_ROWS = 10_000
# Runs of which the fastest counts.
_ROUNDS = 10
ROWS_PER_KIND, ROWS_PER_VIDEO = 500, 20
VIDEO_NOISE, MOMENT_NOISE, QUERY_NOISE = 0.7, 0.5, 1.0
_CHUNK = 50_000


class Engine(Protocol):
    """A search engine.

    Attributes:
        name: in the table.
        is_exact: whether every row is compared with every query.
        slow_in_batches: whether a batch takes as long as its queries one by one.
        build_seconds: time to build the index.
        bytes_per_row: on disk or in memory, including the vectors.
    """

    name: str
    is_exact: bool
    slow_in_batches: bool
    build_seconds: float
    bytes_per_row: float

    def search(self, queries_QE: Vectors) -> Places:
        """Returns the row numbers of the nearest rows, [Q, K]; -1 for a missing one."""
        ...

    def tune(self, queries_QE: Vectors, truth_QK: Places, target: float) -> None:
        """Chooses the fastest parameters that reach the target recall."""

    def bytes_read(self) -> float:
        """Returns the bytes that one query has to read."""
        ...

    def flops(self) -> float:
        """Returns the FLOP that one query needs."""
        ...


class IndexEngine:
    """An index of moments whose ids are the row numbers."""

    slow_in_batches = False

    def __init__(self, library: MomentIndex, modality: str, *, exact: bool) -> None:
        self.library, self.modality, self.exact = library, modality, exact
        self.rows, self.dim = library.count(), library.metadata.embed_dim
        self.ann = None if exact else library.ann_settings(modality)
        self.name = f"cmmixer, {'exact' if self.ann is None else self.ann.kind}"
        self.is_exact = self.slow_in_batches = self.ann is None
        self.build_seconds = 0.0 if self.ann is None else self.ann.build_seconds
        self.bytes_per_row = 4.0 * self.dim + (0.0 if self.ann is None else self.ann.bytes_per_row)

    def search(self, queries_QE: Vectors) -> Places:
        places_QK = np.full((len(queries_QE), K), -1, np.int64)
        filled = [0] * len(queries_QE)
        for row in self.library.nearest(queries_QE, self.modality, K, exact=self.exact):
            places_QK[row["query"], filled[row["query"]]] = int(row["id"])
            filled[row["query"]] += 1
        return places_QK

    def tune(self, queries_QE: Vectors, truth_QK: Places, target: float) -> None:
        """Does nothing: the index was tuned when it was built, with other queries."""

    def bytes_read(self) -> float:
        if self.ann is None:
            return 4.0 * self.rows * self.dim
        cells = 4.0 * self.ann.partitions * self.dim
        return cells + self._read_rows() * self.ann.bytes_per_row + 4.0 * self.ann.candidates * self.dim

    def flops(self) -> float:
        if self.ann is None:
            return 2.0 * self.rows * self.dim
        return 2.0 * self.dim * (self.ann.partitions + self._read_rows() + self.ann.candidates)

    def _read_rows(self) -> float:
        assert self.ann is not None
        return self.rows * self.ann.probes / self.ann.partitions


class FaissFlat:
    """Exact search of faiss."""

    is_exact = True
    slow_in_batches = False
    build_seconds = 0.0

    def __init__(self, index: faiss.IndexFlatIP, *, threads: int) -> None:
        self.index, self.threads, self.pools = index, threads, ThreadpoolController()
        self.name = f"faiss flat, {threads} thread{'s' if threads > 1 else ''}"
        self.bytes_per_row = 4.0 * int(index.d)

    @staticmethod
    def of(rows_NE: Vectors, *threads: int) -> list[FaissFlat]:
        """Returns engines with different numbers of threads that share one copy of the rows."""
        index = faiss.IndexFlatIP(rows_NE.shape[1])
        index.add(rows_NE)
        return [FaissFlat(index, threads=count) for count in threads]

    def search(self, queries_QE: Vectors) -> Places:
        return _search_faiss(self.index, queries_QE, self.threads, self.pools)

    def tune(self, queries_QE: Vectors, truth_QK: Places, target: float) -> None:
        pass

    def bytes_read(self) -> float:
        return self.bytes_per_row * int(self.index.ntotal)

    def flops(self) -> float:
        return 2.0 * float(self.index.ntotal) * float(self.index.d)


class FaissGraph:
    """HNSW of faiss on full vectors, tuned with a part of the queries that it is measured with."""

    is_exact = False
    slow_in_batches = False

    def __init__(self, rows_NE: Vectors, threads: int, max_seconds: float) -> None:
        """Builds the graph, or stops at the time limit; see `is_complete`."""
        self.index = faiss.IndexHNSWFlat(rows_NE.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = _EF_CONSTRUCTION
        self.threads, self.pools = threads, ThreadpoolController()
        started = time.perf_counter()
        self.build_seconds = 0.0
        with _faiss_threads(threads):
            for start in range(0, len(rows_NE), _ADDED_ROWS):
                if self.build_seconds >= max_seconds:
                    break
                self.index.add(rows_NE[start : start + _ADDED_ROWS])
                self.build_seconds = time.perf_counter() - started
        self.is_complete = self.index.ntotal == len(rows_NE)
        links = 4.0 * self.index.hnsw.neighbors.size() + 8.0 * self.index.hnsw.offsets.size()
        self.bytes_per_row = 4.0 * rows_NE.shape[1] + links / len(rows_NE)
        self.compared = 0.0
        self.name = f"faiss HNSW, M {_LINKS}"

    def search(self, queries_QE: Vectors) -> Places:
        return _search_faiss(self.index, queries_QE, self.threads, self.pools)

    def tune(self, queries_QE: Vectors, truth_QK: Places, target: float) -> None:
        for candidates in _EF_SEARCH:
            self.index.hnsw.efSearch = candidates
            statistics = faiss.cvar
            statistics.hnsw_stats.reset()
            hits_QK = self.search(queries_QE)
            self.compared = statistics.hnsw_stats.ndis / len(queries_QE)
            found = sum(len(np.intersect1d(a, b)) for a, b in zip(hits_QK, truth_QK, strict=True))
            if found >= target * truth_QK.size:
                break
        self.name = f"faiss HNSW, M {_LINKS}, efSearch {candidates}"

    def bytes_read(self) -> float:
        return self.compared * 4.0 * float(self.index.d)

    def flops(self) -> float:
        return self.compared * 2.0 * float(self.index.d)


@contextmanager
def _faiss_threads(threads: int) -> Iterator[None]:
    """Sets the threads of faiss and restores them: torch counts its threads in the same library."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _search_faiss(index: faiss.Index, queries_QE: Vectors, threads: int, pools: ThreadpoolController) -> Places:
    with _faiss_threads(threads), pools.limit(limits=threads):  # the pools run its matrix products
        return np.asarray(index.search(queries_QE, K)[1], dtype=np.int64)


def memory_bytes_per_second(megabytes: int = 512) -> float:
    """Measures the rate of reading memory with all cores: an array much larger than the caches, the fastest of a few matrix-vector products."""
    values_NE = np.ones((megabytes * 2**20 // 1024, 256), np.float32)
    vector_E = np.ones(256, np.float32)
    return values_NE.nbytes / _fastest(lambda: values_NE @ vector_E)


def matmul_flops(rows: int = 4096, dim: int = 1024) -> float:
    """Measures the FLOP per second of a large float32 matrix product with all cores, the fastest of a few."""
    left, right = np.ones((rows, dim), np.float32), np.ones((dim, rows), np.float32)
    return 2 * rows * rows * dim / _fastest(lambda: left @ right)


def _fastest(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


@dataclass(frozen=True)
class Library:
    """A synthetic library with queries.

    Attributes:
        rows_NE: unit vectors, the moments of a video one after the other.
        queries_QE: unit vectors near rows.
        origins_Q: the row that each query is near to.
    """

    rows_NE: Vectors
    queries_QE: Vectors
    origins_Q: NDArray[np.int64]


def draw_library(rows: int, dim: int, queries: int, seed: int) -> Library:
    """Draws a library and queries, reproducibly."""
    generator = np.random.default_rng(seed)
    scale_E = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    kinds = max(1, rows // ROWS_PER_KIND)
    videos = -(-rows // ROWS_PER_VIDEO)
    kind_KE = _unit(_normal(generator, kinds, scale_E))
    weights_K = generator.lognormal(0.0, 1.0, kinds)
    kind_of_F = generator.choice(kinds, videos, p=weights_K / weights_K.sum())
    video_FE = _near(generator, kind_KE[kind_of_F], VIDEO_NOISE, scale_E)
    rows_NE = np.empty((rows, dim), np.float32)
    for start in range(0, rows, _CHUNK):
        video_of_N = np.arange(start, min(start + _CHUNK, rows)) // ROWS_PER_VIDEO
        rows_NE[start : start + _CHUNK] = _near(generator, video_FE[video_of_N], MOMENT_NOISE, scale_E)
    origins_Q = generator.choice(rows, queries, replace=queries > rows)
    return Library(rows_NE, _near(generator, rows_NE[origins_Q], QUERY_NOISE, scale_E), origins_Q)


def vector_statistics(vectors_NE: Vectors, seed: int, sample: int = 2000) -> dict[str, float]:
    """Measures how hard it is for an index to find neighbours without reading all vectors.

    Returns:
        `directions`: participation ratio of the eigenvalues of the covariance, (sum)^2 / sum of squares, the number of directions
        that the vectors fill; `intrinsic`: intrinsic dimension by the two-nearest-neighbours estimate (Facco et al. 2017, one over
        the mean logarithm of the ratio of second to first neighbour distance) of `sample` vectors; `cosine_2`: median cosine of two.
    """
    chosen = np.random.default_rng(seed).choice(len(vectors_NE), min(sample, len(vectors_NE)), replace=False)
    x_SE = vectors_NE[chosen].astype(np.float64)
    eigenvalues_E = np.linalg.eigvalsh(np.cov(x_SE.T))
    cosines_SS = x_SE @ x_SE.T
    between = float(np.median(cosines_SS[np.triu_indices(len(x_SE), 1)]))
    np.fill_diagonal(cosines_SS, -1.0)
    two_S2 = np.sqrt(np.maximum(2 - 2 * np.sort(cosines_SS, axis=1)[:, [-1, -2]], 1e-12))
    ratio_S = np.log(np.maximum(two_S2[:, 1] / two_S2[:, 0], 1 + 1e-9))
    return {
        "directions": float(eigenvalues_E.sum() ** 2 / (eigenvalues_E**2).sum()),
        "intrinsic": float(1 / ratio_S.mean()),
        "cosine_2": between,
    }


def _normal(generator: np.random.Generator, count: int, scale_E: Vectors) -> Vectors:
    return generator.standard_normal((count, len(scale_E)), dtype=np.float32) * scale_E


def _near(generator: np.random.Generator, middle_NE: Vectors, noise: float, scale_E: Vectors) -> Vectors:
    return _unit(middle_NE + noise * _unit(_normal(generator, len(middle_NE), scale_E)))


def _unit(vectors_NE: Vectors) -> Vectors:
    return np.asarray(vectors_NE / np.linalg.norm(vectors_NE, axis=1, keepdims=True), dtype=np.float32)
