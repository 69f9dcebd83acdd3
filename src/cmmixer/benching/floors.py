"""What the machine can do at best, measured beside whatever is compared with it.

A search cannot be faster than its bytes come out of memory, nor than its products are multiplied; these are the two rates.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

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
