"""The ViT encoder of strips (arXiv 2010.11929): patch embedding, sine-cosine positions, pre-norm transformer blocks.

Only visible tokens pass through the encoder, as in MAE (arXiv 2111.06377). Positions are computed, not stored, so that they
follow the length of the strip.

Letters: B clips, C channels, H x S pixels of a strip, R x K grid of patches, L = R * K tokens in row-major order, N visible
tokens, P = p * p * C numbers of a patch, D width, h heads, d = D / h.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cmmixer.config.clip import ModelSettings
from cmmixer.models.onednn import Linear
from cmmixer.models.patches import Grid, gather_tokens, keep_count, patchify_strip, shuffle, strip_grid

MLP_RATIO = 4
NORM_EPS = 1e-6

# The fused CPU kernel does not use the CPU's bfloat16 products. For 197 tokens the plain formula takes a quarter of its time,
# for 785 tokens two thirds, if only so many queries are scored at once that the scores stay in the caches (torch 2.13,
# AVX-512 with bfloat16, forward and backward, docs/lab-notebook.md). The plain formula keeps all scores for the backward
# pass, hence the limit.
PLAIN_TOKENS, PLAIN_QUERIES = 1024, 256


class Encoded(NamedTuple):
    """The result of the encoder.

    Attributes:
        tokens_BND: [B, 1 + N, D], the cls token, then the visible tokens; without masking in the order of the grid.
        mask_BL: float32, 1 where a token was dropped; None without masking.
        ids_restore_BL: position of each token in the shuffled order; None without masking.
    """

    tokens_BND: Tensor
    mask_BL: Tensor | None
    ids_restore_BL: Tensor | None


class StripEncoder(nn.Module):
    """A ViT over the patches of a strip.

    Args:
        model: sizes.
        in_channels: C.
    """

    def __init__(self, model: ModelSettings, in_channels: int = 3) -> None:
        super().__init__()
        self.model = model
        # A linear map of flat patches equals the convolution with stride p, and can skip the dropped patches.
        self.embed = Linear(model.patch**2 * in_channels, model.dim)
        self.cls = nn.Parameter(torch.empty(model.dim))
        self.blocks = nn.ModuleList(Block(model.dim, model.heads) for _ in range(model.depth))
        self.norm = nn.LayerNorm(model.dim, eps=NORM_EPS)
        self.apply(initialize)
        nn.init.normal_(self.cls, std=0.02)

    def forward(self, strip_BCHS: Tensor, *, mask_ratio: float = 0.0, noise: Tensor | None = None) -> Encoded:
        """Encodes strips.

        Args:
            strip_BCHS: normalized strips.
            mask_ratio: fraction of the tokens to drop.
            noise: [B, L], required if `mask_ratio` is above 0; the tokens with the least noise stay.

        Raises:
            ValueError: the strip is not a whole number of patches, or noise is missing.
        """
        grid = strip_grid(strip_BCHS.shape[2], strip_BCHS.shape[3], 1, self.model.patch)
        return self.encode(patchify_strip(strip_BCHS, self.model.patch), grid, mask_ratio=mask_ratio, noise=noise)

    def encode(
        self, patches_BLP: Tensor, grid: Grid, *, mask_ratio: float = 0.0, noise: Tensor | None = None
    ) -> Encoded:
        """Encodes strips that are already cut into patches; see `forward`."""
        # Sizes, not len(): exporters keep a size symbolic, but fix a length.
        positions_LD = sincos_positions(*grid, self.model.dim, patches_BLP.device)
        positions_BLD = positions_LD.expand(patches_BLP.shape[0], -1, -1)
        mask_BL = ids_restore_BL = None
        if mask_ratio > 0.0:
            if noise is None:
                raise ValueError(f"mask_ratio {mask_ratio} needs noise [B, L]")
            keep_BN, mask_BL, ids_restore_BL = shuffle(noise, keep_count(grid.tokens, mask_ratio))
            # Dropped before the embedding, which then costs a quarter at the usual ratio.
            patches_BLP = gather_tokens(patches_BLP, keep_BN)
            positions_BLD = gather_tokens(positions_BLD, keep_BN)
        tokens_BND = self.embed(patches_BLP) + positions_BLD
        tokens_BND = torch.cat([self.cls.to(tokens_BND.dtype).expand(tokens_BND.shape[0], 1, -1), tokens_BND], dim=1)
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return Encoded(self.norm(tokens_BND), mask_BL, ids_restore_BL)


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)); [B, L, D] -> [B, L, D].

    Attributes:
        recompute: store only the input for the backward pass and compute the rest again there (activation checkpointing,
            arXiv 1604.06174).
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
            # Inside the block and not around it, so that a sharded block gathers its weights once for both.
            recomputed: Tensor = checkpoint(self._forward, tokens_BLD, use_reentrant=False, preserve_rng_state=False)
            return recomputed
        return self._forward(tokens_BLD)

    def _forward(self, tokens_BLD: Tensor) -> Tensor:
        tokens_BLD = tokens_BLD + self.attention(self.norm_1(tokens_BLD))
        out: Tensor = tokens_BLD + self.mlp(self.norm_2(tokens_BLD))
        return out


class Attention(nn.Module):
    """Multi-head self-attention: [B, L, D] -> [B, L, D].

    Raises:
        ValueError: `dim` is not divisible by `heads`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is not divisible by {heads} heads")
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


def attend(query_BhLd: Tensor, key_BhLd: Tensor, value_BhLd: Tensor) -> Tensor:
    """Computes softmax(q k' / sqrt(d)) v, [B, h, L, d], with the fused kernel or, where it is faster, the plain formula."""
    if query_BhLd.device.type == "cpu" and query_BhLd.dtype == torch.bfloat16 and query_BhLd.shape[2] <= PLAIN_TOKENS:
        parts = [
            _attend(part_BhQd, key_BhLd, value_BhLd) for part_BhQd in torch.split(query_BhLd, PLAIN_QUERIES, dim=2)
        ]
        return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
    return functional.scaled_dot_product_attention(query_BhLd, key_BhLd, value_BhLd)


def _attend(query_BhQd: Tensor, key_BhLd: Tensor, value_BhLd: Tensor) -> Tensor:
    scores_BhQL = (query_BhQd * query_BhQd.shape[3] ** -0.5) @ key_BhLd.transpose(2, 3)
    out_BhQd: Tensor = scores_BhQL.softmax(dim=3).to(value_BhLd.dtype) @ value_BhLd
    return out_BhQd


def sincos_positions(rows: int, cols: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Computes sine-cosine positions of a grid, [L, D] float32: the first D / 2 from the column, the rest from the row.

    As in MAE (arXiv 2111.06377). Only R + K vectors of sines are computed; the grid is their outer combination.

    Raises:
        ValueError: `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"sine-cosine positions of two axes need a width divisible by 4; got {dim}")
    of_col = _sincos(cols, dim // 2, device).unsqueeze(0).expand(rows, -1, -1)
    of_row = _sincos(rows, dim // 2, device).unsqueeze(1).expand(-1, cols, -1)
    return torch.cat([of_col, of_row], dim=2).flatten(0, 1).to(torch.float32)


def _sincos(count: int, dim: int, device: torch.device | None) -> Tensor:
    """[count, dim]: sin, then cos, of n * 10000^(-i / (dim / 2)), i = 0 .. dim / 2 - 1 (arXiv 1706.03762, 3.5)."""
    half = dim // 2
    # In float64: the angles of a long strip have few digits left in float32.
    rate = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    angle = torch.arange(count, dtype=torch.float64, device=device).unsqueeze(1) * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def initialize(module: nn.Module) -> None:
    """Initializes a layer as MAE does: linear layers Glorot uniform with zero bias, layer norms 1 and 0.

    For `Module.apply`.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def speed_up(network: nn.Module, *, compiled: bool, recompute: bool) -> None:
    """Sets how the blocks of a network compute. Weights and their names do not change.

    Args:
        network: any module that contains `Block`s.
        compiled: compile block by block. Blocks of the same size share the code, and wrappers of the network (data
            parallelism, sharding) stay outside of it.
        recompute: see `Block`.
    """
    for module in network.modules():
        if isinstance(module, Block):
            module.recompute = recompute
            if compiled:
                # Encoder and decoder have different sizes. One code for all sizes would be slower for both.
                module.compile(dynamic=False)
