"""A control after CAV-MAE (arXiv 2210.07839), written from its formulas: joint reconstruction and contrastive learning.

    E_v, E_a: blocks of each modality;  E_j: one block for both, with layer norms per stream
    c_v = mean(E_j(E_v(v visible); norms of v)),  c_a likewise
    L_c = -1/N sum_i log [exp(s_ii / t) / sum_k exp(s_ik / t)],  s = cosine, t = 0.05
    x = E_j([E_v(v visible), E_a(a visible)]; norms of both);  L_r = MSE(v masked) + MSE(a masked)
    L = L_r + 0.01 L_c

Temperature, weight and normalized targets (norm_pix) are those of its public code. Strips, positions, encoder blocks and decoder are
those of the other cells, so that only the method differs. The contrastive loss is symmetric, as in all cells. Both modalities pass
through the network in every step, so a step costs more than one of `mixed`; the table has the cost.

Letters: B clips, L tokens of a modality, N visible ones, P numbers of a patch, D width.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from cmmixer.config.clip import ModelSettings
from cmmixer.models.losses import info_nce
from cmmixer.models.mae import CHANNELS, masked_mse, normalize_patches
from cmmixer.models.onednn import Linear
from cmmixer.models.patches import Grid, gather_tokens, keep_count, patchify, shuffle, strip_grid
from cmmixer.models.vit import NORM_EPS, Block, StripEncoder, initialize, sincos_positions

CONTRASTIVE_WEIGHT, TEMPERATURE = 0.01, 0.05
MODALITIES = ("video", "audio")


class ContrastiveAutoencoder(nn.Module):
    """Two encoders that share attention and MLP of the last block, a joint decoder, and a contrastive loss."""

    def __init__(self, model: ModelSettings, *, norm_pix: bool = False) -> None:
        super().__init__()
        self.patch, self.norm_pix = model.patch, norm_pix
        self.encoders = nn.ModuleDict({modality: StripEncoder(model) for modality in MODALITIES})
        own = self.encoders["video"].blocks[-1]
        self.joint, self.joint_norm = Block(model.dim, model.heads), nn.LayerNorm(model.dim, eps=NORM_EPS)
        for block in (self.encoders["audio"].blocks[-1], self.joint):
            block.attention, block.mlp = own.attention, own.mlp
        self.modality = nn.ParameterDict({modality: nn.Parameter(torch.empty(model.dim)) for modality in MODALITIES})
        self.embed = Linear(model.dim, model.decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(model.decoder_dim))
        self.decoder_modality = nn.ParameterDict(
            {modality: nn.Parameter(torch.empty(model.decoder_dim)) for modality in MODALITIES}
        )
        self.decoder = nn.ModuleList(Block(model.decoder_dim, model.decoder_heads) for _ in range(model.decoder_depth))
        self.decoder_norm = nn.LayerNorm(model.decoder_dim, eps=NORM_EPS)
        self.heads = nn.ModuleDict(
            {modality: Linear(model.decoder_dim, model.patch**2 * CHANNELS) for modality in MODALITIES}
        )
        for module in (self.embed, self.decoder, self.decoder_norm, self.heads, self.joint_norm):
            module.apply(initialize)
        for vector in (self.mask_token, *self.modality.values(), *self.decoder_modality.values()):
            nn.init.normal_(vector, std=0.02)

    def forward(self, video_BTCHW: Tensor, audio_BTCHW: Tensor, mask_ratio: float, generator: Generator) -> Tensor:
        """Returns the loss of a batch of pairs."""
        batch, frames, _, height, width = video_BTCHW.shape
        grid = strip_grid(height, width, frames, self.patch)
        patches = {
            "video": patchify(video_BTCHW, self.patch),
            "audio": patchify(audio_BTCHW, self.patch),
        }
        orders = {
            modality: shuffle(_noise(batch, grid, generator), keep_count(grid.tokens, mask_ratio))
            for modality in MODALITIES
        }
        encoded = {
            modality: self._own_blocks(modality, patches[modality], grid, orders[modality].keep_BN)
            for modality in MODALITIES
        }
        video, audio = (
            functional.normalize(self._contrastive_features(modality, encoded[modality]).mean(1), dim=-1)
            for modality in MODALITIES
        )
        contrastive = info_nce(video, audio, 1.0 / TEMPERATURE)
        visible = encoded["video"].shape[1]
        joint = self.joint_norm(self.joint(torch.cat([encoded["video"], encoded["audio"]], dim=1)))
        parts = dict(zip(MODALITIES, joint.split(visible, dim=1), strict=True))
        rows = [
            self._with_mask_tokens(modality, parts[modality], grid, orders[modality].restore_BL)
            for modality in MODALITIES
        ]
        decoded = torch.cat(rows, dim=1)
        for block in self.decoder:
            decoded = block(decoded)
        predicted = dict(zip(MODALITIES, self.decoder_norm(decoded).split(grid.tokens, dim=1), strict=True))
        reconstruction = sum(
            masked_mse(
                self.heads[modality](predicted[modality]),
                normalize_patches(patches[modality]) if self.norm_pix else patches[modality],
                orders[modality].mask_BL,
            )
            for modality in MODALITIES
        )
        return reconstruction + CONTRASTIVE_WEIGHT * contrastive

    def towers(self) -> dict[str, dict[str, Tensor]]:
        """Returns the state of an encoder per modality: its own blocks, then the joint block with its norms.

        The modality vector, which is added to every token, is folded into the bias of the patch embedding.
        """
        states = {modality: dict(self.encoders[modality].state_dict()) for modality in MODALITIES}
        for modality, state in states.items():
            state["embed.bias"] = state["embed.bias"] + self.modality[modality].detach()
        return states

    def _own_blocks(self, modality: str, patches_BLP: Tensor, grid: Grid, keep_BN: Tensor) -> Tensor:
        encoder = self.encoders[modality]
        positions = sincos_positions(*grid, encoder.model.dim, patches_BLP.device).expand(len(patches_BLP), -1, -1)
        tokens = encoder.embed(gather_tokens(patches_BLP, keep_BN)) + gather_tokens(positions, keep_BN)
        tokens = tokens + self.modality[modality]
        for block in encoder.blocks[:-1]:
            tokens = block(tokens)
        return tokens

    def _contrastive_features(self, modality: str, tokens_BND: Tensor) -> Tensor:
        encoder = self.encoders[modality]
        return encoder.norm(encoder.blocks[-1](tokens_BND))

    def _with_mask_tokens(self, modality: str, tokens_BND: Tensor, grid: Grid, restore_BL: Tensor) -> Tensor:
        tokens = self.embed(tokens_BND)
        fill = self.mask_token.expand(len(tokens), grid.tokens - tokens.shape[1], -1)
        tokens = gather_tokens(torch.cat([tokens, fill], dim=1), restore_BL)
        return tokens + sincos_positions(*grid, tokens.shape[2], tokens.device) + self.decoder_modality[modality]


def _noise(batch: int, grid: Grid, generator: Generator) -> Tensor:
    return torch.rand(batch, grid.tokens, generator=generator, device=generator.device)
