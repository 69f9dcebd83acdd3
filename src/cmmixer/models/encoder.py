"""The ViT encoder of strips; only visible tokens go through it.

Letters: B clips, C channels, H x S pixels of a strip, L tokens, N visible tokens, P = p * p * C numbers of a patch,
D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cmmixer.config.presets import ModelSettings
from cmmixer.models.layers import NORM_EPS, Block, initialise
from cmmixer.models.linear import Linear
from cmmixer.models.masking import gather_tokens, keep_count, shuffle
from cmmixer.models.positions import sincos_positions
from cmmixer.models.strip import Grid, patchify, strip_grid


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
