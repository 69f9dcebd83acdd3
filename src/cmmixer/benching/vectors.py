"""Unit vectors that lie as those of a library of films do, for measuring search without a library of a million films.

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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
