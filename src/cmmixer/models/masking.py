"""Random masking of tokens (arXiv 2111.06377): a shuffle by noise, of which the first tokens stay.

Letters: B clips, L tokens, N tokens that stay, D width of a token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def keep_count(tokens: int, mask_ratio: float) -> int:
    """How many of `tokens` stay: the nearest whole number, at least one."""
    return max(1, round(tokens * (1.0 - mask_ratio)))


def gather_tokens(tokens_BLD: Tensor, ids_BN: Tensor) -> Tensor:
    """[B, L, D], [B, N] -> [B, N, D]: the tokens of these numbers."""
    return tokens_BLD.gather(1, ids_BN.unsqueeze(2).expand(-1, -1, tokens_BLD.shape[2]))


class Shuffle(NamedTuple):
    """Which tokens stay.

    Attributes:
        keep_BN: int64, the tokens that stay, least noise first.
        mask_BL: float32, 1 where a token is dropped.
        restore_BL: int64, the place of token l in the shuffled order; below N it is visible.
    """

    keep_BN: Tensor
    mask_BL: Tensor
    restore_BL: Tensor


def shuffle(noise_BL: Tensor, keep: int) -> Shuffle:
    """The `keep` tokens of least noise stay, in each clip."""
    # Stable, so that equal noise gives the same order everywhere.
    order_BL = torch.argsort(noise_BL, dim=1, stable=True)
    restore_BL = torch.argsort(order_BL, dim=1)
    return Shuffle(order_BL[:, :keep], (restore_BL >= keep).to(torch.float32), restore_BL)


def random_masking(tokens_BLD: Tensor, keep: int, noise_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keeps, in each clip, the `keep` tokens of least noise.

    Returns:
        The visible tokens [B, N, D], and `mask_BL` and `restore_BL` of `Shuffle`.
    """
    keep_BN, mask_BL, restore_BL = shuffle(noise_BL, keep)
    return gather_tokens(tokens_BLD, keep_BN), mask_BL, restore_BL
