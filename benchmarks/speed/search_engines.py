"""What answers questions for the 10 nearest vectors: the index of moments, and faiss beside it.

Letters: N rows, Q queries, K = 10 answers, E values of a vector.

What the machine can do at best, measured beside whatever is compared with it.

A search cannot be faster than its bytes come out of memory, nor than its products are multiplied; these are the two rates.

Unit vectors that lie as those of a library of films do, for measuring search without a library of a million films.

A library holds kinds of content (few large ones, many small ones), a kind holds films, a film holds moments that are alike.
So the vectors are a mixture of mixtures on the sphere:

    kind   = unit(g)                        as many as rows / 500, their weights log-normal
    film   = unit(kind + 0.7 * g / |g|)     20 moments each
    moment = unit(film + 0.5 * g / |g|)
    query  = unit(moment + 1.0 * g / |g|)   of a moment drawn at random; as far from it as a sound is from its picture

with every g anew from a normal distribution whose variance in direction i falls as 1 / i: embeddings fill few of their
directions. What comes out is measured by `shape_of`, beside which docs/scale.md puts the same of a real index. Vectors that are
uniform on the sphere would be useless: all are equally far from each other, and no index can do better than read them all.

Letters: N rows, Q queries, E values of a vector.
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

_ROUNDS = 10


def read_bytes_per_second(megabytes: int = 512) -> float:
    """Rate at which an array much larger than the caches is read, by all cores: the best of a few matrix-vector products."""
    values_NE = np.ones((megabytes * 2**20 // 1024, 256), np.float32)
    vector_E = np.ones(256, np.float32)
    return values_NE.nbytes / _fastest(lambda: values_NE @ vector_E)


def multiplied_flops(rows: int = 4096, dim: int = 1024) -> float:
    """Floating-point operations a second of a large float32 matrix product, by all cores: the best of a few."""
    left, right = np.ones((rows, dim), np.float32), np.ones((dim, rows), np.float32)
    return 2 * rows * rows * dim / _fastest(lambda: left @ right)


def _fastest(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


Vectors = NDArray[np.float32]

ROWS_OF_KIND, ROWS_OF_FILM = 500, 20

FILM_SPREAD, MOMENT_SPREAD, QUERY_SPREAD = 0.7, 0.5, 1.0

_CHUNK = 50_000


@dataclass(frozen=True)
class Drawn:
    """A made library.

    Attributes:
        rows_NE: unit vectors, a film's moments one after the other.
        queries_QE: unit vectors near rows, none of them a row.
        origins_Q: the row that each query was drawn around.
    """

    rows_NE: Vectors
    queries_QE: Vectors
    origins_Q: NDArray[np.int64]


def draw(rows: int, dim: int, queries: int, seed: int) -> Drawn:
    """Draws a library and queries; the same for the same arguments."""
    chance = np.random.default_rng(seed)
    scale_E = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    kinds = max(1, rows // ROWS_OF_KIND)
    films = -(-rows // ROWS_OF_FILM)
    kind_KE = _unit(_normal(chance, kinds, scale_E))
    weights_K = chance.lognormal(0.0, 1.0, kinds)
    kind_of_F = chance.choice(kinds, films, p=weights_K / weights_K.sum())
    film_FE = _near(chance, kind_KE[kind_of_F], FILM_SPREAD, scale_E)
    rows_NE = np.empty((rows, dim), np.float32)
    for start in range(0, rows, _CHUNK):
        film_of_N = np.arange(start, min(start + _CHUNK, rows)) // ROWS_OF_FILM
        rows_NE[start : start + _CHUNK] = _near(chance, film_FE[film_of_N], MOMENT_SPREAD, scale_E)
    origins_Q = chance.choice(rows, queries, replace=queries > rows)
    return Drawn(rows_NE, _near(chance, rows_NE[origins_Q], QUERY_SPREAD, scale_E), origins_Q)


def shape_of(vectors_NE: Vectors, seed: int, sample: int = 2000) -> dict[str, float]:
    """How vectors lie: what decides whether an index can find neighbours without reading all.

    Returns:
        `directions`: the participation ratio of the covariance's eigenvalues, (sum)^2 / sum of squares: how many
        directions the vectors fill; `intrinsic`: their dimension by the two-nearest-neighbours estimate (Facco et al. 2017,
        one over the mean logarithm of second to first neighbour's distance), among `sample` of them; `cosine_2`, the median cosine between two.
    """
    chosen = np.random.default_rng(seed).choice(len(vectors_NE), min(sample, len(vectors_NE)), replace=False)
    x_SE = vectors_NE[chosen].astype(np.float64)
    spread_E = np.linalg.eigvalsh(np.cov(x_SE.T))
    cosines_SS = x_SE @ x_SE.T
    between = float(np.median(cosines_SS[np.triu_indices(len(x_SE), 1)]))
    np.fill_diagonal(cosines_SS, -1.0)
    two_S2 = np.sqrt(np.maximum(2 - 2 * np.sort(cosines_SS, axis=1)[:, [-1, -2]], 1e-12))
    ratio_S = np.log(np.maximum(two_S2[:, 1] / two_S2[:, 0], 1 + 1e-9))
    return {
        "directions": float(spread_E.sum() ** 2 / (spread_E**2).sum()),
        "intrinsic": float(1 / ratio_S.mean()),
        "cosine_2": between,
    }


def _normal(chance: np.random.Generator, count: int, scale_E: Vectors) -> Vectors:
    return chance.standard_normal((count, len(scale_E)), dtype=np.float32) * scale_E


def _near(chance: np.random.Generator, middle_NE: Vectors, spread: float, scale_E: Vectors) -> Vectors:
    return _unit(middle_NE + spread * _unit(_normal(chance, len(middle_NE), scale_E)))


def _unit(vectors_NE: Vectors) -> Vectors:
    return np.asarray(vectors_NE / np.linalg.norm(vectors_NE, axis=1, keepdims=True), dtype=np.float32)


K = 10

Places = NDArray[np.int64]

# Candidates while building: faiss's own choice. It would take twice the links, and twice the time to build.
_LINKS, _BUILT_WITH = 16, 40

_ADDED_ROWS = 10_000

_SEARCHED_WITH = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)


class Engine(Protocol):
    """Something that answers.

    Attributes:
        name: for people.
        looks_at_all: whether every row is compared with every query.
        slow_in_batches: whether a batch takes as long as its queries one by one.
        build_seconds: what it took to make it, without the rows themselves.
        bytes_per_row: on disk or in memory, with the rows themselves.
    """

    name: str
    looks_at_all: bool
    slow_in_batches: bool
    build_seconds: float
    bytes_per_row: float

    def ask(self, queries_QE: Vectors) -> Places:
        """Places of the nearest, [Q, K]; -1 for one that is missing."""
        ...

    def tune(self, queries_QE: Vectors, truth_QK: Places, target: float) -> None:
        """Makes it as fast as the recall allows."""

    def bytes_read(self) -> float:
        """How many bytes one query has to read at least."""
        ...

    def flops(self) -> float:
        """How many multiplications and additions one query needs at least."""
        ...


class Moments:
    """An index of moments whose ids are places."""

    slow_in_batches = False

    def __init__(self, library: MomentIndex, sense: str, *, exact: bool) -> None:
        self.library, self.sense, self.exact = library, sense, exact
        self.rows, self.dim = library.count(), library.card.embed_dim
        self.plan = None if exact else library.plan(sense)
        self.name = f"cmmixer, {'exact' if self.plan is None else self.plan.kind}"
        self.looks_at_all = self.slow_in_batches = self.plan is None
        self.build_seconds = 0.0 if self.plan is None else self.plan.build_seconds
        self.bytes_per_row = 4.0 * self.dim + (0.0 if self.plan is None else self.plan.bytes_per_row)

    def ask(self, queries_QE: Vectors) -> Places:
        places_QK = np.full((len(queries_QE), K), -1, np.int64)
        filled = [0] * len(queries_QE)
        for row in self.library.nearest(queries_QE, self.sense, K, exact=self.exact):
            places_QK[row["query"], filled[row["query"]]] = int(row["id"])
            filled[row["query"]] += 1
        return places_QK

    def tune(self, queries_QE: Vectors, truth_QK: Places, target: float) -> None:
        """It was tuned when it was built, without seeing these queries."""

    def bytes_read(self) -> float:
        if self.plan is None:
            return 4.0 * self.rows * self.dim
        cells = 4.0 * self.plan.partitions * self.dim
        return cells + self._read_rows() * self.plan.bytes_per_row + 4.0 * self.plan.candidates * self.dim

    def flops(self) -> float:
        if self.plan is None:
            return 2.0 * self.rows * self.dim
        return 2.0 * self.dim * (self.plan.partitions + self._read_rows() + self.plan.candidates)

    def _read_rows(self) -> float:
        assert self.plan is not None
        return self.rows * self.plan.probes / self.plan.partitions


class FaissFlat:
    """faiss that looks at all."""

    looks_at_all = True
    slow_in_batches = False
    build_seconds = 0.0

    def __init__(self, index: faiss.IndexFlatIP, *, threads: int) -> None:
        self.index, self.threads, self.pools = index, threads, ThreadpoolController()
        self.name = f"faiss flat, {threads} thread{'s' if threads > 1 else ''}"
        self.bytes_per_row = 4.0 * int(index.d)

    @staticmethod
    def of(rows_NE: Vectors, *threads: int) -> list[FaissFlat]:
        """One copy of the rows, asked with so many threads each."""
        index = faiss.IndexFlatIP(rows_NE.shape[1])
        index.add(rows_NE)
        return [FaissFlat(index, threads=count) for count in threads]

    def ask(self, queries_QE: Vectors) -> Places:
        return _ask_faiss(self.index, queries_QE, self.threads, self.pools)

    def tune(self, queries_QE: Vectors, truth_QK: Places, target: float) -> None:
        pass

    def bytes_read(self) -> float:
        return self.bytes_per_row * int(self.index.ntotal)

    def flops(self) -> float:
        return 2.0 * float(self.index.ntotal) * float(self.index.d)


class FaissGraph:
    """faiss's HNSW over full vectors, tuned with some of the queries that it is then asked."""

    looks_at_all = False
    slow_in_batches = False

    def __init__(self, rows_NE: Vectors, threads: int, most_seconds: float) -> None:
        """Builds the graph, or stops when the time is over; see `is_whole`."""
        self.index = faiss.IndexHNSWFlat(rows_NE.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = _BUILT_WITH
        self.threads, self.pools = threads, ThreadpoolController()
        begun = time.perf_counter()
        self.build_seconds = 0.0
        with _faiss_threads(threads):
            for start in range(0, len(rows_NE), _ADDED_ROWS):
                if self.build_seconds >= most_seconds:
                    break
                self.index.add(rows_NE[start : start + _ADDED_ROWS])
                self.build_seconds = time.perf_counter() - begun
        self.is_whole = self.index.ntotal == len(rows_NE)
        links = 4.0 * self.index.hnsw.neighbors.size() + 8.0 * self.index.hnsw.offsets.size()
        self.bytes_per_row = 4.0 * rows_NE.shape[1] + links / len(rows_NE)
        self.compared = 0.0
        self.name = f"faiss HNSW, M {_LINKS}"

    def ask(self, queries_QE: Vectors) -> Places:
        return _ask_faiss(self.index, queries_QE, self.threads, self.pools)

    def tune(self, queries_QE: Vectors, truth_QK: Places, target: float) -> None:
        for candidates in _SEARCHED_WITH:
            self.index.hnsw.efSearch = candidates
            statistics = faiss.cvar
            statistics.hnsw_stats.reset()
            answers_QK = self.ask(queries_QE)
            self.compared = statistics.hnsw_stats.ndis / len(queries_QE)
            found = sum(len(np.intersect1d(a, b)) for a, b in zip(answers_QK, truth_QK, strict=True))
            if found >= target * truth_QK.size:
                break
        self.name = f"faiss HNSW, M {_LINKS}, efSearch {candidates}"

    def bytes_read(self) -> float:
        return self.compared * 4.0 * float(self.index.d)

    def flops(self) -> float:
        return self.compared * 2.0 * float(self.index.d)


@contextmanager
def _faiss_threads(threads: int) -> Iterator[None]:
    """So many threads for faiss, and then as many as before: torch's are counted by the same library."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _ask_faiss(index: faiss.Index, queries_QE: Vectors, threads: int, pools: ThreadpoolController) -> Places:
    with _faiss_threads(threads), pools.limit(limits=threads):  # the pools are those of its matrix products
        return np.asarray(index.search(queries_QE, K)[1], dtype=np.int64)
