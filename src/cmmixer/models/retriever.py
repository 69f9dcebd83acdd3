"""The retriever: two towers that embed the frames and the sound of a clip close together on the unit sphere.

    tokens = encoder(strip);  feature = mean of tokens;  embedding = unit(project(normalize(feature)))

Normalizing each feature over the batch before the projection is decisive at small scale. Without it all features share one
large component, which hides everything else from the contrastive loss.

Letters: B clips, T frames, C channels, H x W pixels, L tokens, N visible ones, D width, E = embed_dim.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from cmmixer.config.clip import ClipSettings, ModelSettings
from cmmixer.models.frontend import FrontEnd
from cmmixer.models.heads import Head, fit_cca, tower_features
from cmmixer.models.patches import strip_grid
from cmmixer.models.vit import StripEncoder
from cmmixer.types import Statistics

# The logit scale is at most 100 (CLIP, arXiv 2103.00020, 2.5).
MAX_LOGIT_SCALE = math.log(100.0)


class Embedding(NamedTuple):
    """The embeddings of one modality of B clips.

    Attributes:
        clip_BE: float32, unit length; ranks clips.
        frames_BTE: float32, unit length, one per frame; locates a match within a clip.
    """

    clip_BE: Tensor
    frames_BTE: Tensor


class Pairs(NamedTuple):
    """Both modalities of B clips, and the factor of their cosines (1 / temperature), a scalar."""

    video: Embedding
    audio: Embedding
    logit_scale: Tensor


class Retriever(nn.Module):
    """Embeds the frames and the sound of clips. In evaluation mode an embedding does not depend on the batch.

    Args:
        model, clip, statistics: sizes of the towers, of their inputs, and how inputs are normalized.
        embed_dim: E.
        shared_tower: one encoder for both modalities, each with its own head.
        temperature: its inverse is the initial logit scale.
        interleave: whether the columns of the frames alternate in the strip; see `patches.to_strip`.
        frame_level: encode each frame by itself; see `heads.tower_features`.

    Raises:
        SettingsError: the frames are not a whole number of patches.
    """

    def __init__(
        self,
        model: ModelSettings,
        clip: ClipSettings,
        statistics: Statistics,
        *,
        embed_dim: int = 256,
        shared_tower: bool = False,
        temperature: float = 0.07,
        interleave: bool = False,
        frame_level: bool = False,
    ) -> None:
        super().__init__()
        strip_grid(clip.height, clip.width, clip.frames, model.patch)  # refuses frames that do not fit the patches
        self.patch, self.interleave, self.shared_tower = model.patch, interleave, shared_tower
        self.frame_level = frame_level
        self.frontend = FrontEnd(clip, statistics)
        names = ("shared",) if shared_tower else ("video", "audio")
        self.encoders = nn.ModuleDict({name: StripEncoder(model) for name in names})
        self.heads = nn.ModuleDict({modality: Head(model.dim, embed_dim) for modality in ("video", "audio")})
        # The logarithm is learnt, so that steps are relative.
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(
        self,
        video_BTCHW: Tensor,
        audio_BTCHW: Tensor,
        *,
        mask_ratio: float = 0.0,
        noise: tuple[Tensor, Tensor] | None = None,
        generator: Generator | None = None,
    ) -> Pairs:
        """Embeds pairs for training.

        Args:
            video_BTCHW, audio_BTCHW: normalized frames and mel spectrograms.
            mask_ratio: fraction of the tokens to drop; 0 in evaluation.
            noise: for `mask_ratio` above 0, one [B, L] for video and one for audio; the tokens with the least noise stay.
            generator: draws the noise if it is not given.

        Raises:
            ValueError: the frames are not a whole number of patches, or `mask_ratio` without noise and generator.
        """
        if self.training and self.logit_scale.requires_grad:
            # Not a clamp in the graph: beyond the limit its gradient is 0, and the scale could never return.
            with torch.no_grad():
                self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        if mask_ratio > 0.0 and noise is None:
            noise = self._draw_noise(video_BTCHW, generator), self._draw_noise(audio_BTCHW, generator)
        video_noise, audio_noise = (None, None) if noise is None else noise
        video = self._embed("video", video_BTCHW, mask_ratio, video_noise)
        audio = self._embed("audio", audio_BTCHW, mask_ratio, audio_noise)
        excess = (self.logit_scale.detach() - MAX_LOGIT_SCALE).clamp(min=0.0)
        return Pairs(video, audio, (self.logit_scale - excess).exp())

    @torch.no_grad()
    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        """Embeds uint8 frames [B, T, 3, H, W]; call it in evaluation mode."""
        return self._embed("video", self.frontend.video(pixels_BTCHW))

    @torch.no_grad()
    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        """Embeds int16 audio windows [B, T, N]; call it in evaluation mode."""
        return self._embed("audio", self.frontend.audio(windows_BTN))

    def tower(self, modality: str) -> StripEncoder:
        """Returns the encoder of "video" or "audio"; a shared tower is the same for both."""
        encoder = self.encoders["shared" if self.shared_tower else modality]
        assert isinstance(encoder, StripEncoder)
        return encoder

    def features(self, modality: str, frames_BTCHW: Tensor) -> Tensor:
        """Returns the features of normalized clips before the head, [B, D]; modality "video" or "audio"."""
        clip_BD, _ = self._features(modality, frames_BTCHW)
        return clip_BD

    def initialize_heads(self, video_ND: Tensor, audio_ND: Tensor) -> None:
        """Initializes both heads with the canonical correlations of these pairs of features; see `models.heads`."""
        maps = fit_cca(video_ND, audio_ND)
        for modality, rows_KD, features_ND in (("video", maps.video_KD, video_ND), ("audio", maps.audio_KD, audio_ND)):
            head = self.heads[modality]
            assert isinstance(head, Head)
            head.initialize_from_cca(rows_KD, maps.correlations_K, features_ND)

    def load_pretrained_encoder(self, weights: dict[str, Tensor]) -> None:
        """Copies the encoder of a pre-trained autoencoder into all towers.

        Args:
            weights: state dict of the autoencoder, or of its encoder alone.

        Raises:
            RuntimeError: a tensor is missing or has another shape.
        """
        prefix = "encoder."
        encoder_weights = {
            name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)
        }
        for encoder in self.encoders.values():
            encoder.load_state_dict(encoder_weights or weights, strict=True)

    def _draw_noise(self, frames_BTCHW: Tensor, generator: Generator | None) -> Tensor:
        if generator is None:
            raise ValueError("mask_ratio above 0 needs noise or a generator")
        batch, frames, _, height, width = frames_BTCHW.shape
        tokens = strip_grid(height, width, frames, self.patch).tokens
        return torch.rand(batch, tokens, generator=generator, device=generator.device).to(frames_BTCHW.device)

    def _embed(
        self, modality: str, frames_BTCHW: Tensor, mask_ratio: float = 0.0, noise: Tensor | None = None
    ) -> Embedding:
        return Embedding(*self.heads[modality](*self._features(modality, frames_BTCHW, mask_ratio, noise)))

    def _features(
        self, modality: str, frames_BTCHW: Tensor, mask_ratio: float = 0.0, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return tower_features(
            self.tower(modality),
            frames_BTCHW,
            self.patch,
            self.interleave,
            frame_level=self.frame_level,
            mask_ratio=mask_ratio,
            noise=noise,
        )
