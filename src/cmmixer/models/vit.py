"""The pre-norm transformer block of a ViT (arXiv 2010.11929), with PyTorch's fused attention.

Letters: B clips, L tokens, D width, h heads.

The ViT encoder of strips; only visible tokens go through it.

Letters: B clips, C channels, H x S pixels of a strip, L tokens, N visible tokens, P = p * p * C numbers of a patch,
D width.

Sine-cosine positions of a rectangular grid, computed, not stored, so that they follow the strip's length.

Letters: R x K grid, L = R * K tokens in row-major order, D width of a token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cmmixer.config.clip import ModelSettings
from cmmixer.models.onednn import Linear
from cmmixer.models.patches import Grid, gather_tokens, keep_count, patchify, shuffle, strip_grid

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


class Encoded(NamedTuple):
    """What the encoder gives.

    Attributes:
        tokens_BND: [B, 1 + N, D], the cls token first, then the visible tokens; without masking in the grid's order.
        mask_BL: float32, 1 where a token was dropped; None without masking.
        ids_restore_BL: place of every token in the shuffled order; None without masking.
    """

    tokens_BND: Tensor
    mask_BL: Tensor | None
    ids_restore_BL: Tensor | None


class StripEncoder(nn.Module):
    """ViT over the patches of a strip: sine-cosine positions, cls token, pre-norm blocks, final norm."""

    def __init__(self, model: ModelSettings, in_channels: int = 3) -> None:
        super().__init__()
        self.model = model
        # A linear map of flat patches is the convolution of stride p, and can be kept from dropped patches.
        self.embed = Linear(model.patch**2 * in_channels, model.dim)
        self.cls = nn.Parameter(torch.empty(model.dim))
        self.blocks = nn.ModuleList(Block(model.dim, model.heads) for _ in range(model.depth))
        self.norm = nn.LayerNorm(model.dim, eps=NORM_EPS)
        self.apply(initialise)
        nn.init.normal_(self.cls, std=0.02)

    def forward(self, strip_BCHS: Tensor, *, mask_ratio: float = 0.0, noise: Tensor | None = None) -> Encoded:
        """Encodes strips.

        Args:
            strip_BCHS: standardised strips.
            mask_ratio: part of the tokens that is dropped.
            noise: [B, L]; the tokens of least noise stay. Needed where `mask_ratio` is above 0.

        Raises:
            ValueError: the strip is no whole number of patches, or noise is missing.
        """
        grid = strip_grid(strip_BCHS.shape[2], strip_BCHS.shape[3], 1, self.model.patch)
        return self.encode(patchify(strip_BCHS, self.model.patch), grid, mask_ratio=mask_ratio, noise=noise)

    def encode(
        self, patches_BLP: Tensor, grid: Grid, *, mask_ratio: float = 0.0, noise: Tensor | None = None
    ) -> Encoded:
        """As `forward`, for strips that are patches already."""
        # Sizes, not len(): exporters keep a size open, but fix a length.
        positions_LD = sincos_positions(*grid, self.model.dim, patches_BLP.device)
        positions_BLD = positions_LD.expand(patches_BLP.shape[0], -1, -1)
        mask_BL = ids_restore_BL = None
        if mask_ratio > 0.0:
            if noise is None:
                raise ValueError(f"mask_ratio {mask_ratio} needs noise [B, L]: chance is an argument")
            keep_BN, mask_BL, ids_restore_BL = shuffle(noise, keep_count(grid.tokens, mask_ratio))
            # Dropped before the embedding, which then costs a quarter at the usual ratio.
            patches_BLP = gather_tokens(patches_BLP, keep_BN)
            positions_BLD = gather_tokens(positions_BLD, keep_BN)
        tokens_BND = self.embed(patches_BLP) + positions_BLD
        tokens_BND = torch.cat([self.cls.to(tokens_BND.dtype).expand(tokens_BND.shape[0], 1, -1), tokens_BND], dim=1)
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return Encoded(self.norm(tokens_BND), mask_BL, ids_restore_BL)
