"""A baseline after CAV-MAE (arXiv 2210.07839), written from its formulas: reconstruction and contrast, jointly.

    E_v, E_a: blocks of each sense;  E_j: one block for both, whose layer norms belong to the stream that passes
    c_v = mean(E_j(E_v(v visible); norms of v)),  c_a likewise
    L_c = -1/N sum_i log [exp(s_ii / t) / sum_k exp(s_ik / t)],  s = cosine, t = 0.05
    x = E_j([E_v(v visible), E_a(a visible)]; norms of both);  L_r = MSE(v masked) + MSE(a masked)
    L = L_r + 0.01 L_c

Temperature, weight and standardised targets (norm_pix) are those of its public code. Ours in what it leaves open: the strips, positions, encoder blocks and decoder of the other rows, so that only the method
differs. The contrast is symmetric, as in all rows. Both senses go through the network in every step, so a step costs more
than one of `mixed`; minutes stand in the table.

Letters: B clips, L tokens of a sense, N visible ones, P numbers of a patch, D width.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from cmmixer.config.clip import ModelSettings
from cmmixer.models.losses import info_nce
from cmmixer.models.mae import CHANNELS, masked_mse, standardised
from cmmixer.models.onednn import Linear
from cmmixer.models.patches import Grid, gather_tokens, keep_count, pictures_to_patches, shuffle, strip_grid
from cmmixer.models.vit import NORM_EPS, Block, StripEncoder, initialise, sincos_positions

CONTRAST_WEIGHT, TEMPERATURE = 0.01, 0.05
SENSES = ("video", "audio")


class ContrastiveAutoencoder(nn.Module):
    """Two encoders whose last block's attention and MLP are one, a joint decoder, and a contrast between the two."""

    def __init__(self, model: ModelSettings, *, norm_pix: bool = False) -> None:
        super().__init__()
        self.patch, self.norm_pix = model.patch, norm_pix
        self.encoders = nn.ModuleDict({sense: StripEncoder(model) for sense in SENSES})
        own = self.encoders["video"].blocks[-1]
        self.joint, self.joint_norm = Block(model.dim, model.heads), nn.LayerNorm(model.dim, eps=NORM_EPS)
        for block in (self.encoders["audio"].blocks[-1], self.joint):
            block.attention, block.mlp = own.attention, own.mlp
        self.modality = nn.ParameterDict({sense: nn.Parameter(torch.empty(model.dim)) for sense in SENSES})
        self.embed = Linear(model.dim, model.decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(model.decoder_dim))
        self.decoder_modality = nn.ParameterDict(
            {sense: nn.Parameter(torch.empty(model.decoder_dim)) for sense in SENSES}
        )
        self.decoder = nn.ModuleList(Block(model.decoder_dim, model.decoder_heads) for _ in range(model.decoder_depth))
        self.decoder_norm = nn.LayerNorm(model.decoder_dim, eps=NORM_EPS)
        self.heads = nn.ModuleDict({sense: Linear(model.decoder_dim, model.patch**2 * CHANNELS) for sense in SENSES})
        for module in (self.embed, self.decoder, self.decoder_norm, self.heads, self.joint_norm):
            module.apply(initialise)
        for vector in (self.mask_token, *self.modality.values(), *self.decoder_modality.values()):
            nn.init.normal_(vector, std=0.02)

    def forward(self, video_BTCHW: Tensor, audio_BTCHW: Tensor, mask_ratio: float, generator: Generator) -> Tensor:
        """The loss of a batch of pairs."""
        batch, frames, _, height, width = video_BTCHW.shape
        grid = strip_grid(height, width, frames, self.patch)
        patches = {
            "video": pictures_to_patches(video_BTCHW, self.patch),
            "audio": pictures_to_patches(audio_BTCHW, self.patch),
        }
        hidden = {
            sense: shuffle(_noise(batch, grid, generator), keep_count(grid.tokens, mask_ratio)) for sense in SENSES
        }
        before = {sense: self._own_blocks(sense, patches[sense], grid, hidden[sense].keep_BN) for sense in SENSES}
        video, audio = (functional.normalize(self._alone(sense, before[sense]).mean(1), dim=-1) for sense in SENSES)
        contrast = info_nce(video, audio, 1.0 / TEMPERATURE)
        visible = before["video"].shape[1]
        together = self.joint_norm(self.joint(torch.cat([before["video"], before["audio"]], dim=1)))
        parts = dict(zip(SENSES, together.split(visible, dim=1), strict=True))
        rows = [self._with_masks(sense, parts[sense], grid, hidden[sense].restore_BL) for sense in SENSES]
        decoded = torch.cat(rows, dim=1)
        for block in self.decoder:
            decoded = block(decoded)
        back = dict(zip(SENSES, self.decoder_norm(decoded).split(grid.tokens, dim=1), strict=True))
        reconstruction = sum(
            masked_mse(
                self.heads[sense](back[sense]),
                standardised(patches[sense]) if self.norm_pix else patches[sense],
                hidden[sense].mask_BL,
            )
            for sense in SENSES
        )
        return reconstruction + CONTRAST_WEIGHT * contrast

    def towers(self) -> dict[str, dict[str, Tensor]]:
        """The state of an encoder for each sense: its own blocks, then the joint one with its norms.

        The sense's vector, which is added to every token, goes into the bias of the patches' embedding.
        """
        states = {sense: dict(self.encoders[sense].state_dict()) for sense in SENSES}
        for sense, state in states.items():
            state["embed.bias"] = state["embed.bias"] + self.modality[sense].detach()
        return states

    def _own_blocks(self, sense: str, patches_BLP: Tensor, grid: Grid, keep_BN: Tensor) -> Tensor:
        encoder = self.encoders[sense]
        positions = sincos_positions(*grid, encoder.model.dim, patches_BLP.device).expand(len(patches_BLP), -1, -1)
        tokens = encoder.embed(gather_tokens(patches_BLP, keep_BN)) + gather_tokens(positions, keep_BN)
        tokens = tokens + self.modality[sense]
        for block in encoder.blocks[:-1]:
            tokens = block(tokens)
        return tokens

    def _alone(self, sense: str, tokens_BND: Tensor) -> Tensor:
        encoder = self.encoders[sense]
        return encoder.norm(encoder.blocks[-1](tokens_BND))

    def _with_masks(self, sense: str, tokens_BND: Tensor, grid: Grid, restore_BL: Tensor) -> Tensor:
        tokens = self.embed(tokens_BND)
        fill = self.mask_token.expand(len(tokens), grid.tokens - tokens.shape[1], -1)
        tokens = gather_tokens(torch.cat([tokens, fill], dim=1), restore_BL)
        return tokens + sincos_positions(*grid, tokens.shape[2], tokens.device) + self.decoder_modality[sense]


def _noise(batch: int, grid: Grid, generator: Generator) -> Tensor:
    return torch.rand(batch, grid.tokens, generator=generator, device=generator.device)
