"""The pre-norm transformer block of a ViT (arXiv 2010.11929), with PyTorch's fused attention.

Letters: B clips, L tokens, D width, h heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cmmixer.models.linear import Linear

MLP_RATIO = 4
NORM_EPS = 1e-6
# The fused kernel for processors does not use their bfloat16 products. Of 197 tokens the plain formula takes a quarter of its
# time, of 785 two thirds if the scores of so many queries are made at a time as stay in the caches (torch 2.13, AVX-512 with
# bfloat16, forward and backward, docs/lab-notebook.md). It keeps all scores for the backward pass, so not for any length.
PLAIN_TOKENS, PLAIN_QUERIES = 1024, 256


def attend(query_BhLd: Tensor, key_BhLd: Tensor, value_BhLd: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v, [B, h, L, d], by the fused kernel, or by three plain ones where those are faster."""
    if query_BhLd.device.type == "cpu" and query_BhLd.dtype == torch.bfloat16 and query_BhLd.shape[2] <= PLAIN_TOKENS:
        parts = [
            _attend(part_BhQd, key_BhLd, value_BhLd) for part_BhQd in torch.split(query_BhLd, PLAIN_QUERIES, dim=2)
        ]
        return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
    return functional.scaled_dot_product_attention(query_BhLd, key_BhLd, value_BhLd)


def _attend(query_BhQd: Tensor, key_BhLd: Tensor, value_BhLd: Tensor) -> Tensor:
    scores_BhQL = (query_BhQd * query_BhQd.shape[3] ** -0.5) @ key_BhLd.transpose(2, 3)
    plain: Tensor = scores_BhQL.softmax(dim=3).to(value_BhLd.dtype) @ value_BhLd
    return plain


class Attention(nn.Module):
    """Multi-head self-attention: [B, L, D] -> [B, L, D]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} cannot be shared by {heads} heads")
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        query, key, value = (
            torch.unflatten(part_BLD, 2, (self.heads, -1)).transpose(1, 2)
            for part_BLD in self.qkv(tokens_BLD).chunk(3, dim=2)
        )
        mixed_BhLd = attend(query, key, value)
        out: Tensor = self.out(mixed_BhLd.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): [B, L, D] -> [B, L, D].

    Attributes:
        recompute: keep nothing for the backward pass but the input, and compute the rest again there (activation
            checkpointing, arXiv 1604.06174).
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.recompute = False
        self.norm_1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attention = Attention(dim, heads)
        self.norm_2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = nn.Sequential(Linear(dim, MLP_RATIO * dim), nn.GELU(), Linear(MLP_RATIO * dim, dim))

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            # In here and not around the block, so that a sliced block's weights are gathered once for both.
            again: Tensor = checkpoint(self._both, tokens_BLD, use_reentrant=False, preserve_rng_state=False)
            return again
        return self._both(tokens_BLD)

    def _both(self, tokens_BLD: Tensor) -> Tensor:
        tokens_BLD = tokens_BLD + self.attention(self.norm_1(tokens_BLD))
        out: Tensor = tokens_BLD + self.mlp(self.norm_2(tokens_BLD))
        return out


def initialise(module: nn.Module) -> None:
    """Linear layers uniform by Glorot with zero bias, layer norms 1 and 0, as MAE does; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def speed_up(network: nn.Module, *, compiled: bool, recompute: bool) -> None:
    """Sets how a network's blocks compute; weights and their names stay as they are.

    Args:
        network: any with `Block` in it.
        compiled: by torch, block by block: all blocks of one size share the code, and whatever wraps a network (several
            processes, slices) stays outside of it.
        recompute: see `Block`.
    """
    for module in network.modules():
        if isinstance(module, Block):
            module.recompute = recompute
            if compiled:
                # Encoder and decoder have different sizes; one code for all sizes would be slower for both.
                module.compile(dynamic=False)
