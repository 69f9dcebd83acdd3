"""Sine-cosine positions of a rectangular grid, computed, not stored, so that they follow the strip's length.

Letters: R x K grid, L = R * K tokens in row-major order, D width of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _sincos(count: int, dim: int, device: torch.device | None) -> Tensor:
    """[count, dim]: sin then cos of n * 10000^(-i / (dim / 2)), i = 0 .. dim / 2 - 1 (arXiv 1706.03762, 3.5)."""
    half = dim // 2
    # float64 in between, as an angle of a long strip has few digits left in float32.
    rate = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    angle = torch.arange(count, dtype=torch.float64, device=device).unsqueeze(1) * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def sincos_positions(rows: int, cols: int, dim: int, device: torch.device | None = None) -> Tensor:
    """[L, D] float32: the first half of the width tells the column, the second half the row (as arXiv 2111.06377).

    Only R + K rows of sines are computed; the grid is their outer combination.

    Raises:
        ValueError: `dim` is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"sine-cosine positions of two axes need a width divisible by 4; got {dim}")
    of_col = _sincos(cols, dim // 2, device).unsqueeze(0).expand(rows, -1, -1)
    of_row = _sincos(rows, dim // 2, device).unsqueeze(1).expand(-1, cols, -1)
    return torch.cat([of_col, of_row], dim=2).flatten(0, 1).to(torch.float32)
