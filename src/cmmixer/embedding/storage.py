"""Unit vectors in fewer bytes: bfloat16, or int8 with a scale for each vector.

    bf16    the upper half of a float32, rounded to even: 8 significant bits             kept as uint16
    int8    round(127 x / max |x|); times the scale 1 / |q| it is a unit vector again    kept as int8 and a float32

Reading gives unit vectors whatever the storage: rounding moves their ends off the sphere, so they are made unit length again.

Letters: N vectors, E values of each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
ARROW_TYPES = {"fp32": pa.float32(), "bf16": pa.uint16(), "int8": pa.int8()}
_LARGEST = 127


class Stored(NamedTuple):
    """Vectors as they are kept: `values_NE` float32, uint16 or int8, and for int8 what each is multiplied with."""

    values_NE: NDArray[Any]
    scale_N: Vectors | None = None


def stored(vectors_NE: Vectors, kind: str) -> Stored:
    """Unit vectors, to be kept as `kind`.

    Args:
        vectors_NE: float32, finite.
        kind: fp32, bf16 or int8.
    """
    if kind == "bf16":
        bits_NE = np.ascontiguousarray(vectors_NE, np.float32).view(np.uint32)
        # To the nearest upper half; the even one where two are equally near.
        return Stored(((bits_NE + 0x7FFF + (bits_NE >> 16 & 1)) >> 16).astype(np.uint16))
    if kind == "int8":
        largest_N1 = np.abs(vectors_NE).max(axis=1, keepdims=True)
        values_NE = np.rint(vectors_NE * (_LARGEST / np.maximum(largest_N1, 1e-30))).astype(np.int8)
        return Stored(values_NE, np.float32(1.0) / _lengths(values_NE))
    return Stored(np.asarray(vectors_NE, np.float32))


def restored(kept: Stored, kind: str) -> Vectors:
    """Unit vectors, float32 [N, E], of what `stored` gave."""
    if kind == "bf16":
        vectors_NE: Vectors = (kept.values_NE.astype(np.uint32) << 16).view(np.float32)
        return vectors_NE / _lengths(vectors_NE)[:, None]
    if kind == "int8":
        assert kept.scale_N is not None
        return kept.values_NE.astype(np.float32) * kept.scale_N[:, None]
    return np.asarray(kept.values_NE, np.float32)


def _lengths(values_NE: NDArray[Any]) -> Vectors:
    return np.asarray(np.maximum(np.linalg.norm(values_NE.astype(np.float32), axis=1), 1e-30), dtype=np.float32)
