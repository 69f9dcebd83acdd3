"""The masked autoencoder of mixed strips: fuse, then separate (arXiv 2308.13820, on the masking of arXiv 2111.06377).

    mixed = (1 - share) * video + share * audio
    tokens = encoder(visible patches of mixed);  decoder(tokens + mask tokens) -> video patches, audio patches
    loss = video_weight * MSE(video) + audio_weight * MSE(audio), over masked patches only

Letters: B clips, T frames, C channels, H x W pixels, L tokens, N visible ones, P = p * p * C numbers of a patch, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cmmixer.config.clip import ClipSettings, ModelSettings
from cmmixer.models.onednn import Linear
from cmmixer.models.patches import Grid, gather_tokens, pictures_to_patches, strip_grid
from cmmixer.models.vit import NORM_EPS, Block, Encoded, StripEncoder, initialise, sincos_positions

CHANNELS = 3
# Keeps the spread of a flat patch from dividing by zero.
NORM_PIX_EPS = 1e-6


class MAEOutput(NamedTuple):
    """What the autoencoder gives.

    Attributes:
        loss: scalar, the weighted sum.
        loss_video, loss_audio: scalars, each modality's mean squared error on masked patches.
        prediction_video, prediction_audio: [B, L, P]; with `norm_pix`, of standardised patches.
        mask: [B, L] float32, 1 where the encoder saw nothing.
    """

    loss: Tensor
    loss_video: Tensor
    loss_audio: Tensor
    prediction_video: Tensor
    prediction_audio: Tensor
    mask: Tensor


class MaskedAutoencoder(nn.Module):
    """Gives back the clean video strip and the clean audio strip from the visible part of their mix."""

    def __init__(
        self,
        model: ModelSettings,
        clip: ClipSettings,
        *,
        norm_pix: bool = False,
        video_weight: float = 1.0,
        audio_weight: float = 1.0,
        interleave: bool = False,
    ) -> None:
        super().__init__()
        strip_grid(clip.height, clip.width, clip.frames, model.patch)  # refuses pictures that do not fit the patches
        self.patch, self.interleave, self.norm_pix = model.patch, interleave, norm_pix
        self.video_weight, self.audio_weight = video_weight, audio_weight
        self.encoder = StripEncoder(model, CHANNELS)
        self.decoder = Decoder(model)

    def forward(
        self,
        video_BTCHW: Tensor,
        audio_BTCHW: Tensor,
        share_BT1HW: Tensor,
        *,
        mask_ratio: float,
        noise_BL: Tensor | None = None,
    ) -> MAEOutput:
        """One pass, with its losses.

        Args:
            video_BTCHW, audio_BTCHW: standardised frames and mel pictures; T may be any.
            share_BT1HW: the part of each pixel that comes from the sound.
            mask_ratio: part of the tokens that the encoder does not see. With 0 the losses count every patch.
            noise_BL: the tokens of least noise stay visible; needed where `mask_ratio` is above 0.

        Raises:
            ValueError: the pictures are no whole number of patches, or noise is missing.
        """
        batch, frames, _, height, width = video_BTCHW.shape
        grid = strip_grid(height, width, frames, self.patch)
        video_BLP, audio_BLP = self.patches(video_BTCHW), self.patches(audio_BTCHW)
        mixed_BLP = _mix_patches(video_BLP, audio_BLP, self.patches(share_BT1HW))
        encoded = self.encoder.encode(mixed_BLP, grid, mask_ratio=mask_ratio, noise=noise_BL)
        prediction_video, prediction_audio = self.decoder(encoded, grid)
        mask = encoded.mask_BL
        if mask is None:
            mask = torch.ones(batch, grid.tokens, device=video_BTCHW.device)
        loss_video = masked_mse(prediction_video, self.target(video_BLP), mask)
        loss_audio = masked_mse(prediction_audio, self.target(audio_BLP), mask)
        loss = self.video_weight * loss_video + self.audio_weight * loss_audio
        return MAEOutput(loss, loss_video, loss_audio, prediction_video, prediction_audio, mask)

    def patches(self, pictures_BTCHW: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, L, P], the patches of the pictures' strip."""
        return pictures_to_patches(pictures_BTCHW, self.patch, self.interleave)

    def target(self, patches_BLP: Tensor) -> Tensor:
        """What is to be given back: the patches, with `norm_pix` each standardised by its own mean and spread."""
        return standardised(patches_BLP) if self.norm_pix else patches_BLP


class Decoder(nn.Module):
    """Narrow ViT over all places; two linear heads separate what the encoder fused."""

    def __init__(self, model: ModelSettings) -> None:
        super().__init__()
        self.dim = model.decoder_dim
        self.embed = Linear(model.dim, self.dim)
        self.mask_token = nn.Parameter(torch.empty(self.dim))
        self.blocks = nn.ModuleList(Block(self.dim, model.decoder_heads) for _ in range(model.decoder_depth))
        self.norm = nn.LayerNorm(self.dim, eps=NORM_EPS)
        self.video_head = Linear(self.dim, model.patch**2 * CHANNELS)
        self.audio_head = Linear(self.dim, model.patch**2 * CHANNELS)
        self.apply(initialise)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, encoded: Encoded, grid: Grid) -> tuple[Tensor, Tensor]:
        """Encoded tokens -> video patches and audio patches, each [B, L, P]."""
        tokens_BND = self.embed(encoded.tokens_BND)
        cls_B1D, tokens_BLD = tokens_BND[:, :1], tokens_BND[:, 1:]
        if encoded.ids_restore_BL is not None:
            dropped = grid.tokens - tokens_BLD.shape[1]
            fill = self.mask_token.to(tokens_BLD.dtype).expand(len(tokens_BLD), dropped, -1)
            tokens_BLD = gather_tokens(torch.cat([tokens_BLD, fill], dim=1), encoded.ids_restore_BL)
        tokens_BLD = tokens_BLD + sincos_positions(*grid, self.dim, tokens_BLD.device)
        tokens = torch.cat([cls_B1D.to(tokens_BLD.dtype), tokens_BLD], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens_BLD = self.norm(tokens)[:, 1:]
        return self.video_head(tokens_BLD), self.audio_head(tokens_BLD)


def standardised(patches_BLP: Tensor) -> Tensor:
    """Each patch by its own mean and spread: the targets of `norm_pix` (arXiv 2111.06377)."""
    variance, mean = torch.var_mean(patches_BLP, dim=2, correction=0, keepdim=True)
    return (patches_BLP - mean) / (variance + NORM_PIX_EPS).sqrt()


def masked_mse(prediction_BLP: Tensor, target_BLP: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean over the masked patches of each one's mean squared error; in float32."""
    error_BL = (prediction_BLP.float() - target_BLP.float()).square().mean(dim=2)
    return (error_BL * mask_BL).sum() / mask_BL.sum()


def _mix_patches(video_BLP: Tensor, audio_BLP: Tensor, share_BLp: Tensor) -> Tensor:
    """The mixer's formula on patches, which are needed anyway as targets: (1 - share) * video + share * audio."""
    share = share_BLp.to(video_BLP.dtype).unsqueeze(2)
    video, audio = (torch.unflatten(patches, 2, (CHANNELS, -1)) for patches in (video_BLP, audio_BLP))
    return torch.lerp(video, audio, share).flatten(2)
