"""The masked autoencoder of mixed strips: fuse, then separate (arXiv 2308.13820; masking: MAE, arXiv 2111.06377).

    mixed = (1 - mixing_mask) * video + mixing_mask * audio
    tokens = encoder(visible patches of mixed)
    video patches, audio patches = decoder(tokens + mask tokens)
    loss = video_weight * MSE(video) + audio_weight * MSE(audio), over the masked patches only

Letters: B clips, T frames, C channels, H x W pixels, L tokens, N visible ones, P = p * p * C numbers of a patch, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cmmixer.config.clip import ClipSettings, ModelSettings
from cmmixer.models.mixer import blend
from cmmixer.models.onednn import Linear
from cmmixer.models.patches import Grid, gather_tokens, patchify, strip_grid
from cmmixer.models.vit import NORM_EPS, Block, Encoded, StripEncoder, initialize, sincos_positions

CHANNELS = 3
# Added to the variance of a patch, so that a flat patch does not divide by zero.
NORM_PIX_EPS = 1e-6


class MAEOutput(NamedTuple):
    """The result of a forward pass.

    Attributes:
        loss: scalar, the weighted sum.
        loss_video, loss_audio: scalars, the mean squared error of each modality on the masked patches.
        prediction_video, prediction_audio: [B, L, P]; with `norm_pix`, of normalized patches.
        mask: [B, L] float32, 1 where the patch was hidden from the encoder.
    """

    loss: Tensor
    loss_video: Tensor
    loss_audio: Tensor
    prediction_video: Tensor
    prediction_audio: Tensor
    mask: Tensor


class MaskedAutoencoder(nn.Module):
    """Reconstructs the clean video strip and the clean audio strip from the visible patches of their mix.

    Args:
        model, clip: sizes of the network and of its inputs.
        norm_pix: predict each patch normalized by its own mean and standard deviation.
        video_weight, audio_weight: of the two losses.
        interleave: whether the columns of the frames alternate in the strip; see `patches.to_strip`.

    Raises:
        SettingsError: the frames are not a whole number of patches.
    """

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
        strip_grid(clip.height, clip.width, clip.frames, model.patch)  # refuses frames that do not fit the patches
        self.patch, self.interleave, self.norm_pix = model.patch, interleave, norm_pix
        self.video_weight, self.audio_weight = video_weight, audio_weight
        self.encoder = StripEncoder(model, CHANNELS)
        self.decoder = Decoder(model)

    def forward(
        self,
        video_BTCHW: Tensor,
        audio_BTCHW: Tensor,
        mixing_mask_BT1HW: Tensor,
        *,
        mask_ratio: float,
        noise_BL: Tensor | None = None,
    ) -> MAEOutput:
        """Mixes, masks, reconstructs, and computes the losses.

        Args:
            video_BTCHW, audio_BTCHW: normalized frames and mel spectrograms; T may differ from that of `clip`.
            mixing_mask_BT1HW: the share of the audio in each pixel.
            mask_ratio: fraction of the patches hidden from the encoder. With 0 the losses count every patch.
            noise_BL: the patches with the least noise stay visible. Required if `mask_ratio` is above 0.

        Raises:
            ValueError: the frames are not a whole number of patches, or noise is missing.
        """
        _, frames, _, height, width = video_BTCHW.shape
        grid = strip_grid(height, width, frames, self.patch)
        video_BLP, audio_BLP = self.patchify(video_BTCHW), self.patchify(audio_BTCHW)
        mixed_BLP = _blend_patches(video_BLP, audio_BLP, self.patchify(mixing_mask_BT1HW))
        encoded = self.forward_encoder(mixed_BLP, grid, mask_ratio, noise_BL)
        prediction_video, prediction_audio = self.forward_decoder(encoded, grid)  # [B, L, P] each
        return self.forward_loss(video_BLP, audio_BLP, prediction_video, prediction_audio, encoded.mask_BL)

    def forward_encoder(self, mixed_BLP: Tensor, grid: Grid, mask_ratio: float, noise_BL: Tensor | None) -> Encoded:
        """Encodes the visible patches: [B, L, P] -> [B, 1 + N, D]."""
        return self.encoder.encode(mixed_BLP, grid, mask_ratio=mask_ratio, noise=noise_BL)

    def forward_decoder(self, encoded: Encoded, grid: Grid) -> tuple[Tensor, Tensor]:
        """Predicts all video patches and all audio patches: [B, 1 + N, D] -> [B, L, P] each."""
        prediction_video, prediction_audio = self.decoder(encoded, grid)
        return prediction_video, prediction_audio

    def forward_loss(
        self,
        video_BLP: Tensor,
        audio_BLP: Tensor,
        prediction_video: Tensor,
        prediction_audio: Tensor,
        mask_BL: Tensor | None,
    ) -> MAEOutput:
        """Compares the predictions with the clean patches, on the masked ones; without a mask on all of them."""
        if mask_BL is None:
            mask_BL = torch.ones(video_BLP.shape[:2], device=video_BLP.device)
        loss_video = masked_mse(prediction_video, self.target(video_BLP), mask_BL)
        loss_audio = masked_mse(prediction_audio, self.target(audio_BLP), mask_BL)
        loss = self.video_weight * loss_video + self.audio_weight * loss_audio
        return MAEOutput(loss, loss_video, loss_audio, prediction_video, prediction_audio, mask_BL)

    def patchify(self, frames_BTCHW: Tensor) -> Tensor:
        """Cuts the strip of the frames into patches: [B, T, C, H, W] -> [B, L, P]."""
        return patchify(frames_BTCHW, self.patch, self.interleave)

    def target(self, patches_BLP: Tensor) -> Tensor:
        """Returns what the decoder should predict: the patches, with `norm_pix` normalized one by one."""
        return normalize_patches(patches_BLP) if self.norm_pix else patches_BLP


class Decoder(nn.Module):
    """A narrow ViT over all positions, with one linear head per modality to separate what the encoder fused."""

    def __init__(self, model: ModelSettings) -> None:
        super().__init__()
        self.dim = model.decoder_dim
        self.embed = Linear(model.dim, self.dim)
        self.mask_token = nn.Parameter(torch.empty(self.dim))
        self.blocks = nn.ModuleList(Block(self.dim, model.decoder_heads) for _ in range(model.decoder_depth))
        self.norm = nn.LayerNorm(self.dim, eps=NORM_EPS)
        self.video_head = Linear(self.dim, model.patch**2 * CHANNELS)
        self.audio_head = Linear(self.dim, model.patch**2 * CHANNELS)
        self.apply(initialize)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, encoded: Encoded, grid: Grid) -> tuple[Tensor, Tensor]:
        """Decodes the encoder's tokens to video patches and audio patches, [B, L, P] each."""
        tokens_BND = self.embed(encoded.tokens_BND)
        cls_B1D, tokens_BLD = tokens_BND[:, :1], tokens_BND[:, 1:]
        if encoded.ids_restore_BL is not None:
            dropped = grid.tokens - tokens_BLD.shape[1]
            fill = self.mask_token.to(tokens_BLD.dtype).expand(len(tokens_BLD), dropped, -1)
            tokens_BLD = gather_tokens(torch.cat([tokens_BLD, fill], dim=1), encoded.ids_restore_BL)
        tokens_BLD = tokens_BLD + sincos_positions(*grid, self.dim, tokens_BLD.device)
        tokens = torch.cat([cls_B1D.to(tokens_BLD.dtype), tokens_BLD], dim=1)  # [B, 1 + L, D]
        for block in self.blocks:
            tokens = block(tokens)
        tokens_BLD = self.norm(tokens)[:, 1:]
        return self.video_head(tokens_BLD), self.audio_head(tokens_BLD)


def normalize_patches(patches_BLP: Tensor) -> Tensor:
    """Normalizes each patch by its own mean and standard deviation: the targets of `norm_pix` (arXiv 2111.06377)."""
    variance, mean = torch.var_mean(patches_BLP, dim=2, correction=0, keepdim=True)
    return (patches_BLP - mean) / (variance + NORM_PIX_EPS).sqrt()


def masked_mse(prediction_BLP: Tensor, target_BLP: Tensor, mask_BL: Tensor) -> Tensor:
    """Averages the mean squared errors of the masked patches, in float32."""
    error_BL = (prediction_BLP.float() - target_BLP.float()).square().mean(dim=2)
    return (error_BL * mask_BL).sum() / mask_BL.sum()


def _blend_patches(video_BLP: Tensor, audio_BLP: Tensor, mixing_mask_BLp: Tensor) -> Tensor:
    """Mixes patches instead of frames, as the clean patches are needed anyway; the mask has one channel of p * p numbers."""
    video, audio = (torch.unflatten(patches, 2, (CHANNELS, -1)) for patches in (video_BLP, audio_BLP))
    return blend(video, audio, mixing_mask_BLp.unsqueeze(2)).flatten(2)
